"""What a reader wants first: loss by width beside peers, size, speed; from the published results.

Losses come from ``quality.parquet``. Times stand in the sections of the page that other benchmarks
wrote, and are taken from there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.markdown import table

__all__ = ["section", "steps", "widths"]

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
CHART = PAGE.with_suffix(".svg")
PUBLISHED = Path(__file__).with_name("quality.parquet")

HEADING = "Summary"
MODELS = ("image-unet", "image-dit", "text", "code", "audio")
#: Methods of the table, and what a reader may call them.
METHODS: Mapping[str, str] = {
    "INT8 ArrowQuant": "**INT8 ArrowQuant** (c)",
    "INT8 ggml q8_0": "llama.cpp q8_0",
    "INT4 ArrowQuant g128": "**INT4 ArrowQuant** (c)",
    "INT4 reference GPTQ g128": "GPTQ (c)",
    "INT4 ggml q4_K, importance": "llama.cpp q4_K, imatrix (c)",
    "INT4 HQQ g64": "HQQ",
    "INT4 torchao g64": "torchao",
    "INT4 round to nearest g128": "round to nearest",
    "INT2 ArrowQuant mixed 3.06 bits": "**mixed precision ArrowQuant** (c)",
    "INT2 ArrowQuant mixed 2.56 bits": "**mixed precision ArrowQuant** (c)",
    "INT2 ArrowQuant learned g128": "**INT2 ArrowQuant, learned rounding** (c)",
    "INT2 ArrowQuant g128": "**INT2 ArrowQuant** (c)",
    "INT2 reference GPTQ g128": "GPTQ (c)",
    "INT2 ggml q2_K, importance": "llama.cpp q2_K, imatrix (c)",
    "INT2 HQQ g64": "HQQ",
    "INT2 round to nearest g128": "round to nearest",
}
#: Runtimes of the table of steps, and how they are asked for.
RUNTIMES: Mapping[str, str] = {
    "torch f32": "torch, float32",
    "torch bf16": "torch, bfloat16",
    "torchao int8 dynamic, bf16": "torchao, int8 weights and activations",
    "OpenVINO int8 weights": "OpenVINO, int8 weights",
    "**ours W4, float inputs**": "**ours INT4, the default**",
    "**ours W4A8, packed**": '**ours INT4**, `activation="dynamic"`, `compute="packed"`',
    "**ours W4A8, packed, bf16**": "**ours INT4**, the same with `dtype=torch.bfloat16`",
    "**ours W4A8, int8 kept, bf16**": '**ours INT4**, the same with `compute="int8"`',
}
_MEASURED = re.compile(r"^A denoising step of (.+?), batch 2:\n\n((?:^\|.*\n)+)", re.MULTILINE)


def section(rows: Sequence[Mapping[str, Any]], page: str) -> str:
    """The first section of docs/benchmarks.md; `page` has the sections with times."""
    return (
        f"## {HEADING}\n\n"
        "How much the loss on unseen data grew, on the five trained models of the zoo. All\n"
        "parameters count in the bits per weight. (c): calibrated on 128 samples. The last column\n"
        "is the size relative to 16-bit weights.\n\n"
        + widths(rows)
        + "\nThe geometric mean over the five models (lower is better; logarithmic axis):\n\n"
        "![Growth of the loss by bits per weight, for ArrowQuant and other tools](benchmarks.svg)\n"
        "\nSeconds for one denoising step at batch 2, two threads, AVX-512 with VNNI and BF16,\n"
        "random weights:\n\n"
        + steps(page)
        + "\n- INT8: the loss of all five models lies within the confidence interval of the float\n"
        "  model.\n"
        "- INT4 keeps more quality than every other 4-bit method here, at a similar size.\n"
        "- Below 4 bits, mixed precision is the best choice, then learned rounding.\n"
        "- Speed needs int8 activations. With float inputs (the default) a step is slower than\n"
        "  torch in bfloat16.\n"
        "- Memory: quantizing a 2 GiB model without calibration took 318 MB\n"
        "  ([bounded memory](#a-2-gib-model-in-bounded-memory)); loading peaks at 1.1 times the\n"
        "  packed size ([running](#running)).\n"
    )


def widths(rows: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Loss growth of the zoo's models by method."""
    found = pq.read_table(PUBLISHED).to_pylist() if rows is None else rows
    cells = {(row["method"], row["model"]): row for row in found}
    body = []
    for method, name in METHODS.items():
        own = [cells[method, model] for model in MODELS]
        bits = sum(row["bits_per_weight"] for row in own) / len(own)
        growth = [_growth(row["mean"]) for row in own]
        body.append((name, f"{bits:.2f}", *growth, f"{bits / 16:.0%}".replace("%", " %")))
    return table(("method", "bits per weight", *MODELS, "size"), body)


def steps(page: str | None = None) -> str:
    """Seconds of a denoising step by runtime, from the section *Running*."""
    models = _MEASURED.findall(PAGE.read_text() if page is None else page)
    seconds = [_seconds(rows) for _, rows in models]
    body = [
        (name, *(times.get(runtime, "") for times in seconds)) for runtime, name in RUNTIMES.items()
    ]
    return table(("runtime", *(model for model, _ in models)), body)


def _seconds(rows: str) -> dict[str, str]:
    cells = [[cell.strip() for cell in row[1:-1].split("|")] for row in rows.splitlines()[2:]]
    return {runtime: f"{seconds} s" for runtime, seconds, *_ in cells}


def _growth(value: float) -> str:
    """A relative growth in per cent; what is below 0.01 % is called that."""
    if value < 1e-4:
        return "< 0.01 %"
    return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.2g} %"
