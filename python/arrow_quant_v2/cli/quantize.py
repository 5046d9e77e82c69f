"""``arrow-quant quantize`` and ``arrow-quant plan``."""

from __future__ import annotations

from collections import Counter
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
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.plan.model_plan import ModelPlan, PlannedTensor
from arrow_quant_v2.quantize.result import QuantizationResult, histogram_text, mixed_text
from arrow_quant_v2.quantize.run import plan_files, quantize_files

_MB = 1e6


@command
def quantize(
    model: options.Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to create.")],
    profile: options.Profile = None,
    bit_width: options.BitWidth = None,
    group_size: options.GroupSize = None,
    method: options.MethodName = None,
    param_encoding: options.ParamEncoding = None,
    config: options.ConfigFile = None,
    layer_rule: options.LayerRules = None,
    components: options.Components = None,
    stats: options.Statistics = None,
    data: options.Data = None,
    samples: options.Samples = None,
    modality: options.Modality = None,
    min_accuracy: options.MinAccuracy = None,
    target_bits: options.TargetBits = None,
    target_size_mb: options.TargetSize = None,
    max_quality_loss: options.MaxQualityLoss = None,
    fail_fast: options.FailFast = False,
    threads: options.Threads = None,
    max_memory_mb: options.MaxMemory = None,
    trust_remote_code: options.TrustRemoteCode = False,
    setting: options.Settings = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an artefact that is at OUT.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Quantize a model into a directory of packed Parquet weights.

    The model runs first where it can, to see which weights matter; 'arrow-quant plan' says whether.
    """
    settings = options.build_config(
        config=config,
        layer_rules=layer_rule,
        components=components,
        fail_fast=fail_fast,
        trust_remote_code=trust_remote_code,
        settings=setting,
        deployment_profile=profile,
        bit_width=bit_width,
        group_size=group_size,
        method=method,
        param_encoding=param_encoding,
        calibration_samples=samples,
        modality=modality,
        min_accuracy=min_accuracy,
        target_bits=target_bits,
        target_size_mb=target_size_mb,
        max_quality_loss=max_quality_loss,
        num_threads=threads,
        max_memory_mb=max_memory_mb,
    )
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
        _print_result(result)


@command
def plan(
    model: options.Model,
    profile: options.Profile = None,
    bit_width: options.BitWidth = None,
    group_size: options.GroupSize = None,
    method: options.MethodName = None,
    param_encoding: options.ParamEncoding = None,
    config: options.ConfigFile = None,
    layer_rule: options.LayerRules = None,
    components: options.Components = None,
    stats: options.Statistics = None,
    data: options.Data = None,
    samples: options.Samples = None,
    modality: options.Modality = None,
    min_accuracy: options.MinAccuracy = None,
    target_bits: options.TargetBits = None,
    target_size_mb: options.TargetSize = None,
    max_quality_loss: options.MaxQualityLoss = None,
    fail_fast: options.FailFast = False,
    threads: options.Threads = None,
    max_memory_mb: options.MaxMemory = None,
    trust_remote_code: options.TrustRemoteCode = False,
    setting: options.Settings = None,
    every: options.Every = False,
    json: options.Json = False,
) -> None:
    """Show what would happen to every tensor, and why. Writes nothing.

    With a target of mixed precision, the model is calibrated and run to find out.
    """
    settings = options.build_config(
        config=config,
        layer_rules=layer_rule,
        components=components,
        fail_fast=fail_fast,
        trust_remote_code=trust_remote_code,
        settings=setting,
        deployment_profile=profile,
        bit_width=bit_width,
        group_size=group_size,
        method=method,
        param_encoding=param_encoding,
        calibration_samples=samples,
        modality=modality,
        min_accuracy=min_accuracy,
        target_bits=target_bits,
        target_size_mb=target_size_mb,
        max_quality_loss=max_quality_loss,
        num_threads=threads,
        max_memory_mb=max_memory_mb,
    )
    if settings.target is None and (stats is not None or data is not None):
        raise ConfigurationError(
            "--stats and --data are for plans with a target",
            hint="Add --target-bits, --target-size-mb or --max-quality-loss.",
        )
    with progress_bar(quiet=json or settings.target is None) as show:
        made = plan_files(
            model, settings, progress_callback=show, statistics=stats, calibration_data=data
        )
    warn(made.warnings)
    if json:
        print_json(made.json())
    else:
        _print_plan(made, every)


def _print_result(result: QuantizationResult) -> None:
    attempts = ", ".join(
        f"INT{attempt['bit_width']} {attempt['cosine_similarity']:.5f}"
        for attempt in result["attempts"]
    )
    facts = [
        ("output", result["quantized_path"]),
        ("modality", f"{result['modality']} ({result['modality_reason']})"),
        ("strategy", result["strategy"]),
        ("components", ", ".join(name for name in result["components"] if name) or "the model"),
        ("bit width", f"INT{result['bit_width']}, {result['bits_per_weight']:.3f} bits per weight"),
        (
            "weights",
            f"{size_text(round(result['model_size_mb'] * _MB))}, "
            f"{result['compression_ratio']:.2f} times smaller",
        ),
        ("whole model", size_text(round(result["total_size_mb"] * _MB))),
        ("cosine", f"mean {result['cosine_similarity']:.6f} ({result['cosine_kind']})"),
        ("worst layer", f"{result['min_cosine_similarity']:.6f}  {result['worst_layer']}"),
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
    print_facts(facts)


def _errors(result: QuantizationResult) -> str:
    weights = f"{result['nmse']:.3g} (weights)"
    if result["output_nmse"] is None:
        return weights
    return f"{result['output_nmse']:.3g} (outputs), {weights}"


def _calibration(kind: str, reason: str) -> str:
    return f"{kind} ({reason})" if reason else kind


def _print_plan(made: ModelPlan, every: bool) -> None:
    several = len(made.components) > 1
    shown = [tensor for tensor in made.tensors if every or not _is_kept_by_default(tensor)]
    print_table(
        ["tensor", "shape", "bits", "encoding", "size", "why"],
        [_row(tensor, several) for tensor in shown],
        right=["bits", "size"],
    )
    print_blank()
    quantized = sum(tensor.bit_width is not None for tensor in made.tensors)
    smaller = made.source_bytes / made.planned_bytes if made.planned_bytes else 1.0
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
    facts += [
        ("source", size_text(made.source_bytes)),
        ("planned", f"{size_text(made.planned_bytes)}, {smaller:.2f} times smaller"),
    ]
    print_facts(facts)


def _is_kept_by_default(tensor: PlannedTensor) -> bool:
    return tensor.bit_width is None and tensor.reason.startswith("kept: ")


def _row(tensor: PlannedTensor, several: bool) -> list[str]:
    name = f"{tensor.component}/{tensor.name}" if several else tensor.name
    bits = "-" if tensor.bit_width is None else str(tensor.bit_width)
    encoding = tensor.param_encoding or tensor.source_dtype
    size = size_text(tensor.planned_bytes)
    return [name, shape_text(tensor.shape), bits, encoding, size, tensor.reason]
