"""Learned rounding as the last step of a quantization: a start, descent, and the result stored."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrow_quant_v2._calibrate_first import Calibration, part_of
from arrow_quant_v2._engine import EngineJob, ProgressCallback, StrPath, plan_options
from arrow_quant_v2._native import core
from arrow_quant_v2._recorded import RecordedNetwork, record_network
from arrow_quant_v2._runnable import CannotRunError
from arrow_quant_v2.artefact import QuantizedModel, open_quantized
from arrow_quant_v2.config import LEARNING, DiffusionQuantConfig

if TYPE_CHECKING:
    from arrow_quant_v2.torch.learning import Learned

__all__ = ["quantize_learned"]

#: Ends of the parts of the progress: recording states, the start, learning; then storing.
_RECORDED, _STARTED, _LEARNED = 0.2, 0.3, 0.95


def quantize_learned(
    job: EngineJob,
    model_path: StrPath,
    config: DiffusionQuantConfig,
    calibration_data: Any,
    found: Calibration,
    recorded: RecordedNetwork | None = None,
) -> tuple[core.QuantizeReport, Calibration]:
    """Quantize, learn the rounding, and store the result.

    Without a `recorded` network the model is loaded and runs on samples. Where that cannot be done,
    the start is the result; a warning and the artefact say why.

    Returns
    -------
    tuple
        What the engine reports, and `found` with the warning.
    """
    try:
        if recorded is None:
            progress = part_of(found.progress, 0, _RECORDED)
            recorded = record_network(model_path, config, calibration_data, LEARNING.seed, progress)
        return _learned(job, config, recorded, found.progress), found
    except CannotRunError as error:
        reason = error.message.replace(os.fspath(model_path), Path(model_path).name)
        _say(job, {"enabled": False, "reason": reason})
        warning = f"the rounding was not learned: {reason}"
        progress = part_of(found.progress, _LEARNED, 1 - _LEARNED)
        return job.run(progress), replace(found, warnings=(*found.warnings, warning))


def _learned(
    job: EngineJob,
    config: DiffusionQuantConfig,
    recorded: RecordedNetwork,
    progress: ProgressCallback | None,
) -> core.QuantizeReport:
    from arrow_quant_v2.torch.learning import learn

    with tempfile.TemporaryDirectory(prefix="arrow-quant-") as folder:
        path = Path(folder) / "start"
        report = EngineJob(job.model, os.fsencode(path), job.options).run(
            part_of(progress, _RECORDED, _STARTED - _RECORDED)
        )
        start = open_quantized(path, num_threads=config.num_threads)
        learned = learn(
            recorded.network,
            recorded.tape,
            start.components[recorded.component],
            LEARNING,
            max_memory_mb=config.max_memory_mb,
            progress=part_of(progress, _STARTED, _LEARNED - _STARTED) or _silent,
        )
        _say(job, _record(learned))
        if config.target is None and report.bit_width != config.bit_width:
            # The start fell back to more bits.
            widened = config.model_copy(update={"bit_width": report.bit_width})
            job.options.plan = plan_options(widened, calibrated=True)
        job.options.store_again(report, _tensors(start, recorded.component, learned))
        return job.run(part_of(progress, _LEARNED, 1 - _LEARNED))


def _say(job: EngineJob, record: Mapping[str, Any]) -> None:
    job.options.refinements_json = {"learned_rounding": json.dumps(record)}


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
