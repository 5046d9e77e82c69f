"""The sections of docs/benchmarks.md about running models, from the results of ``runtime.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ["runtime_section"]

Table = Callable[[Sequence[str], Iterable[Sequence[str]]], str]


def runtime_section(results: dict[str, Any], table: Table) -> str:
    """Everything that was measured of: products, one token, steps, loading."""
    head = (
        "## Running\n\n"
        f"`python -m benchmarks.runtime`, {results['threads']} threads, {results['isa']}, random\n"
        "weights; the runtimes take turns. *packed*: codes stay packed in memory. *int8 kept*:\n"
        "the int8 form is stored too. W4A8: 4-bit weights, int8 activations. Runtimes that were\n"
        "not installed are missing.\n"
    )
    parts = [head]
    if "products" in results:
        parts.append(products_table(results["products"], table))
    if "single" in results:
        parts.append(single_table(results["single"], table))
    parts += [steps_table(model, table) for model in results.get("steps", [])]
    if "loading" in results:
        parts.append(loading_table(results["loading"], table))
    return "\n".join(parts)


def products_table(rows: list[dict[str, Any]], table: Table) -> str:
    tokens = list(rows[0]["gops"])
    return "GOP/s of a 4096 x 4096 linear layer, by tokens:\n\n" + table(
        ("layer", *tokens),
        ((bold(row["name"]), *(f"{row['gops'][n]:.0f}" for n in tokens)) for row in rows),
    )


def single_table(single: dict[str, Any], table: Table) -> str:
    return (
        "One token, f32 inputs, weights too large for the caches; memory reads at "
        f"{single['bandwidth_gbs']:.1f} GB/s:\n\n"
        + table(
            ("weights", "packed GB/s", "of bandwidth"),
            (
                (f"**ours W{r['bits']}**", f"{r['gbs']:.1f}", f"{r['of_bandwidth']:.2f}")
                for r in single["rows"]
            ),
        )
    )


def steps_table(model: dict[str, Any], table: Table) -> str:
    seconds = model["seconds"]
    base = min(seconds["torch f32"], seconds["torch bf16"])
    memory = model["memory_over_packed"]
    return f"A denoising step of {model['model']}, batch 2:\n\n" + table(
        ("runtime", "seconds", "faster than torch's best", "memory over packed size"),
        (
            (
                bold(name),
                f"{value:.3f}",
                f"{base / value:.2f}",
                f"{memory[name]:.2f}" if name in memory else "",
            )
            for name, value in sorted(seconds.items(), key=lambda item: item[1])
        ),
    )


def loading_table(rows: list[dict[str, Any]], table: Table) -> str:
    return "Loading DiT-B from a warm cache:\n\n" + table(
        ("weights", "packed MB", "seconds", "GB/s", "peak memory over packed size"),
        (
            (
                f"**ours W{r['bits']}**",
                f"{r['stored_bytes'] / 1e6:.0f}",
                f"{r['seconds']:.3f}",
                f"{r['stored_bytes'] / r['seconds'] / 1e9:.2f}",
                f"{r['peak_bytes'] / r['stored_bytes']:.2f}",
            )
            for r in rows
        ),
    )


def bold(name: str) -> str:
    return f"**{name}**" if name.startswith("ours") else name
