"""``arrow-quant inspect`` and ``arrow-quant validate``: the quality of an artefact."""

from __future__ import annotations

import json as json_module
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from arrow_quant_v2.api import ArrowQuantV2
from arrow_quant_v2.artefact.model import QuantizedComponent, QuantizedModel
from arrow_quant_v2.artefact.old_layouts import OldModel, OldTensor
from arrow_quant_v2.artefact.open import open_quantized
from arrow_quant_v2.artefact.quality import LayerQuality, Quality, summed_up
from arrow_quant_v2.artefact.sizes import sizes_of
from arrow_quant_v2.cli import options
from arrow_quant_v2.cli.console import (
    note,
    print_blank,
    print_facts,
    print_json,
    print_table,
    progress_bar,
    shape_text,
    size_text,
)
from arrow_quant_v2.cli.exit_codes import command
from arrow_quant_v2.cli.figures import quality_lines, weights_lines
from arrow_quant_v2.cli.groups import Group, common, grouped
from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.errors import ValidationError
from arrow_quant_v2.quantize.result import ValidationResult, problems_shown, verdict_text

#: Of the metadata, in characters; the names before it take a third of 80 columns.
_LONGEST = 55


@command
def inspect(
    out: options.Artefact,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="Print what the Parquet schema records instead.")
    ] = False,
    every: options.Every = False,
    json: options.Json = False,
) -> None:
    """Show the tensors of an artefact: bits, sizes and errors.

    The worst come first. Tensors whose names differ in numbers alone share a line, which has the
    worst of their errors.
    """
    model = open_quantized(out)
    if metadata:
        _print_metadata(model, as_json=json)
        return
    facts = _facts(model)
    if isinstance(model, OldModel):
        facts = _old_facts(facts, model)
    if json:
        print_json(json_module.dumps(facts, indent=2, ensure_ascii=False))
    else:
        _print_artefact(facts, every)


@command
def validate(
    original: options.Model,
    out: options.Artefact,
    level: Annotated[
        str,
        typer.Option(
            "--level",
            metavar="weights|outputs",
            help="outputs: run both models as well and compare what they return. Needs torch.",
        ),
    ] = "weights",
    min_accuracy: options.MinAccuracy = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE.yaml", help="Settings from a YAML file."),
    ] = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Check an artefact and compare it with its original.

    Hashes, structure, and the cosine similarity of every tensor; exit code 6 when it fails.
    """
    settings = DiffusionQuantConfig() if config is None else DiffusionQuantConfig.from_yaml(config)
    with progress_bar(quiet=json) as show:
        result = ArrowQuantV2().validate_quality(
            original,
            out,
            settings,
            level=cast(Literal["weights", "outputs"], level),
            min_accuracy=min_accuracy,
            num_threads=threads or 0,
            progress_callback=show,
        )
    if json:
        print_json(result.json())
    else:
        _print_validation(result)
    if not result["passed"]:
        raise typer.Exit(ValidationError.exit_code)


def _facts(model: QuantizedModel) -> dict[str, Any]:
    tensors = [
        entry for name, part in model.components.items() for entry in _tensor_facts(name, part)
    ]
    quantized = [entry for entry in tensors if entry["bit_width"] is not None]
    weights = sum(math.prod(entry["shape"]) for entry in quantized)
    stored = sum(entry["stored_bytes"] for entry in quantized)
    quality = summed_up(
        LayerQuality(e["name"], math.prod(e["shape"]), e["cosine"], e["output_cosine"])
        for e in quantized
        if not math.isnan(e["cosine"])
    )
    sizes = sizes_of(model)
    return {
        "path": str(model.path),
        "modality": model.metadata.get("modality"),
        "components": list(model.components),
        "weights": weights,
        "stored_bytes": sizes.stored_bytes,
        "weights_bytes": sizes.weights_bytes,
        "total_bytes": sizes.total_bytes,
        "source_bytes": model.manifest.get("report", {}).get("source_bytes"),
        "bits_per_weight": 8 * stored / weights if weights else 0.0,
        **asdict(quality),
        "calibration": model.metadata.get("calibration"),
        "tensors": tensors,
    }


def _old_facts(facts: dict[str, Any], model: OldModel) -> dict[str, Any]:
    """What an old layout has to say: no quality was recorded, and its name is a fact."""
    for name in (*asdict(Quality()), "calibration"):
        facts[name] = None
    for entry in facts["tensors"]:
        tensor = model.components[entry["component"]][entry["name"]]
        if isinstance(tensor, OldTensor):
            entry["cosine"] = entry["nmse"] = None
            entry["granularity"] = tensor.granularity
    return {"path": facts["path"], "layout": model.layout, **facts}


def _tensor_facts(component: str, tensors: QuantizedComponent) -> list[dict[str, Any]]:
    sizes = tensors.stored_bytes
    folded, divided = _folds(tensors)
    return [
        {
            "component": component,
            "name": name,
            "shape": list(tensor.shape),
            "source_dtype": tensor.source_dtype,
            "bit_width": tensor.bit_width,
            "group_size": tensor.group_size,
            "param_encoding": tensor.param_encoding,
            "stored_bytes": sizes[name],
            "cosine": tensor.cosine,
            "nmse": tensor.nmse,
            "output_cosine": tensor.output_cosine,
            "output_nmse": tensor.output_nmse,
            "method": tensor.method,
            "candidates": tensor.candidates,
            "folded": name in folded,
            "divided": name in divided,
            "float_inputs": tensor.float_inputs,
        }
        for name, tensor in tensors.items()
    ]


def _folds(tensors: QuantizedComponent) -> tuple[set[str], set[str]]:
    """Layers whose factors were folded, and the tensors before them that were divided."""
    metadata = tensors.metadata
    ours = "arrow_quant_v2.format" in metadata
    folds = metadata["spatial_quant"].get("folds", []) if ours else []
    return (
        {name for fold in folds for name in fold["layers"]},
        {source["name"] for fold in folds for source in fold["sources"]},
    )


def _print_artefact(facts: dict[str, Any], every: bool) -> None:
    rows = [_row(group) for group in _groups(facts, every)]
    columns = [
        "tensor",
        "shape",
        "bits",
        "encoding",
        "method",
        "size",
        "cosine",
        "NMSE",
        "out NMSE",
    ]
    print_table(columns, rows, right=["bits", "size", "cosine", "NMSE", "out NMSE"])
    print_blank()
    kept_sizes = [e["stored_bytes"] for e in facts["tensors"] if e["bit_width"] is None]
    quantized = len(facts["tensors"]) - len(kept_sizes)
    divided = sum(e["divided"] for e in facts["tensors"] if e["bit_width"] is None)
    exact = f"exact but for {divided} divided" if divided else "exact"
    print_facts(
        [
            *([("layout", facts["layout"])] if "layout" in facts else []),
            ("modality", str(facts["modality"])),
            ("quantized", f"{quantized} tensors, {facts['bits_per_weight']:.3f} bits per weight"),
            ("kept", f"{len(kept_sizes)} tensors, {exact}, {size_text(sum(kept_sizes))}"),
            *_folded(facts),
            *weights_lines(facts["weights_bytes"], facts["source_bytes"], facts["total_bytes"]),
            *_quality(facts),
        ]
    )


def _groups(facts: dict[str, Any], every: bool) -> list[Group[dict[str, Any]]]:
    """Quantized tensors, worst first, and then kept ones; by pattern, unless `every` one is shown.

    Where no quality was recorded, the order is that of the file.
    """
    several = len(facts["components"]) > 1

    def name(entry: dict[str, Any]) -> str:
        return f"{entry['component']}/{entry['name']}" if several else str(entry["name"])

    shown = [e for e in facts["tensors"] if every or e["bit_width"] is not None]
    if every:
        groups = [Group(name(entry), (entry,)) for entry in shown]
    else:
        groups = grouped(shown, name, lambda entry: entry["bit_width"])
    return sorted(groups, key=lambda group: min(map(_accuracy, group.items)))


def _accuracy(entry: dict[str, Any]) -> float:
    """What a tensor is judged by; kept ones, and those of old layouts, come last."""
    if entry["bit_width"] is None or entry["cosine"] is None:
        return math.inf
    return float(entry["cosine"] if entry["output_cosine"] is None else entry["output_cosine"])


def _row(group: Group[dict[str, Any]]) -> list[str]:
    """A line for tensors: the sum of their sizes, and the worst of their figures."""
    entry = group.items[0]
    kept = entry["bit_width"] is None
    worst = {
        "cosine": _extreme(group, "cosine", min),
        "nmse": _extreme(group, "nmse", max),
        "output_nmse": _extreme(group, "output_nmse", max),
    }
    return [
        group.label,
        common(shape_text(item["shape"]) for item in group.items),
        "-" if kept else str(entry["bit_width"]),
        common(_marked(item) for item in group.items),
        common(item["method"] or "-" for item in group.items),
        size_text(sum(item["stored_bytes"] for item in group.items)),
        ("-" if entry["divided"] else "exact") if kept else _number(worst["cosine"], ".5f"),
        ("-" if entry["divided"] else "0") if kept else _number(worst["nmse"], ".2e"),
        _number(worst["output_nmse"], ".2e"),
    ]


def _extreme(
    group: Group[dict[str, Any]], key: str, choose: Callable[[list[float]], float]
) -> float | None:
    values = [item[key] for item in group.items if item[key] is not None]
    return choose(values) if values else None


def _folded(facts: dict[str, Any]) -> list[tuple[str, str]]:
    folded = sum(entry["folded"] for entry in facts["tensors"])
    if not folded:
        return []
    divided = sum(entry["divided"] for entry in facts["tensors"])
    return [("folded", f"factors of {folded} layers, into {divided} tensors before them")]


def _marked(entry: dict[str, Any]) -> str:
    """The encoding, and what a fold did to the tensor."""
    encoding = entry["source_dtype"] if entry["bit_width"] is None else _encoding(entry)
    return ", ".join([encoding, *(mark for mark in ("folded", "divided") if entry[mark])])


def _quality(facts: dict[str, Any]) -> list[tuple[str, str]]:
    if facts["cosine_similarity"] is None:
        return [("quality", "not recorded; arrow-quant validate ORIGINAL OUT measures it")]
    return [
        *quality_lines(facts),
        ("calibration", facts["calibration"]["kind"]),
    ]


def _encoding(entry: dict[str, Any]) -> str:
    if "granularity" in entry:
        return f"scale per {entry['granularity']}"
    return str(entry["param_encoding"])


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _print_metadata(model: QuantizedModel, *, as_json: bool) -> None:
    parts = {name: part.metadata for name, part in model.components.items()}
    if as_json:
        print_json(json_module.dumps(parts, indent=2, ensure_ascii=False))
        return
    for name, metadata in parts.items():
        facts = [("component", name)] if name else []
        for key, value in metadata.items():
            if isinstance(value, dict):
                facts.append((key, ""))
                facts += [(f"  {part}", _short(inner)) for part, inner in value.items()]
            else:
                facts.append((key, _short(value)))
        print_facts(facts)
    note("long values are cut; --json has all of them")


def _short(value: Any) -> str:
    """A value of the metadata on one line: of a long list its first entry and its length."""
    if isinstance(value, list) and len(value) == 1:
        return _short(value[0])
    if isinstance(value, list) and value:
        return f"{_short(value[0])}, ... ({len(value)})"
    text = value if isinstance(value, str) else json_module.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


def _print_validation(result: ValidationResult) -> None:
    facts = [
        ("result", verdict_text(result)),
        *weights_lines(result["weights_bytes"], result["source_bytes"], result["total_bytes"]),
        *(_compared(result) if result["worst_layer"] else []),
        ("tensors", f"{len(result['tensors'])} compared"),
    ]
    if result["output_cosine_similarity"] is not None:
        facts += [
            ("outputs", f"cosine {result['output_cosine_similarity']:.6f}"),
            ("output NMSE", f"{result['output_nmse']:.3g}"),
        ]
        facts += [
            (
                f"  t {entry['begin']:.4g} to {entry['end']:.4g}",
                f"cosine {entry['cosine_similarity']:.6f}  NMSE {entry['nmse']:.3g}",
            )
            for entry in result["outputs"]
        ]
    facts += [("problem", problem) for problem in problems_shown(result)]
    print_facts(facts)


def _compared(result: ValidationResult) -> list[tuple[str, str]]:
    """What the comparison of weights found; nothing where there was none to compare."""
    return [
        *quality_lines(result, result["min_accuracy"]),
        ("NMSE", _noise(result["nmse"], result["sqnr_db"])),
    ]


def _noise(nmse: float, decibels: float | None) -> str:
    return f"{nmse:.3g}" if decibels is None else f"{nmse:.3g} (SQNR {decibels:.1f} dB)"
