"""``arrow-quant batch``: several models with one configuration."""

from __future__ import annotations

import json as json_module
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from arrow_quant_v2.batch import quantize_many
from arrow_quant_v2.cli import options
from arrow_quant_v2.cli.console import print_json, print_table, progress_bar, size_text, warn
from arrow_quant_v2.cli.exit_codes import command, report_failure
from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.errors import ArrowQuantError
from arrow_quant_v2.quantize.result import QuantizationResult
from arrow_quant_v2.quantize.run import quantize_files

_MB = 1e6
#: Options that are about one model, and the targets, are not for many.
_SETTINGS = tuple(
    name
    for name in options.WITHOUT_TARGETS
    if name not in ("layer_rules", "components", "param_encoding")
)

Models = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL", help="Directories of pipelines or components, or weight files."
    ),
]


@command
@options.takes_settings(*_SETTINGS)
def batch(
    models: Models,
    into: Annotated[
        Path, typer.Option("--into", metavar="DIR", help="Each output is DIR/<name of the model>.")
    ],
    settings: DiffusionQuantConfig,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace artefacts that are in DIR.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Quantize several models with one configuration.

    One that fails does not stop the others; the exit code is that of the first failure.
    """
    jobs = [(model, into / _output_name(model), settings) for model in models]
    with progress_bar(quiet=json) as show:
        results = quantize_many(partial(quantize_files, overwrite=overwrite), jobs, show)
    finished = list(zip(models, results, strict=True))
    if json:
        entries = [_entry(model, result) for model, result in finished]
        print_json(json_module.dumps(entries, indent=2, ensure_ascii=False))
    else:
        _print_results(finished)
    codes = [report_failure(result) for result in results if isinstance(result, Exception)]
    if codes:
        raise typer.Exit(codes[0])


def _output_name(model: Path) -> str:
    name = Path(os.path.basename(os.path.realpath(model)))
    return name.stem if name.suffix == ".safetensors" else name.name


def _entry(model: Path, result: QuantizationResult | Exception) -> dict[str, Any]:
    if isinstance(result, QuantizationResult):
        return {"model": str(model), "result": dict(result)}
    code = result.code if isinstance(result, ArrowQuantError) else type(result).__name__
    return {"model": str(model), "error": {"code": code, "message": str(result)}}


def _print_results(finished: list[tuple[Path, QuantizationResult | Exception]]) -> None:
    rows = []
    for model, result in finished:
        if isinstance(result, Exception):
            continue
        warn([f"{model}: {text}" for text in result["warnings"]])
        rows.append(
            [
                _output_name(model),
                str(result["bit_width"]),
                size_text(round(result["model_size_mb"] * _MB)),
                f"{result['compression_ratio']:.2f}",
                f"{result['cosine_similarity']:.5f}",
                f"{result['quantization_time_s']:.1f} s",
            ]
        )
    columns = ["model", "bits", "weights", "times smaller", "cosine", "time"]
    if rows:
        print_table(columns, rows, right=columns[1:])
