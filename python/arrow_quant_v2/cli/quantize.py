"""``arrow-quant quantize`` and ``arrow-quant plan``."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from arrow_quant_v2.cli import options
from arrow_quant_v2.cli.console import (
    print_blank,
    print_facts,
    print_json,
    print_table,
    progress_bar,
    shape_text,
    size_text,
    warn,
)
from arrow_quant_v2.cli.exit_codes import command
from arrow_quant_v2.cli.figures import quality_lines, weights_lines
from arrow_quant_v2.cli.groups import Group, common, grouped
from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.plan.model_plan import ModelPlan, PlannedTensor
from arrow_quant_v2.quantize.result import (
    QuantizationResult,
    histogram_text,
    mixed_text,
    width_text,
)
from arrow_quant_v2.quantize.run import plan_files, quantize_files

_MB = 1e6
#: Why most weights are quantized; the column of reasons is left out where there is no other.
_ORDINARY = ("linear weight", "convolution weight")


@command
@options.takes_settings(*options.ALL_FLAGS)
def quantize(
    model: options.Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to create.")],
    settings: DiffusionQuantConfig,
    stats: options.Statistics = None,
    data: options.Data = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an artefact that is at OUT.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Quantize a model into a directory of packed Parquet weights.

    The model runs first where it can, to see which weights matter; 'arrow-quant plan' says whether.
    """
    with progress_bar(quiet=json) as show:
        result = quantize_files(
            model,
            out,
            settings,
            overwrite=overwrite,
            progress_callback=show,
            statistics=stats,
            calibration_data=data,
        )
    warn(result["warnings"])
    if json:
        print_json(result.json(tensors=True))
    else:
        _print_result(result, model, out, settings)


@command
@options.takes_settings(*options.ALL_FLAGS)
def plan(
    model: options.Model,
    settings: DiffusionQuantConfig,
    stats: options.Statistics = None,
    data: options.Data = None,
    every: options.Every = False,
    json: options.Json = False,
) -> None:
    """Show what would happen to every tensor, and why. Writes nothing.

    With a target of mixed precision, the model is calibrated and run to find out.
    """
    with progress_bar(quiet=json or settings.target is None) as show:
        made = plan_files(
            model, settings, progress_callback=show, statistics=stats, calibration_data=data
        )
    warn(made.warnings)
    if json:
        print_json(made.json())
    else:
        _print_plan(made, every)


def _print_result(
    result: QuantizationResult, model: Path, out: Path, settings: DiffusionQuantConfig
) -> None:
    attempts = ", ".join(
        f"INT{attempt['bit_width']} {attempt['cosine_similarity']:.5f}"
        for attempt in result["attempts"]
    )
    facts = [
        ("output", result["quantized_path"]),
        ("modality", f"{result['modality']} ({result['modality_reason']})"),
        ("strategy", result["strategy"]),
        ("components", ", ".join(name for name in result["components"] if name) or "the model"),
        ("bit width", _widths(result)),
        *weights_lines(
            round(result["model_size_mb"] * _MB),
            round(result["model_size_mb"] * result["compression_ratio"] * _MB),
            round(result["total_size_mb"] * _MB),
        ),
        *quality_lines(result),
        ("NMSE", _errors(result)),
        ("calibration", _calibration(result["calibration"], result["calibration_reason"])),
        ("time", f"{result['quantization_time_s']:.2f} s"),
    ]
    if len(result["layers_by_bit_width"]) > 1:
        facts.append(("layers", histogram_text(result["layers_by_bit_width"])))
    if result["mixed_precision"]:
        facts.append(("mixed precision", mixed_text(result["mixed_precision"])))
    if len(result["attempts"]) > 1:
        facts.append(("attempts", attempts))
    if not result["meets_min_accuracy"]:
        facts.append(("accuracy", f"below min_accuracy {settings.min_accuracy:g}, also at INT8"))
    facts.append(("next", shlex.join(["arrow-quant", "validate", str(model), str(out)])))
    print_facts(facts)


def _widths(result: QuantizationResult) -> str:
    width = width_text(result)
    if width.startswith("INT"):
        width += f", {result['bits_per_weight']:.3f} bits per weight"
    return width


def _errors(result: QuantizationResult) -> str:
    weights = f"{result['nmse']:.3g} (weights)"
    if result["output_nmse"] is None:
        return weights
    return f"{result['output_nmse']:.3g} (layer outputs), {weights}"


def _calibration(kind: str, reason: str) -> str:
    return f"{kind} ({reason})" if reason else kind


def _print_plan(made: ModelPlan, every: bool) -> None:
    several = len(made.components) > 1
    shown = [tensor for tensor in made.tensors if every or not _is_kept_by_default(tensor)]
    columns = ["tensor", "shape", "bits", "encoding", "size", "why"]
    rows = [_row(group) for group in _groups(shown, several, every)]
    if not every and all(tensor.reason in _ORDINARY for tensor in shown):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_table(columns, rows, right=["bits", "size"])
    print_blank()
    quantized = sum(tensor.bit_width is not None for tensor in made.tensors)
    facts = [
        ("modality", f"{made.modality} ({made.modality_reason})"),
        ("strategy", made.strategy),
        ("calibration", _calibration(made.calibration, made.calibration_reason)),
        ("components", ", ".join(name for name in made.components if name) or "the model"),
        ("quantized", f"{quantized} tensors, {made.bits_per_weight:.3f} bits per weight"),
    ]
    if made.mixed_precision:
        facts += [
            ("mixed precision", mixed_text(made.mixed_precision.to_dict())),
            ("layers", made.mixed_precision.histogram()),
        ]
    kept = Counter(
        tensor.reason
        for tensor in made.tensors
        if tensor.bit_width is None and not tensor.reason.startswith("mixed: ")
    )
    facts += [
        ("kept", f"{count} tensors ({reason.removeprefix('kept: ')})")
        for reason, count in kept.most_common()
    ]
    facts.append(("source", size_text(made.source_bytes)))
    facts += weights_lines(made.planned_weights_bytes, made.source_bytes, about=True)
    print_facts(facts)


def _is_kept_by_default(tensor: PlannedTensor) -> bool:
    return tensor.bit_width is None and tensor.reason.startswith("kept: ")


def _groups(
    tensors: Sequence[PlannedTensor], several: bool, every: bool
) -> list[Group[PlannedTensor]]:
    def name(tensor: PlannedTensor) -> str:
        return f"{tensor.component}/{tensor.name}" if several else tensor.name

    if every:
        return [Group(name(tensor), (tensor,)) for tensor in tensors]
    return grouped(tensors, name, lambda tensor: (tensor.bit_width, tensor.reason))


def _row(group: Group[PlannedTensor]) -> list[str]:
    tensor = group.items[0]
    return [
        group.label,
        common(shape_text(item.shape) for item in group.items),
        "-" if tensor.bit_width is None else str(tensor.bit_width),
        common(item.param_encoding or item.source_dtype for item in group.items),
        size_text(sum(item.planned_bytes for item in group.items)),
        tensor.reason,
    ]
