"""Learned rounding as the last step of a quantization: a start, descent, and the result stored."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrow_quant_v2._native import core
from arrow_quant_v2.artefact.model import QuantizedModel
from arrow_quant_v2.artefact.open import open_quantized
from arrow_quant_v2.calibration.model_kind import CannotRunError
from arrow_quant_v2.config.settings import CALIBRATION, LEARNING
from arrow_quant_v2.loaded_model import LoadedModel
from arrow_quant_v2.plan.engine_options import run_engine
from arrow_quant_v2.progress import ProgressCallback, scaled_progress
from arrow_quant_v2.quantize.calibrate_first import Calibration

if TYPE_CHECKING:
    from arrow_quant_v2.torch.learn.rounding import Learned
    from arrow_quant_v2.torch.record.session import Session
    from arrow_quant_v2.torch.record.trajectory import Batch

__all__ = ["run_learned"]

#: Ends of the parts of the progress: recording, the start, learning; then storing.
_RECORDED, _STARTED, _LEARNED = 0.2, 0.3, 0.95


def run_learned(
    model: LoadedModel,
    output: bytes,
    options: Callable[..., core.QuantizeOptions],
    found: Calibration,
) -> tuple[core.QuantizeReport, Calibration]:
    """Quantize, learn the rounding, and store the result.

    Where the model cannot run, the start is the result; a warning and the artefact say why.

    Parameters
    ----------
    options
        Makes the options of the engine, with those given here besides its own.

    Returns
    -------
    tuple
        What the engine reports, and `found` with the warning.
    """
    progress = found.progress
    try:
        session = model.session()
        from arrow_quant_v2.torch.record.trajectory import has_held_out

        samples = model.config.calibration_samples
        batches = session.recorded(
            samples, CALIBRATION.seed, scaled_progress(progress, 0, _RECORDED)
        )
        if not has_held_out(batches):
            raise CannotRunError(
                "no sample is held out to judge by: "
                f"{CALIBRATION.held_out_every} samples are the least"
            )
        return _learned(model, output, options, session, batches, progress), found
    except CannotRunError as error:
        reason = model.without_path(error.message)
        refinements = {"learned_rounding": {"enabled": False, "reason": reason}}
        warning = f"the rounding was not learned: {reason}"
        rest = scaled_progress(progress, _LEARNED, 1 - _LEARNED)
        report = run_engine(os.fsencode(model.path), output, options(refinements=refinements), rest)
        return report, replace(found, warnings=(*found.warnings, warning))


def _learned(
    model: LoadedModel,
    output: bytes,
    options: Callable[..., core.QuantizeOptions],
    session: Session,
    batches: Sequence[Batch],
    progress: ProgressCallback | None,
) -> core.QuantizeReport:
    from arrow_quant_v2.torch.learn.rounding import learn

    config, source = model.config, os.fsencode(model.path)
    with tempfile.TemporaryDirectory(prefix="arrow-quant-") as folder:
        path = Path(folder) / "start"
        first = scaled_progress(progress, _RECORDED, _STARTED - _RECORDED)
        report = run_engine(source, os.fsencode(path), options(), first)
        start = open_quantized(path, num_threads=config.num_threads)
        learned = learn(
            session.network,
            batches,
            start.components[session.component],
            LEARNING,
            max_memory_mb=config.max_memory_mb,
            progress=scaled_progress(progress, _STARTED, _LEARNED - _STARTED) or _silent,
        )
        # The start may have fallen back to more bits.
        widened = config.target is None and report.bit_width != config.bit_width
        last = options(
            refinements={"learned_rounding": _record(learned)},
            reuse=(report, _tensors(start, session.component, learned)),
            bit_width=report.bit_width if widened else None,
        )
        return run_engine(source, output, last, scaled_progress(progress, _LEARNED, 1 - _LEARNED))


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
