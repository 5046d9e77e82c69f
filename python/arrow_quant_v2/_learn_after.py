"""Learned rounding as the last step of a quantization: a start, descent, and the result stored."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrow_quant_v2._calibrate_first import Calibration, part_of
from arrow_quant_v2._engine import EngineJob, ProgressCallback, StrPath, plan_options
from arrow_quant_v2._native import core
from arrow_quant_v2._runnable import CannotRunError, how_to_run
from arrow_quant_v2.artefact import QuantizedModel, open_quantized
from arrow_quant_v2.config import CALIBRATION, LEARNING, DiffusionQuantConfig
from arrow_quant_v2.plan import plan_model

if TYPE_CHECKING:
    from torch import nn

    from arrow_quant_v2.torch.learning import Learned
    from arrow_quant_v2.torch.tape import Batch

__all__ = ["RunningModel", "quantize_learned"]


@dataclass(frozen=True)
class RunningModel:
    """A network, which component of its model it is, and the states that it learns from."""

    component: str
    network: nn.Module
    tape: Sequence[Batch]


#: Ends of the parts of the progress: recording states, the start, learning; then storing.
_RECORDED, _STARTED, _LEARNED = 0.2, 0.3, 0.95


def quantize_learned(
    job: EngineJob,
    model_path: StrPath,
    config: DiffusionQuantConfig,
    calibration_data: Any,
    found: Calibration,
    running: RunningModel | None = None,
) -> tuple[core.QuantizeReport, Calibration]:
    """Quantize, learn the rounding, and store the result.

    Without a `running` model it is loaded and runs on samples. Where that cannot be done, the start
    is the result; a warning and the artefact say why.

    Returns
    -------
    tuple
        What the engine reports, and `found` with the warning.
    """
    try:
        if running is None:
            progress = part_of(found.progress, 0, _RECORDED)
            running = _recorded(model_path, config, calibration_data, progress)
        _check_judges(running)
    except (CannotRunError, ImportError) as error:
        what = error.message if isinstance(error, CannotRunError) else f"library missing: {error}"
        reason = what.replace(os.fspath(model_path), Path(model_path).name)
        job.options.learned_json = json.dumps({"enabled": False, "reason": reason})
        warning = f"the rounding was not learned: {reason}"
        return job.run(found.progress), replace(found, warnings=(*found.warnings, warning))
    with tempfile.TemporaryDirectory(prefix="arrow-quant-") as folder:
        path = os.fsencode(Path(folder) / "start")
        progress = part_of(found.progress, _RECORDED, _STARTED - _RECORDED)
        report = EngineJob(job.model, path, job.options).run(progress)
        start = open_quantized(os.fsdecode(path), num_threads=config.num_threads)
        from arrow_quant_v2.torch.learning import learn

        learned = learn(
            running.network,
            running.tape,
            start.components[running.component],
            LEARNING,
            max_memory_mb=config.max_memory_mb,
            progress=part_of(found.progress, _STARTED, _LEARNED - _STARTED) or _silent,
        )
        job.options.learned_json = json.dumps(_record(learned))
        if config.target is None and report.bit_width != config.bit_width:
            # The start fell back to more bits.
            widened = config.model_copy(update={"bit_width": report.bit_width})
            job.options.plan = plan_options(widened, calibrated=True)
        job.options.store_again(report, _tensors(start, running.component, learned))
        return job.run(part_of(found.progress, _LEARNED, 1 - _LEARNED)), found


def _recorded(
    model_path: StrPath,
    config: DiffusionQuantConfig,
    calibration_data: Any,
    progress: ProgressCallback | None,
) -> RunningModel:
    path = Path(model_path)
    how_to_run(path)
    if config.calibration_samples == 0:
        raise CannotRunError("calibration_samples is 0")
    from arrow_quant_v2.torch.capture import record_tape

    def report(fraction: float) -> None:
        if progress is not None:
            progress("running the model", fraction)

    component, network, tape = record_tape(
        path,
        plan_model(path, config),
        samples=config.calibration_samples,
        seed=LEARNING.seed,
        progress=report,
        calibration_data=calibration_data,
    )
    return RunningModel(component, network, tape)


def _check_judges(running: RunningModel) -> None:
    if any(batch.held_out is not None and batch.held_out.any() for batch in running.tape):
        return
    raise CannotRunError(
        f"no state is held out to judge by: {CALIBRATION.held_out_every} samples are the least"
    )


def _silent(message: str, fraction: float) -> None:
    pass


def _tensors(
    start: QuantizedModel, component: str, learned: Learned
) -> list[tuple[str, core.Tensor]]:
    """Every quantized tensor by its component, with what was learned of it."""
    tensors = []
    for name, part in start.components.items():
        for key in part:
            tensor = part[key]
            if not tensor.is_quantized:
                continue
            weight = learned.weights.get(key) if name == component else None
            packed = tensor.packed
            if weight is not None:
                tried = [*tensor.candidates, _candidate(tensor.param_encoding, learned, key)]
                packed = packed.learned(*weight, json.dumps(tried))
            tensors.append((name, packed))
    return tensors


def _candidate(encoding: str | None, learned: Learned, name: str) -> Mapping[str, Any]:
    return {
        "method": "learned",
        "param_encoding": encoding,
        "changed_codes": round(learned.changed[name], 6),
    }


def _record(learned: Learned) -> Mapping[str, Any]:
    """What the artefact says about learning."""
    return {
        "enabled": bool(learned.weights),
        "reason": "" if learned.weights else "no iterate was better on held-out states",
        "states": learned.states,
        "held_out_states": learned.held_out_states,
        "iterations": learned.iterations,
        "best_iteration": learned.best,
        "held_out_error_before": float(f"{learned.before:.6g}"),
        "held_out_error_after": float(f"{learned.after:.6g}"),
        "held_out_error_ratio": float(f"{learned.ratio:.6g}"),
    }
