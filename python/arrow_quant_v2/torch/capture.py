"""Statistics of a model directory: load it with its own library, run it, watch it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from arrow_quant_v2._engine import ProgressCallback, StrPath, checked_config
from arrow_quant_v2._runnable import CannotRunError, how_to_run, read_json
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ArrowQuantError, ConfigurationError, QuantizationError
from arrow_quant_v2.plan import ModelPlan, plan_model
from arrow_quant_v2.torch.calibrate import CalibrationRun, run_tape
from arrow_quant_v2.torch.observe import evaluating
from arrow_quant_v2.torch.samples import Samples, read_samples
from arrow_quant_v2.torch.tape import Batch, as_batches

__all__ = ["CannotRunError", "capture", "record_tape"]

#: Part of the progress that recording the tape takes; the rest is watching the layers.
_RECORDING = 0.6


@dataclass(frozen=True)
class _Model:
    """A loaded network, and what makes its tape."""

    component: str
    network: nn.Module
    record: Callable[[Samples, Callable[[float], None]], list[Batch]]


def capture(
    model_path: StrPath,
    stats_path: StrPath,
    config: DiffusionQuantConfig | None = None,
    *,
    calibration_data: Any = None,
    seed: int = 0,
    overwrite: bool = False,
    progress_callback: ProgressCallback | None = None,
) -> CalibrationRun:
    """Run a model on samples and write statistics of its layers' inputs to a file.

    Parameters
    ----------
    model_path
        A diffusers pipeline, its denoiser's directory inside it, or a transformers directory of a
        masked language model.
    stats_path
        The file to write.
    config
        Its ``calibration_samples`` are made; what the plan would quantize is observed.
    calibration_data
        Prompts or texts, class labels, arrays of clean samples, batches ``(args, kwargs,
        timestep)``, a callable that gets the network and makes such batches, or the path of a .txt,
        .jsonl or .npy file or of a folder of images or .wav files; None: samples that the model
        makes itself from neutral inputs.
    seed
        Of noise, labels, masks, and the choice of steps and tokens.
    overwrite
        Replace an existing file.
    progress_callback
        Called with a message and a fraction.

    Returns
    -------
    CalibrationRun

    Raises
    ------
    CannotRunError
        The model cannot be run here: its class is unknown, its library is missing, or it needs
        inputs that nothing supplies.
    ArrowQuantError
        Another of its subclasses, for mistakes and failures.
    """
    config = checked_config(config)
    data = read_samples(calibration_data)
    if config.calibration_samples == 0:
        raise ConfigurationError(
            "calibration_samples is 0, which asks for a data-free run", hint="Set it to 1 or more."
        )

    def report(message: str, fraction: float) -> None:
        if progress_callback is not None:
            with _stopping():
                progress_callback(message, fraction)

    with _stoppable():
        report("loading the model", 0.0)
        plan = plan_model(model_path, config)
        model = _load(Path(model_path), plan, config.calibration_samples, seed)
        _require_finite(model.network, model_path)
        with evaluating(model.network):
            return run_tape(
                model.network,
                _tape(model, data, lambda f: report("running the model", _RECORDING * f)),
                stats_path,
                layers=_planned(plan, model.component),
                component=model.component,
                data=data.kind,
                time_aware=config.enable_time_aware,
                max_memory_mb=config.max_memory_mb,
                num_threads=config.num_threads,
                seed=seed,
                overwrite=overwrite,
                notes=_not_covered(plan, model.component),
                progress_callback=lambda m, f: report(m, _RECORDING + (1 - _RECORDING) * f),
            )


def _require_finite(network: nn.Module, model_path: StrPath) -> None:
    """Raise QuantizationError for a broken weight, before the model runs on it for long."""
    for name, weight in network.named_parameters():
        finite = weight.detach().isfinite()
        if not finite.all():
            element = int(finite.logical_not().flatten().nonzero()[0])
            raise QuantizationError(
                f"{os.fspath(model_path)}: tensor '{name}': expected finite weights, found NaN, "
                f"Inf or a value beyond f32 at element {element}",
                path=os.fspath(model_path),
                tensor=name,
                hint="Repair the checkpoint: whatever this model puts out depends on it.",
            )


class _Stopped(BaseException):
    """The user's callback wants the run to stop; no library on the way may catch it."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


@contextmanager
def _stopping() -> Iterator[None]:
    """Around a call of the user's callback."""
    try:
        yield
    except Exception as error:
        raise _Stopped(error) from error


@contextmanager
def _stoppable() -> Iterator[None]:
    """Around a run: what the user's callback raised comes out as it was."""
    try:
        yield
    except _Stopped as stopped:
        raise stopped.error from None


def _tape(model: _Model, data: Samples, progress: Callable[[float], None]) -> list[Batch]:
    """Batches of the user, or what the model is given while it makes samples."""
    if data.make_batches is not None:
        return as_batches(data.make_batches(model.network), held_out=True)
    if data.batches:
        return as_batches(data.batches, held_out=True)
    with _failures():
        return model.record(data, progress)


def record_tape(
    model_path: Path,
    plan: ModelPlan,
    *,
    samples: int,
    seed: int,
    progress: Callable[[float], None],
    calibration_data: Any = None,
) -> tuple[str, nn.Module, list[Batch]]:
    """Load a model, let it make `samples` samples, and watch no layer.

    Returns the component that runs at every step, its network, and what that was given. Without
    data, inputs are neutral.

    Raises
    ------
    CannotRunError
        As :func:`capture`.
    """

    def report(fraction: float) -> None:
        with _stopping():
            progress(fraction)

    data = read_samples(calibration_data)
    with _stoppable():
        model = _load(model_path, plan, samples, seed)
        with evaluating(model.network):
            return model.component, model.network, _tape(model, data, report)


def _planned(plan: ModelPlan, component: str) -> list[str]:
    return [t.name for t in plan.tensors if t.bit_width is not None and t.component == component]


def _not_covered(plan: ModelPlan, component: str) -> list[str]:
    return [
        f"{other}: not calibrated: only the component '{component}' runs at every step"
        for other in plan.components
        if other != component
    ]


def _load(path: Path, plan: ModelPlan, samples: int, seed: int) -> _Model:
    how = how_to_run(path)
    if how == "pipeline":
        return _load_pipeline(path, plan.components[0], plan.components[0], samples, seed)
    if how == "denoiser":
        return _load_pipeline(path.resolve().parent, path.resolve().name, "", samples, seed)
    return _load_masked_language_model(path, samples, seed)


def _load_pipeline(path: Path, attribute: str, component: str, samples: int, seed: int) -> _Model:
    from arrow_quant_v2.torch.pipelines import pipeline_tape

    with _failures():
        from diffusers import DiffusionPipeline
        from diffusers.utils import logging

        index = read_json(path / "model_index.json")
        skipped = {"safety_checker": None} if "safety_checker" in index else {}
        with _quiet(logging):
            pipeline = DiffusionPipeline.from_pretrained(
                str(path),
                local_files_only=True,
                torch_dtype=torch.float32,
                use_safetensors=True,
                **skipped,
            )
    network = getattr(pipeline, attribute, None)
    if not isinstance(network, nn.Module):
        raise CannotRunError(f"{type(pipeline).__name__} has no network '{attribute}'")

    def record(data: Samples, progress: Callable[[float], None]) -> list[Batch]:
        return pipeline_tape(
            pipeline, attribute, data, samples=samples, seed=seed, progress=progress
        )

    return _Model(component, network, record)


def _load_masked_language_model(path: Path, samples: int, seed: int) -> _Model:
    from arrow_quant_v2.torch.masked_language import masked_language_tape

    with _failures():
        from transformers import AutoModelForMaskedLM, AutoTokenizer
        from transformers.utils import logging

        with _quiet(logging):
            network = AutoModelForMaskedLM.from_pretrained(
                str(path), local_files_only=True, dtype=torch.float32, use_safetensors=True
            )
            tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)

    def record(data: Samples, progress: Callable[[float], None]) -> list[Batch]:
        return masked_language_tape(
            network, tokenizer, data, samples=samples, seed=seed, progress=progress
        )

    return _Model("", network, record)


@contextmanager
def _failures() -> Iterator[None]:
    """Whatever goes wrong inside another library means that the model cannot be run here."""
    try:
        yield
    except (ArrowQuantError, MemoryError):
        raise
    except ImportError as error:
        raise CannotRunError(
            f"a library of the model is missing: {error}",
            hint="pip install 'arrow-quant-v2[models]'",
        ) from error
    except Exception as error:
        what = " ".join(str(error).split())[:300]
        raise CannotRunError(f"the model does not run: {type(error).__name__}: {what}") from error


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """No progress bars and warnings of a library that loads a model, by its logging module."""
    shown = library.is_progress_bar_enabled()
    library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            library.enable_progress_bar()
