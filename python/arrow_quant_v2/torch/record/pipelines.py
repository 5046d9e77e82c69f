"""Calibration tapes of diffusers pipelines: their sampler runs, and the denoiser is overheard."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from arrow_quant_v2.calibration.model_kind import CannotRunError
from arrow_quant_v2.config.settings import CALIBRATION
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.torch.layers.clock import TIME_ARGUMENTS
from arrow_quant_v2.torch.record.samples import Samples
from arrow_quant_v2.torch.record.trajectory import Batch, batches_of, is_held_out, rows_of
from arrow_quant_v2.torch.record.user_samples import clean_latents

__all__ = ["pipeline_tape"]

#: Arguments of denoisers that carry the noisy sample.
_SAMPLE_NAMES = ("sample", "hidden_states", "x")
#: What the largest batch of latents has, so that activations stay small.
_BATCH_ELEMENTS = 1 << 16
_LARGEST_BATCH = 32
_UNKNOWN_SIZE_BATCH = 4
_IMAGENET_CLASSES = 1000

#: Prompts for pipelines that want text when the user has none: common things, plainly said.
NEUTRAL_PROMPTS = (
    "a photograph of a dog in a park",
    "a bowl of fruit on a wooden table",
    "a city street at night in the rain",
    "a portrait of an old woman",
    "mountains and a lake, morning light",
    "a red car in front of a house",
    "a drawing of a sailing ship",
    "people at a market",
    "a close-up of a flower",
    "an empty room with a large window",
    "a bird on a branch",
    "a bridge over a river, oil painting",
    "a cup of coffee beside a book",
    "a child playing on the beach",
    "an astronaut on a horse",
    "a forest in autumn",
)


class _TapeFullError(Exception):
    """Everything wanted of this run of the sampler is on the tape."""


def pipeline_tape(
    pipeline: Any,
    component: str,
    data: Samples,
    *,
    samples: int,
    seed: int,
    progress: Callable[[float], None],
) -> list[Batch]:
    """Let a pipeline make `samples` samples and record a part of each trajectory.

    Every trajectory contributes one step of each of several equal parts of the schedule, chosen by
    the seed. With clean samples (arrays or images) the recorded states are those samples with as
    much noise as the schedule has at that step.

    Raises
    ------
    CannotRunError
        The pipeline needs arguments that neither the data nor a default supplies.
    """
    denoiser = getattr(pipeline, component)
    pipeline.set_progress_bar_config(disable=True)
    clean = clean_latents(pipeline, denoiser, data)
    size = min(_batch_size(denoiser), samples)
    tape: list[Batch] = []
    for numbers in batches_of(samples, size):
        arguments = _arguments(pipeline, denoiser, data, numbers, seed)
        recorder = _Recorder(pipeline, denoiser, clean, numbers, seed, samples, progress)
        with recorder.listening(), contextlib.suppress(_TapeFullError), _seeded(seed + numbers[0]):
            pipeline(**arguments)
        tape += recorder.batches
    if not tape:
        raise CannotRunError(f"the pipeline never ran its component '{component}'")
    return tape


def _batch_size(denoiser: Any) -> int:
    config = denoiser.config
    size = config.get("sample_size")
    if size is None:
        return _UNKNOWN_SIZE_BATCH
    dimensions = 1 if "1D" in type(denoiser).__name__ else 2
    sides = [size] * dimensions if isinstance(size, int) else list(size)
    elements = config.get("in_channels", 1) * math.prod(sides)
    return int(max(1, min(_LARGEST_BATCH, _BATCH_ELEMENTS // elements)))


def _arguments(
    pipeline: Any, denoiser: Any, data: Samples, numbers: range, seed: int
) -> dict[str, Any]:
    """Arguments for one run of the pipeline that makes the samples of these numbers."""
    known = inspect.signature(type(pipeline).__call__).parameters
    generator = torch.Generator().manual_seed(seed + numbers[0])
    given: dict[str, Any] = {"generator": generator, "num_inference_steps": _steps(pipeline)}
    if "prompt" in known:
        texts = data.texts or NEUTRAL_PROMPTS
        given["prompt"] = [texts[i % len(texts)] for i in numbers]
        given["output_type"] = "latent"
    elif "class_labels" in known:
        given["class_labels"] = _labels(denoiser, data, numbers, generator)
        if _classes(denoiser) != _IMAGENET_CLASSES:
            given["guidance_scale"] = 1.0  # DiTPipeline takes class 1000 for none
    elif "batch_size" in known:
        given["batch_size"] = len(numbers)
    if data.texts and "prompt" not in known:
        raise ConfigurationError(f"calibration_data: {type(pipeline).__name__} takes no prompts")
    if data.labels and "class_labels" not in known:
        raise ConfigurationError(f"calibration_data: {type(pipeline).__name__} takes no labels")
    missing = [
        name
        for name, parameter in list(known.items())[1:]
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and name not in given
    ]
    if missing:
        raise CannotRunError(
            f"{type(pipeline).__name__} needs {', '.join(missing)}; give calibration_data as a "
            "callable that makes batches"
        )
    return {name: value for name, value in given.items() if name in known}


def _steps(pipeline: Any) -> int:
    most = pipeline.scheduler.config.get("num_train_timesteps", CALIBRATION.sampler_steps)
    return min(CALIBRATION.sampler_steps, int(most))


def _classes(denoiser: Any) -> int:
    config = denoiser.config
    classes = config.get("num_embeds_ada_norm") or config.get("num_class_embeds")
    if not classes:
        raise CannotRunError("the denoiser does not say how many classes it knows")
    return int(classes)


def _labels(denoiser: Any, data: Samples, numbers: range, generator: torch.Generator) -> list[int]:
    classes = _classes(denoiser)
    if data.labels:
        wrong = [label for label in data.labels if not 0 <= label < classes]
        if wrong:
            raise ConfigurationError(
                f"calibration_data: expected class labels from 0 to {classes - 1}, found {wrong[0]}"
            )
        return [data.labels[i % len(data.labels)] for i in numbers]
    drawn = torch.randint(0, classes, (len(numbers),), generator=generator)
    return [int(label) for label in drawn]


class _Recorder:
    """Copies what the denoiser is given at the chosen steps of some trajectories."""

    def __init__(
        self,
        pipeline: Any,
        denoiser: nn.Module,
        clean: Tensor | None,
        numbers: range,
        seed: int,
        samples: int,
        progress: Callable[[float], None],
    ) -> None:
        self.batches: list[Batch] = []
        self._pipeline = pipeline
        self._denoiser = denoiser
        self._clean = clean
        self._numbers = torch.tensor(numbers)
        self._generator = torch.Generator().manual_seed(seed + numbers[0])
        self._samples = samples
        self._progress = progress
        self._signature = inspect.signature(denoiser.forward)
        self._time_name = self._name(TIME_ARGUMENTS)
        self._sample_name = self._name(_SAMPLE_NAMES)
        self._step = -1
        self._last_time: float | None = None
        self._wanted = torch.zeros(0, 0, dtype=torch.bool)

    def _name(self, candidates: tuple[str, ...]) -> str:
        for name in candidates:
            if name in self._signature.parameters:
                return name
        raise CannotRunError(
            f"{type(self._denoiser).__name__} has none of the arguments {', '.join(candidates)}"
        )

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Record the calls of the denoiser; latents are not decoded."""
        handle = self._denoiser.register_forward_pre_hook(self._hear, with_kwargs=True)
        vae = getattr(self._pipeline, "vae", None)
        if vae is not None:
            vae.decode = _stop
        try:
            yield
        finally:
            handle.remove()
            if vae is not None:
                del vae.decode

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = self._signature.bind(*args, **kwargs).arguments
        time = torch.as_tensor(given[self._time_name]).detach().double().reshape(-1)
        if self._step < 0:
            self._choose_steps()
        if float(time[0]) != self._last_time:
            self._step += 1
            self._last_time = float(time[0])
            done = self._step / self._wanted.shape[1] * len(self._numbers)
            self._progress(min((int(self._numbers[0]) + done) / self._samples, 1.0))
        if self._step >= self._wanted.shape[1]:
            raise _TapeFullError
        self._record(given, time)

    def _choose_steps(self) -> None:
        """For each trajectory one step in each of several equal parts of the schedule."""
        timesteps = getattr(self._pipeline.scheduler, "timesteps", None)
        steps = len(timesteps) if timesteps is not None else _steps(self._pipeline)
        parts = min(CALIBRATION.steps_per_trajectory, steps)
        edges = torch.linspace(0, steps, parts + 1, dtype=torch.float64)
        self._wanted = torch.zeros(len(self._numbers), steps, dtype=torch.bool)
        for low, high in itertools.pairwise(edges):
            draw = torch.rand(len(self._numbers), generator=self._generator, dtype=torch.float64)
            chosen = (low + draw * (high - low)).long().clamp(max=steps - 1)
            self._wanted[torch.arange(len(self._numbers)), chosen] = True

    def _record(self, given: dict[str, Any], time: Tensor) -> None:
        sample = given[self._sample_name]
        count = len(sample)
        # Guidance stacks the batch: row r belongs to trajectory r modulo their number.
        trajectory = torch.arange(count) % len(self._numbers)
        rows = torch.nonzero(self._wanted[trajectory, self._step])[:, 0]
        if not len(rows):
            return
        kept = {name: rows_of(value, rows, count) for name, value in self._flat(given).items()}
        if self._clean is not None:
            kept[self._sample_name] = self._noised(trajectory[rows], kept[self._sample_name])
        self.batches.append(
            Batch(
                kwargs=kept,
                timestep=time[rows] if len(time) == count else float(time[0]),
                held_out=is_held_out(self._numbers[trajectory[rows]]),
            )
        )

    def _flat(self, given: dict[str, Any]) -> dict[str, Any]:
        """Arguments by name; those beyond the named ones join them."""
        flat: dict[str, Any] = {}
        for name, value in given.items():
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                flat.update(value)
            elif kind is not inspect.Parameter.VAR_POSITIONAL:
                flat[name] = value
        return flat

    def _noised(self, trajectories: Tensor, like: Tensor) -> Tensor:
        """Clean samples with the noise of the present step."""
        assert self._clean is not None
        clean = self._clean[self._numbers[trajectories] % len(self._clean)]
        if clean.shape != like.shape:
            raise ConfigurationError(
                f"calibration_data: the samples have shape {list(clean.shape[1:])}, and the "
                f"denoiser takes {list(like.shape[1:])}"
            )
        scheduler = self._pipeline.scheduler
        time = scheduler.timesteps[self._step].reshape(1)
        noise = torch.randn(clean.shape, generator=self._generator)
        if hasattr(scheduler, "scale_noise"):
            noisy = scheduler.scale_noise(clean, time, noise)
        else:
            noisy = scheduler.add_noise(clean, noise, time.expand(len(clean)))
            noisy = scheduler.scale_model_input(noisy, time[0])
        return noisy.to(like.dtype)


def _stop(*args: Any, **kwargs: Any) -> Any:
    raise _TapeFullError


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Samplers draw the same from torch's own generator every time; old ones are quiet."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield
