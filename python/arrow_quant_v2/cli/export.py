"""``arrow-quant export``: an artefact in a form that other programs read."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from arrow_quant_v2.cli import options
from arrow_quant_v2.cli.console import print_facts, print_json, progress_bar, size_text
from arrow_quant_v2.cli.exit_codes import command
from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.export import export_int8, export_packed, export_safetensors

#: Forms that an artefact can be exported to.
FORMATS = ("safetensors", "packed", "int8", "comfyui")


@command
def export(
    out: options.Artefact,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Directory to create.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="|".join(FORMATS),
            show_default=False,
            help="Required. safetensors: dequantized, as the model came; packed: for "
            "from_pretrained after `import arrow_quant_v2.integrations.diffusers`; int8: int8 "
            "weights and row scales; "
            "comfyui: the same for linear layers, as ComfyUI's int8_tensorwise.",
        ),
    ] = "",
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="float32|float16|bfloat16",
            help="Type of dequantized tensors (safetensors only); default: what each was.",
        ),
    ] = None,
    int2_order: Annotated[
        str,
        typer.Option(
            "--int2-order",
            metavar="lsb|msb",
            help="Old models: which of four packed 2-bit weights is first.",
        ),
    ] = "lsb",
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Write a directory that other programs load."""
    if format not in FORMATS:
        names = ", ".join(map(repr, FORMATS[:-1]))
        what = f"Invalid --format: {format!r}" if format else "Missing option '--format'"
        raise ConfigurationError(f"{what}. Must be {names}, or {FORMATS[-1]!r}.")
    if dtype is not None and format != "safetensors":
        raise ConfigurationError(f"--dtype is for --format safetensors, not {format}")
    num_threads = DiffusionQuantConfig(num_threads=threads or 0).num_threads
    with progress_bar(quiet=json) as show:
        if format == "safetensors":
            written = export_safetensors(
                out,
                destination,
                dtype=dtype,
                int2_order=int2_order,
                num_threads=num_threads,
                progress_callback=show,
            )
        elif format == "packed":
            written = export_packed(
                out, destination, num_threads=num_threads, progress_callback=show
            )
        else:
            written = export_int8(
                out,
                destination,
                comfyui=format == "comfyui",
                num_threads=num_threads,
                progress_callback=show,
            )
    files = [path for path in written.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    if json:
        facts = {"path": str(written), "format": format, "bytes": size, "files": len(files)}
        print_json(json_module.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print_facts(
            [("output", str(written)), ("size", f"{size_text(size)} in {len(files)} files")]
        )
