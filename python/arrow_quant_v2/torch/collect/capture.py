"""Statistics of a model folder: load it with its own library, run it, watch its layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arrow_quant_v2.calibration.model_kind import CannotRunError
from arrow_quant_v2.config.settings import CALIBRATION, DiffusionQuantConfig, checked_config
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.model import readable_model
from arrow_quant_v2.model_roles import model_roles
from arrow_quant_v2.paths import StrPath, checked_path
from arrow_quant_v2.plan.model_plan import ModelPlan, plan_model
from arrow_quant_v2.progress import ProgressCallback, scaled_progress
from arrow_quant_v2.torch.collect.calibrate import CalibrationRun, run_tape
from arrow_quant_v2.torch.evaluation import evaluating
from arrow_quant_v2.torch.record.samples import read_samples
from arrow_quant_v2.torch.record.session import Session

__all__ = ["CannotRunError", "capture", "collect"]

#: Part of the progress that running the model takes; the rest is watching the layers.
_RECORDING = 0.6


def capture(
    model_path: StrPath,
    stats_path: StrPath,
    config: DiffusionQuantConfig | None = None,
    *,
    calibration_data: Any = None,
    seed: int = CALIBRATION.seed,
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
    if progress_callback is not None:
        progress_callback("loading the model", 0.0)
    source = checked_path(model_path, "model_path")
    with readable_model(source, components=config.components) as view:
        path = Path(view.path)
        return collect(
            Session(path, plan_model(path, config, roles=model_roles(path)), data),
            stats_path,
            config,
            seed=seed,
            overwrite=overwrite,
            progress_callback=progress_callback,
        )


def collect(
    session: Session,
    stats_path: StrPath,
    config: DiffusionQuantConfig,
    *,
    seed: int = CALIBRATION.seed,
    overwrite: bool = False,
    progress_callback: ProgressCallback | None = None,
) -> CalibrationRun:
    """:func:`capture` of a session, whose model may be loaded and recorded already."""
    recording = scaled_progress(progress_callback, 0, _RECORDING)
    batches = session.recorded(config.calibration_samples, seed, recording)
    with evaluating(session.network):
        return run_tape(
            session.network,
            batches,
            stats_path,
            layers=_planned(session.plan, session.component),
            component=session.component,
            data=session.data.kind,
            time_aware=config.enable_time_aware,
            max_memory_mb=config.max_memory_mb,
            num_threads=config.num_threads,
            seed=seed,
            overwrite=overwrite,
            notes=_not_covered(session.plan, session.component),
            progress_callback=scaled_progress(progress_callback, _RECORDING, 1 - _RECORDING),
        )


def _planned(plan: ModelPlan, component: str) -> list[str]:
    return [t.name for t in plan.tensors if t.bit_width is not None and t.component == component]


def _not_covered(plan: ModelPlan, component: str) -> list[str]:
    return [
        f"{other}: not calibrated: only the component '{component}' runs at every step"
        for other in plan.components
        if other != component
    ]
