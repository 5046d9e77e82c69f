"""Whether an artefact is whole, is of this model, and is good enough."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from arrow_quant_v2._native import core
from arrow_quant_v2.artefact.model import QuantizedModel
from arrow_quant_v2.artefact.open import open_quantized
from arrow_quant_v2.artefact.quality import LayerQuality, summed_up
from arrow_quant_v2.artefact.sizes import sizes_of
from arrow_quant_v2.config.settings import DiffusionQuantConfig, with_settings
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.model import readable_model
from arrow_quant_v2.model.json_object import read_object
from arrow_quant_v2.paths import StrPath, checked_path, path_bytes
from arrow_quant_v2.progress import ProgressCallback, check_callback, scaled_progress
from arrow_quant_v2.quantize.result import ValidationResult
from arrow_quant_v2.validate.outputs import OutputComparison, check_can_run, compare_outputs

__all__ = ["validate_quality"]

#: The part of the progress that the weights take when both models run as well.
_WEIGHTS = 0.3


def validate_quality(
    original_path: StrPath,
    quantized_path: StrPath,
    config: DiffusionQuantConfig,
    *,
    level: str,
    min_accuracy: float | None,
    num_threads: int,
    progress_callback: ProgressCallback | None,
) -> ValidationResult:
    """As :meth:`~arrow_quant_v2.ArrowQuantV2.validate_quality`, with a checked configuration."""
    if level not in ("weights", "outputs"):
        raise ConfigurationError(f"Invalid level: {level!r}. Must be 'weights' or 'outputs'.")
    check_callback(progress_callback)
    original_path = checked_path(original_path, "original_path")
    quantized_path = checked_path(quantized_path, "quantized_path")
    changes: dict[str, Any] = {"num_threads": num_threads} if num_threads else {}
    if min_accuracy is not None:
        changes["min_accuracy"] = min_accuracy
    config = with_settings(config, **changes)
    if _is_artefact(original_path) and not _is_artefact(quantized_path):
        raise ConfigurationError(
            f"{original_path}: the original is an artefact, and the other is none",
            path=original_path,
            hint="The original comes first: arrow-quant validate MODEL ARTEFACT.",
        )
    if level == "outputs":
        check_can_run()
    share = _WEIGHTS if level == "outputs" else 1.0
    with readable_model(
        original_path, components=_components(quantized_path), adapters=True
    ) as view:
        report = core.validate_artefact(
            path_bytes(view.path, "original_path"),
            path_bytes(quantized_path, "quantized_path"),
            config.num_threads,
            scaled_progress(_comparing(progress_callback), 0.0, share),
            view.names,
        )
    outputs = None
    if level == "outputs" and not _is_of_another_model(report):
        outputs = compare_outputs(
            original_path,
            quantized_path,
            trust_remote_code=config.trust_remote_code,
            progress_callback=scaled_progress(progress_callback, share, 1 - share),
        )
    threshold = config.min_accuracy
    if min_accuracy is None:
        threshold = config.validation_thresholds.get(f"int{report.bit_width}", 0.0)
    return _result(report, level, threshold, outputs, open_quantized(quantized_path))


def _comparing(callback: ProgressCallback | None) -> ProgressCallback | None:
    """`callback` for the weights, which are not all that there is to do."""
    if callback is None:
        return None

    def report(message: str, fraction: float) -> object:
        return callback("weights compared" if message == "done" else message, fraction)

    return report


def _is_of_another_model(report: core.ValidationReport) -> bool:
    """Whether the artefact differs in structure because it was made from another model.

    A model that was saved anew has another fingerprint and the same tensors: that is no problem.
    """
    return report.original_matches is False and bool(report.problems)


def _is_artefact(path: StrPath) -> bool:
    return os.path.isfile(os.path.join(path, "manifest.json"))


def _components(path: StrPath) -> list[str] | None:
    """The components of an artefact; None where its manifest does not say it."""
    records = read_object(Path(path, "manifest.json")).get("components")
    if not isinstance(records, list):
        return None
    return [record["name"] for record in records if isinstance(record, dict) and "name" in record]


def _result(
    report: core.ValidationReport,
    level: str,
    threshold: float,
    outputs: OutputComparison | None,
    model: QuantizedModel,
) -> ValidationResult:
    layers = []
    for tensor in report.tensors:
        if tensor.bit_width:
            stored = model.components[tensor.component][tensor.name]
            layers.append(
                LayerQuality(
                    tensor.name, math.prod(stored.shape), tensor.cosine, stored.output_cosine
                )
            )
    quality = summed_up(layers)
    sizes = sizes_of(model)
    checks = {
        "weights cosine": quality.weight_cosine_similarity >= threshold,
        "outputs cosine": outputs is None or outputs.cosine_similarity >= threshold,
        "original": not _is_of_another_model(report),
        "structure": not report.problems,
    }
    failed = [name for name, passed in checks.items() if not passed]
    return ValidationResult(
        {
            "passed": not failed,
            "failed_checks": failed,
            "level": level,
            "cosine_similarity": quality.cosine_similarity,
            "cosine_kind": quality.cosine_kind,
            "weight_cosine_similarity": quality.weight_cosine_similarity,
            "layer_output_cosine_similarity": quality.layer_output_cosine_similarity,
            "min_accuracy": threshold,
            "min_cosine_similarity": quality.min_cosine_similarity,
            "worst_layer": quality.worst_layer,
            "weights_bytes": sizes.weights_bytes,
            "total_bytes": sizes.total_bytes,
            "source_bytes": model.manifest.get("report", {}).get("source_bytes"),
            "nmse": report.nmse,
            "sqnr_db": _decibels(report.nmse),
            "bit_width": report.bit_width,
            "output_cosine_similarity": outputs.cosine_similarity if outputs else None,
            "output_nmse": outputs.nmse if outputs else None,
            "problems": list(report.problems),
            "outputs": [asdict(entry) for entry in outputs.bins] if outputs else [],
            "tensors": [
                {
                    "component": tensor.component,
                    "name": tensor.name,
                    "bit_width": tensor.bit_width or None,
                    "cosine": tensor.cosine,
                    "nmse": tensor.nmse,
                    "sqnr_db": _decibels(tensor.nmse),
                }
                for tensor in report.tensors
            ],
        }
    )


def _decibels(nmse: float) -> float | None:
    """The signal to quantization noise ratio, 10 log10(1 / NMSE); None where there is no noise."""
    return -10 * math.log10(nmse) if nmse > 0 else None
