"""Calibration tapes of diffusers pipelines: their sampler runs, and the denoisers are overheard."""

from __future__ import annotations

import contextlib
import itertools
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from arrow_quant_v2.calibration.model_kind import CannotRunError
from arrow_quant_v2.errors import ArrowQuantError, ConfigurationError
from arrow_quant_v2.torch.record.neutral_inputs import Inputs, Request, arguments, takes_images
from arrow_quant_v2.torch.record.recorder import (
    Counted,
    Counter,
    Recorder,
    RunEndedError,
    listening,
    schedulers_of,
)
from arrow_quant_v2.torch.record.samples import Samples
from arrow_quant_v2.torch.record.sampling import Sampling, geometry_of
from arrow_quant_v2.torch.record.trajectory import Batch, PerSample, batches_of
from arrow_quant_v2.torch.record.user_samples import clean_latents, size_of_latents

__all__ = ["pipeline_tape", "pipeline_tapes"]

#: What the largest batch of latents has, so that activations stay small.
_BATCH_ELEMENTS = 1 << 16
_LARGEST_BATCH = 32

#: What a pipeline is given, in the order in which it is tried: a pipeline that needs more than its
#: signature says, or that cannot make another size than its own, says so by an error.
_ATTEMPTS = tuple(
    Inputs(optional, multiple)
    for multiple, optional in itertools.product((1, 64, None), (False, True))
)


def pipeline_tape(
    pipeline: Any,
    component: str,
    data: Samples,
    *,
    samples: int,
    seed: int,
    progress: Callable[[float], None],
    sampling: Sampling | None = None,
) -> list[Batch]:
    """:func:`pipeline_tapes` of one component.

    Raises
    ------
    CannotRunError
        The pipeline needs arguments that neither the data nor a default supplies, or it never runs
        the component.
    """
    tapes = pipeline_tapes(
        pipeline,
        (component,),
        data,
        samples=samples,
        seed=seed,
        progress=progress,
        sampling=sampling or Sampling(),
    )
    return tapes[component]


def pipeline_tapes(
    pipeline: Any,
    components: Sequence[str],
    data: Samples,
    *,
    samples: int,
    seed: int,
    progress: Callable[[float], None],
    sampling: Sampling,
) -> dict[str, list[Batch]]:
    """Let a pipeline make `samples` samples and record a part of each trajectory.

    Every trajectory contributes one step of each of several equal parts of the schedule, chosen by
    the seed; where denoisers share a schedule, of each one's own part of it. With clean samples
    (arrays or images) the recorded states are those samples with as much noise as the schedule has
    at that step.

    Returns
    -------
    dict
        The tape of each component that runs.

    Raises
    ------
    CannotRunError
        The pipeline needs arguments that neither the data nor a default supplies, or it runs none
        of the components.
    """
    pipeline.set_progress_bar_config(disable=True)
    run = _Run(pipeline, components, data, samples, seed, sampling)
    return run.tapes(progress)


class _Run:
    """The samples of a pipeline: counted once, then recorded batch by batch."""

    def __init__(
        self,
        pipeline: Any,
        components: Sequence[str],
        data: Samples,
        samples: int,
        seed: int,
        sampling: Sampling,
    ) -> None:
        self._pipeline = pipeline
        self._denoisers = {name: getattr(pipeline, name) for name in components}
        self._first = self._denoisers[components[0]]
        self._data = data
        self._samples = samples
        self._seed = seed
        self._sampling = sampling
        if sampling.size is None:
            sampling = replace(sampling, size=size_of_latents(pipeline, self._first, data))
        self._geometry = geometry_of(pipeline, self._first, sampling)
        self._clean: Tensor | None = None
        if not takes_images(pipeline):
            self._clean = clean_latents(pipeline, self._first, data, self._geometry)
        self._shared: dict[tuple[str, str], list[Any]] = {}

    def tapes(self, progress: Callable[[float], None]) -> dict[str, list[Batch]]:
        """The tape of each component that runs."""
        inputs, counted = self._count()
        size = min(self._batch_size(), self._samples)
        try:
            return self._record(inputs, counted, size, progress)
        except CannotRunError:
            raise
        except Exception:
            # Pipelines that start from a picture often take one at a time.
            if size == 1 or self._clean is not None:
                raise
            self._shared.clear()
            return self._record(inputs, counted, 1, progress)

    def _count(self) -> tuple[Inputs, dict[str, Counted]]:
        """The first inputs that the pipeline runs on, and the calls of a run of one sample."""
        failures: list[Exception] = []
        tried: list[Any] = []
        for inputs in _ATTEMPTS:
            if inputs.multiple != 1 and not any(map(_is_about_size, failures)):
                continue  # a pipeline's own size may be far larger
            try:
                given = self._arguments(inputs, range(1))
                form = (given.keys(), inputs.multiple)
                if form in tried:
                    continue
                tried.append(form)
                counter = Counter(self._denoisers)
                self._run(given, counter, self._seed)
            except ConfigurationError:
                raise
            except Exception as error:
                failures.append(error)
            else:
                counted = counter.counted()
                if counted:
                    return inputs, counted
        if failures:
            raise failures[0]
        names = "' and '".join(self._denoisers)
        raise CannotRunError(f"the pipeline never ran its component '{names}'")

    def _record(
        self,
        inputs: Inputs,
        counted: Mapping[str, Counted],
        size: int,
        progress: Callable[[float], None],
    ) -> dict[str, list[Batch]]:
        tapes: dict[str, list[Batch]] = {name: [] for name in counted}
        for numbers in batches_of(self._samples, size):
            seed = self._seed + numbers[0]
            generators = {name: torch.Generator().manual_seed(seed) for name in counted}

            def report(part: float, numbers: range = numbers) -> None:
                progress(min((numbers[0] + part * len(numbers)) / self._samples, 1.0))

            recorder = Recorder(
                self._denoisers,
                counted,
                numbers,
                self._noise(numbers, generators) if self._clean is not None else None,
                generators,
                report,
                self._shared,
            )
            self._run(self._arguments(inputs, numbers), recorder, seed)
            for name, batches in recorder.batches.items():
                tapes[name] += batches
        return tapes

    def _run(self, given: Mapping[str, Any], listener: Counter | Recorder, seed: int) -> None:
        with (
            listening(self._pipeline, self._denoisers, listener),
            _within_area(self._pipeline, self._geometry.height * self._geometry.width),
            contextlib.suppress(RunEndedError),
            _seeded(seed),
        ):
            try:
                self._pipeline(**given)
            except (RunEndedError, ArrowQuantError):
                raise
            except Exception:
                # What comes after the last step, decoding for one, does not matter here.
                if not (isinstance(listener, Counter) and listener.ended):
                    raise

    def _arguments(self, inputs: Inputs, numbers: range) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self._seed + numbers[0])
        request = Request(
            self._pipeline,
            self._first,
            self._data,
            numbers,
            self._seed,
            self._geometry.rounded(inputs.multiple or 1),
            self._sampling,
            generator,
        )
        return arguments(request, inputs)

    def _batch_size(self) -> int:
        channels = self._first.config.get("in_channels") or 1
        if isinstance(channels, list | tuple):
            channels = channels[0]
        elements = channels * self._geometry.latents
        return int(max(1, min(_LARGEST_BATCH, _BATCH_ELEMENTS // elements)))

    def _noise(
        self, numbers: range, generators: Mapping[str, torch.Generator]
    ) -> Callable[[str, Tensor, Any, Any], Any]:
        """What makes noisy samples of the clean ones of these trajectories."""
        assert self._clean is not None
        clean, of = self._clean, torch.tensor(numbers)

        def noised(name: str, trajectories: Tensor, like: Any, time: Any) -> Any:
            chosen = clean[of[trajectories] % len(clean)]
            if isinstance(like, PerSample):
                noisy = self._noisy(chosen, torch.stack(like), time, generators[name])
                return PerSample(noisy.unbind())
            return self._noisy(chosen, like, time, generators[name])

        return noised

    def _noisy(self, clean: Tensor, like: Tensor, time: Any, generator: torch.Generator) -> Tensor:
        """Clean samples with the noise of the present step, as the scheduler makes it."""
        if clean.shape != like.shape:
            raise ConfigurationError(
                f"calibration_data: the samples have shape {list(clean.shape[1:])}, and the "
                f"denoiser takes {list(like.shape[1:])}"
            )
        scheduler = getattr(self._pipeline, "scheduler", None) or schedulers_of(self._pipeline)[0]
        at = torch.as_tensor(time).reshape(1)
        noise = torch.randn(clean.shape, generator=generator)
        if hasattr(scheduler, "scale_noise"):
            noisy = scheduler.scale_noise(clean, at, noise)
        else:
            noisy = scheduler.add_noise(clean, noise, at.expand(len(clean)))
            noisy = scheduler.scale_model_input(noisy, at[0])
        return noisy.to(like.dtype)


def _is_about_size(error: Exception) -> bool:
    words = ("height", "width", "resolution", "divisible", "frames", "sample_size")
    return any(word in str(error) for word in words)


@contextlib.contextmanager
def _within_area(pipeline: Any, area: int) -> Iterator[None]:
    """Pipelines that edit pictures bring these to a fixed area of a megapixel: to this, here."""
    module = sys.modules[type(pipeline).__module__]
    own = getattr(module, "calculate_dimensions", None)
    if own is None or not area:
        yield
        return

    def smaller(target: int, ratio: float) -> Any:
        return own(min(target, area), ratio)

    module.calculate_dimensions = smaller  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.calculate_dimensions = own  # type: ignore[attr-defined]


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Samplers draw the same from torch's own generator every time; old ones are quiet."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield
