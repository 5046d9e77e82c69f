"""The chart of docs/benchmarks.md: growth of the loss by bits per weight, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["svg"]

WIDTH, HEIGHT = 800, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 210, 20, 50
BITS = (2.0, 4.75)
GROWTH = (5e-4, 1.0)  # 0.05 % to 100 %
TICKS = ((0.001, "0.1 %"), (0.01, "1 %"), (0.1, "10 %"), (1.0, "100 %"))


@dataclass(frozen=True)
class Series:
    """Methods of one kind: how they are named and drawn, and which they are."""

    name: str
    colour: str
    methods: tuple[str, ...]


SERIES = (
    Series(
        "ArrowQuant",
        "#0b6bcb",
        tuple(f"INT{bits} ArrowQuant g{group}" for bits in (4, 2) for group in (64, 128)),
    ),
    Series(
        "ArrowQuant, mixed and learned",
        "#12a150",
        tuple(
            f"INT2 ArrowQuant {kind}"
            for kind in ("mixed 3.06 bits", "mixed 2.56 bits", "learned g128")
        ),
    ),
    Series(
        "GPTQ",
        "#9353d3",
        tuple(f"INT{bits} reference GPTQ g{group}" for bits in (4, 2) for group in (64, 128)),
    ),
    Series(
        "llama.cpp, imatrix",
        "#f5a524",
        ("INT4 ggml q4_K, importance", "INT4 ggml q4_0, importance", "INT2 ggml q2_K, importance"),
    ),
    Series("HQQ", "#d33131", ("INT4 HQQ g64", "INT2 HQQ g64")),
    Series(
        "round to nearest",
        "#71717a",
        tuple(f"INT{bits} round to nearest g{group}" for bits in (4, 2) for group in (64, 128)),
    ),
)


def svg(rows: Sequence[Mapping[str, Any]], models: Sequence[str]) -> str:
    """Points of all methods: the geometric mean of the growth over `models`."""
    cells = {(row["method"], row["model"]): row for row in rows}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *_axes(),
    ]
    for number, series in enumerate(SERIES):
        points = sorted(
            _point([cells[method, model] for model in models]) for method in series.methods
        )
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{series.colour}" opacity="0.4"/>'
        )
        parts += [_dot(x, y, series.colour) for x, y in points]
        legend = TOP + 14 + 20 * number
        parts.append(_dot(WIDTH - RIGHT + 14, legend - 4, series.colour))
        parts.append(f'<text x="{WIDTH - RIGHT + 24}" y="{legend}">{series.name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'


def _point(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    bits = sum(row["bits_per_weight"] for row in rows) / len(rows)
    logs = [math.log(max(row["mean"], 1e-5)) for row in rows]
    return _x(bits), _y(math.exp(sum(logs) / len(logs)))


def _x(bits: float) -> float:
    share = (bits - BITS[0]) / (BITS[1] - BITS[0])
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(growth: float) -> float:
    low, high = map(math.log, GROWTH)
    share = (math.log(growth) - low) / (high - low)
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _axes() -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value, label in TICKS:
        y = _y(value)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for half in range(4, 10):
        x = _x(half / 2)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#eee"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{half / 2:g}</text>'
        )
    middle = (LEFT + right) / 2
    below = f'x="{middle}" y="{HEIGHT - 10}" text-anchor="middle"'
    parts.append(f"<text {below}>bits per weight</text>")
    turned = (TOP + bottom) / 2
    parts.append(
        f'<text transform="translate(14 {turned}) rotate(-90)" text-anchor="middle">'
        "growth of the loss</text>"
    )
    return parts
