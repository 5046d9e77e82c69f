"""Statistics of a model folder: load it with its own library, run it, watch its layers."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from arrow_quant_v2.calibration import CalibrationStatistics
from arrow_quant_v2.calibration.memory import check_memory
from arrow_quant_v2.calibration.model_kind import CannotRunError
from arrow_quant_v2.config.settings import CALIBRATION, DiffusionQuantConfig, checked_config
from arrow_quant_v2.errors import ArrowQuantError, ConfigurationError, OutputError
from arrow_quant_v2.model import readable_model
from arrow_quant_v2.model_roles import model_roles
from arrow_quant_v2.paths import StrPath, checked_path
from arrow_quant_v2.plan.model_plan import ModelPlan, plan_model
from arrow_quant_v2.progress import ProgressCallback, scaled_progress
from arrow_quant_v2.torch.collect.calibrate import CalibrationRun, run_tape
from arrow_quant_v2.torch.evaluation import evaluating
from arrow_quant_v2.torch.record.samples import read_samples
from arrow_quant_v2.torch.record.sampling import Sampling
from arrow_quant_v2.torch.record.session import Session
from arrow_quant_v2.torch.record.trajectory import Batch

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
        A diffusers pipeline, its denoiser's directory inside it, or the directory of a masked
        language model: of transformers, or of LLaDA, Dream and their kin.
    stats_path
        The file to write; for a pipeline of several denoisers a folder with a file for each.
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
        check_memory(path, config)
        session = Session(
            path,
            plan_model(path, config, roles=model_roles(path)),
            data,
            Sampling.of(config),
            trust_remote_code=config.trust_remote_code,
        )
        return collect(
            session,
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
    session.recorded(config.calibration_samples, seed, recording)
    ran = [name for name in session.components if _batches(session, config, seed, name)]
    notes = _not_covered(session.plan, ran)
    if len(ran) == 1:
        rest = scaled_progress(progress_callback, _RECORDING, 1 - _RECORDING)
        return _of_component(session, ran[0], stats_path, config, seed, overwrite, notes, rest)
    path = Path(stats_path)
    _check_folder(path, overwrite)
    runs = []
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as made:
        for number, name in enumerate(ran):
            share = (1 - _RECORDING) / len(ran)
            part = scaled_progress(progress_callback, _RECORDING + number * share, share)
            own = notes if number == 0 else []
            file = Path(made) / name
            runs.append(_of_component(session, name, file, config, seed, False, own, part))
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.mkdir()
        for run in runs:
            os.replace(run.path, path / run.path.name)
    return CalibrationRun(
        path=path,
        data=runs[0].data,
        layers=tuple(name for run in runs for name in run.layers),
        samples=sum(run.samples for run in runs),
        passes=max(run.passes for run in runs),
        notes=tuple(note for run in runs for note in run.notes),
    )


def _batches(
    session: Session, config: DiffusionQuantConfig, seed: int, component: str
) -> list[Batch]:
    return session.recorded(config.calibration_samples, seed, component=component)


def _of_component(
    session: Session,
    component: str,
    stats_path: StrPath,
    config: DiffusionQuantConfig,
    seed: int,
    overwrite: bool,
    notes: list[str],
    progress: ProgressCallback | None,
) -> CalibrationRun:
    network = session.network_of(component)
    with evaluating(network):
        return run_tape(
            network,
            _batches(session, config, seed, component),
            stats_path,
            layers=_planned(session.plan, component),
            component=component,
            data=session.data.kind,
            time_aware=config.enable_time_aware,
            max_memory_mb=config.max_memory_mb,
            num_threads=config.num_threads,
            seed=seed,
            overwrite=overwrite,
            notes=notes,
            progress_callback=progress,
        )


def _check_folder(path: Path, overwrite: bool) -> None:
    """Raise where statistics of several components cannot become a folder at `path`."""
    if os.path.lexists(path) and not overwrite:
        raise OutputError(
            f"{path}: the file exists", path=str(path), hint="Remove it, or pass overwrite=True."
        )
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: no such directory", path=str(path))
    if path.is_dir():
        for file in path.iterdir():
            try:
                CalibrationStatistics.load(file)
            except ArrowQuantError as error:
                raise OutputError(
                    f"{path}: the folder holds more than statistics: {file.name}", path=str(path)
                ) from error


def _planned(plan: ModelPlan, component: str) -> list[str]:
    return [t.name for t in plan.tensors if t.bit_width is not None and t.component == component]


def _not_covered(plan: ModelPlan, ran: list[str]) -> list[str]:
    plural, verb = ("s", "run") if len(ran) > 1 else ("", "runs")
    names = " and ".join(f"'{name}'" for name in ran)
    return [
        f"{other}: not calibrated: only the component{plural} {names} {verb} at every step"
        for other in plan.components
        if other not in ran
    ]
