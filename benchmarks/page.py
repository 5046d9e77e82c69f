"""docs/benchmarks.md from results: one section for each benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq

from benchmarks import (
    accuracy_page,
    calibration_cost,
    chart,
    large_model,
    quantizers,
    step_parts,
    summary,
)
from benchmarks.markdown import table
from benchmarks.quality_tables import quality_section
from benchmarks.runtime_page import runtime_section

ROOT = quantizers.ROOT
PAGE = ROOT / "docs" / "benchmarks.md"


def error_section(error: dict[str, Any]) -> str:
    rows = sorted(
        error["own"] + error["peers"], key=lambda row: (row["bits_per_weight"], row["gauss"])
    )
    own = {row["name"] for row in error["own"]}
    return (
        "## Weight error\n\n"
        "`python -m benchmarks.quantizers`. NMSE = sum (w - v)^2 / sum w^2 of a 4096 x 4096\n"
        "matrix of random weights. All parameters count in the bits per weight. Ours\n"
        "are in bold.\n\n"
        + table(
            ("method", "bits per weight", "Gauss", "Laplace"),
            (
                (
                    f"**{row['name']}**" if row["name"] in own else row["name"],
                    f"{row['bits_per_weight']:.3f}",
                    f"{row['gauss']:.3g}",
                    f"{row['laplace']:.3g}",
                )
                for row in rows
            ),
        )
    )


#: Which ggml format a row of ours is set against.
RIVALS = {("rtn", 4): "q4_0", ("search", 4): "q4_K", ("search", 2): "q2_K", ("rtn", 8): "q8_0"}


def speed_section(speed: dict[str, Any]) -> str:
    bandwidth = speed["streaming_sum_gbs"]
    ggml = speed["ggml"]

    def own_row(row: dict[str, Any]) -> tuple[str, ...]:
        rate = row["mweights_per_s"]
        rival = RIVALS.get((row["method"], row["bit_width"]), "")
        against = f"{rate / ggml[rival]:.1f} x {rival}" if rival in ggml else ""
        return (row["name"], f"{rate:,.0f}", f"{rate * 4e-3 / bandwidth:.2f}", against)

    peers = ((f"ggml {k}", f"{v:,.0f}", f"{v * 4e-3 / bandwidth:.2f}", "") for k, v in ggml.items())
    return (
        "## Throughput\n\n"
        f"The same command, {speed['threads']} threads, {speed['isa']}: float32 weights in memory\n"
        f"to packed codes and parameters. Memory reads at {bandwidth:.1f} GB/s (a streaming sum,\n"
        "same run). *of bandwidth* is the float32 bytes per second divided by that.\n\n"
        + table(
            ("quantize", "M weights/s", "of bandwidth", "against ggml"),
            [*map(own_row, speed["quantize"]), *peers],
        )
        + "\nFrom packed rows back to float32 in memory:\n\n"
        + table(
            ("dequantize", "M weights/s", "of bandwidth"),
            (
                (
                    row["name"].removeprefix("rtn "),
                    f"{row['mweights_per_s']:,.0f}",
                    f"{row['mweights_per_s'] * 4e-3 / bandwidth:.2f}",
                )
                for row in speed["dequantize"]
            ),
        )
    )


def feedback_section(run: dict[str, Any]) -> str:
    return (
        "## Error feedback\n\n"
        f"`bench_gptq`: GPTQ of a {run['rows']} x {run['channels']} layer from its Gram matrix,\n"
        f"{run['threads']} threads. In the same run, OpenBLAS's sgemm reaches\n"
        f"{run['sgemm_gflops']:.0f} GFLOP/s. `of sgemm` compares with it the rate of GPTQ's\n"
        "nominal multiply-adds: channels^3 / 3 each for the factorization and the inverse, rows *\n"
        "channels^2 for the updates. Our form of error feedback needs no inverse and half of the\n"
        "updates, so it can exceed 1. By default, four more scales of each row are tried, and the\n"
        "best is used: the last column.\n"
        f"The Gram matrix is added up at {run['gram_of_ssyrk']:.2f} of the rate of ssyrk.\n"
        + _gptqmodel(run)
        + "\n"
        + table(
            (
                "layer",
                "factor, s",
                "search, s",
                "feedback, s",
                "whole, s",
                "of sgemm",
                "5 scales, s",
            ),
            (
                (
                    f"INT{row['bit_width']} {row['params']} g{row['group_size']}",
                    f"{run['factor_seconds']:.2f}",
                    f"{row['search_seconds']:.2f}",
                    f"{row['feedback_seconds']:.2f}",
                    f"{row['whole_seconds']:.2f}",
                    f"{row['of_sgemm']:.2f}",
                    f"{row['scales_seconds']:.2f}",
                )
                for row in run["layers"]
            ),
        )
    )


def _gptqmodel(run: dict[str, Any]) -> str:
    if "gptqmodel" not in run:
        return ""
    return (
        f"GPTQModel takes {run['gptqmodel']['seconds']:.2f} s for such a layer at 4 bits, group 64"
        " (`benchmarks.gptqmodel`,\nsame run).\n"
    )


def read_back_section(rows: list[dict[str, Any]]) -> str:
    return (
        "## Reading an artefact back\n\n"
        "`bench_artefact` on 0.8 billion weights in the shapes of a 7B model, two threads, page\n"
        "checksums verified, warm cache. Opening reads only the manifest and the\n"
        "Parquet footer.\n\n"
        + table(
            ("bits", "open, ms", "float32 GB/s", "of bandwidth"),
            (
                (
                    f"INT{row['bit_width']}",
                    f"{row['open_ms']:.2f}",
                    f"{row['dequantize_gbs']:.1f}",
                    f"{row['of_bandwidth']:.2f}",
                )
                for row in rows
            ),
        )
    )


def memory_section(row: dict[str, float]) -> str:
    return (
        "## A 2 GiB model in bounded memory\n\n"
        "`python -m benchmarks.bounded_memory`: `arrow-quant quantize --method rtn\n"
        "--max-memory-mb 300` (no calibration, no torch) of a bfloat16 model in the shapes of a\n"
        "7B model. The peak is that of the whole process. *ratio* is the time divided by the\n"
        "larger of reading the input once and writing the output once (with fsync),\n"
        "same files, same disk.\n\n"
        + table(
            ("input", "output", "peak resident", "time", "read once", "write once", "ratio"),
            [
                (
                    f"{row['input_gib']:.2f} GiB",
                    f"{row['output_gib']:.2f} GiB",
                    f"{row['peak_rss_mb']:.0f} MB",
                    f"{row['seconds']:.2f} s",
                    f"{row['read_seconds']:.2f} s",
                    f"{row['write_seconds']:.2f} s",
                    f"{row['ratio']:.2f}",
                )
            ],
        )
    )


#: What the page shows, in order: headings, and what writes a section with its heading.
SECTIONS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "quality": ("Quality end to end", quality_section),
    "accuracy": ("Accuracy by width", accuracy_page.section),
    "calibration_cost": (
        "What calibrated parts cost",
        lambda results: calibration_cost.section(results, table),
    ),
    "error": ("Weight error", error_section),
    "speed": ("Throughput", speed_section),
    "error_feedback": ("Error feedback", feedback_section),
    "read_back": ("Reading an artefact back", read_back_section),
    "bounded_memory": ("A 2 GiB model in bounded memory", memory_section),
    "runtime": ("Running", lambda results: runtime_section(results, table)),
    "step_parts": (
        "Between layers, and time-dependent parameters",
        lambda results: step_parts.section(results, table),
    ),
    "large_model": (
        "A 7B model to its first step",
        lambda results: large_model.section(results, table),
    ),
}


def page(results: dict[str, Any], before: str = "") -> str:
    """The page with new results, and from the page `before` what was not measured again."""
    head = (
        "# Benchmarks\n\n"
        "*Made from the results by `make bench`; do not edit.* Absolute times depend on the\n"
        "machine; compare only numbers of one table. The [glossary](glossary.md) explains the\n"
        "words.\n"
    )
    old = {part.partition("\n")[0]: f"## {part}" for part in before.split("\n## ")[1:]}
    sections = [
        write(results[key]) if key in results else old.get(heading, "")
        for key, (heading, write) in SECTIONS.items()
    ]
    rest = "\n".join(f"{text.rstrip()}\n" for text in sections if text)
    rows = results.get("quality") or pq.read_table(summary.PUBLISHED).to_pylist()
    return "\n".join([head, f"{summary.section(rows, rest).rstrip()}\n", rest])


def update_page(results: dict[str, Any]) -> None:
    """Write docs/benchmarks.md anew where there are results, and keep the rest; and its chart."""
    PAGE.write_text(page(results, PAGE.read_text() if PAGE.exists() else ""))
    published = pq.read_table(summary.PUBLISHED).to_pylist()
    summary.CHART.write_text(chart.svg(published, summary.MODELS))
    print(f"wrote {PAGE.relative_to(ROOT)}")
