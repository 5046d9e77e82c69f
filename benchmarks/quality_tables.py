"""Tables of the quality benchmark for docs/benchmarks.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.markdown import table
from benchmarks.quality_settings import ABLATION

Rows = Sequence[dict[str, Any]]

_INTRODUCTION = """\
## Quality end to end

`python -m benchmarks.quality`. All planned layers of a model are quantized by every method, the
others stay as they are, and `zoo.evaluate` measures the held-out loss with the same items and
noise for all. Every parameter counts in the bits per weight. Calibrated methods (c) work from the
same statistics of {samples} samples that each model made itself. *mean*: relative difference of
the mean loss from the reference, and its 95 % interval; *geo*: the same as a geometric mean over
bins of diffusion time; *worst*: of the worst bin; *drift*: squared distance of the predictions
from the reference's over the reference's loss (language models: KL in nats). A loss can fall by
damage; drift cannot. Ours are in bold.
"""


def quality_section(rows: Rows) -> str:
    """An overview over models, a table for each model, and the ablation."""
    plain = [row for row in rows if not row["method"].startswith(ABLATION)]
    models = list(dict.fromkeys(row["model"] for row in plain))
    parts = [_INTRODUCTION.format(samples=max(row["samples"] for row in rows)), _overview(plain)]
    for model in models:
        own = [row for row in plain if row["model"] == model]
        parts.append(f"### {model}\n\n{_model_table(own)}")
    ablation = [row for row in rows if row["method"].startswith(ABLATION)]
    if ablation:
        parts.append(_ablation(ablation))
    return "\n".join(parts)


def _overview(rows: Rows) -> str:
    """Mean loss of every method on every model."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    methods = sorted({(r["family"], r["method"]) for r in rows}, key=_by_width(rows))
    cells = {(row["method"], row["model"]): row for row in rows}
    body = []
    for _, method in methods:
        found = [cells[method, model] for model in models if (method, model) in cells]
        bits = sum(row["bits_per_weight"] for row in found) / len(found)
        body.append(
            (
                _name(found[0]),
                f"{bits:.2f}",
                *(
                    _percent(cells[method, model]["mean"]) if (method, model) in cells else ""
                    for model in models
                ),
            )
        )
    return "Difference of the mean loss:\n\n" + table(("method", "bits", *models), body)


def _by_width(rows: Rows) -> Any:
    bits: dict[str, list[float]] = {}
    for row in rows:
        bits.setdefault(row["method"], []).append(row["bits_per_weight"])
    means = {method: sum(found) / len(found) for method, found in bits.items()}
    return lambda key: (key[0] != "INT8", key[0] != "INT4", round(means[key[1]], 2), key[1])


def _model_table(rows: Rows) -> str:
    ordered = sorted(
        rows, key=lambda r: (-int(r["family"][-1]), round(r["bits_per_weight"], 2), r["mean"])
    )
    return table(
        ("method", "bits", "mean", "interval", "geo", "worst", "drift", "quantized in"),
        [
            (
                _name(row),
                f"{row['bits_per_weight']:.3f}",
                _percent(row["mean"]),
                f"{_percent(row['low'])} to {_percent(row['high'])}",
                _percent(row["geometric_mean"]),
                _percent(row["worst_bin"]),
                f"{row['drift']:.3g}",
                f"{row['seconds']:.1f} s",
            )
            for row in ordered
        ],
    )


def _ablation(rows: Rows) -> str:
    """Rows: what is added. Columns: weights and activations. Cells: by model, and their mean."""
    text = (
        "### What spatial and time-aware quantization bring\n\n"
        "Calibrated INT2, INT4 and INT8 at group size 64; activations of A8 are simulated int8,\n"
        "static with one range (time-aware: one for each group of timesteps) or dynamic by token\n"
        "(convolutions: by sample). Without time-aware, every token of the same samples counts\n"
        "alike. Drift of each model, and by how much its geometric mean over models is below\n"
        "*base*.\n\n"
    )
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells = {(row["method"], row["model"]): max(row["drift"], 1e-12) for row in rows}
    body = []
    for family in dict.fromkeys(row["family"] for row in rows):
        for part in ("base", "+ spatial", "+ time-aware", "+ both"):
            name, base = f"{ABLATION} {family} {part}", f"{ABLATION} {family} base"
            both = [m for m in models if (name, m) in cells and (base, m) in cells]
            if not both:
                continue
            ratios = [math.log(cells[name, m] / cells[base, m]) for m in both]
            saved = 1 - math.exp(sum(ratios) / len(ratios))
            found = [f"{cells[name, m]:.3g}" if m in both else "" for m in models]
            body.append((family, part, *found, "" if part == "base" else f"{100 * saved:.0f} %"))
    return text + table(("", "", *models, "less drift"), body)


def _name(row: dict[str, Any]) -> str:
    name = row["method"] + (" (c)" if row["calibrated"] else "")
    return f"**{name}**" if row["ours"] else name


def _percent(value: float) -> str:
    """Three digits, or powers of ten of the loss itself where it is destroyed."""
    if value >= 100:
        return f"x {value + 1:.0f}"
    return f"{100 * value:+.0f} %" if abs(value) >= 1 else f"{100 * value:+.2g} %"
