"""Tables of the quality benchmark for docs/benchmarks.md."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.markdown import table
from benchmarks.quality_settings import ABLATION

Rows = Sequence[dict[str, Any]]

#: What is added to *base* in the ablation, and the gain in per cent that the guide promises for it.
_PARTS: Mapping[str, tuple[int, int]] = {
    "+ spatial": (10, 15),
    "+ time-aware": (10, 20),
    "+ both": (10, 50),
}
_BASE = "base"
_LEAST_DRIFT = 1e-12

_INTRODUCTION = """\
## Quality end to end

`python -m benchmarks.quality`. Every method quantizes the same layers of a model; the other layers
are not quantized. `zoo.evaluate` then measures the loss on held-out data, with the same items and
noise for all. All parameters count in the bits per weight. Calibrated methods (c) use the same
statistics of {samples} samples, which each model made itself. Ours are in bold.

- *mean*: relative difference of the mean loss from that of the reference, with its 95 % interval.
- *geo*: the same as a geometric mean over bins of diffusion time. *worst*: the worst bin.
- *drift*: squared distance of the predictions from the reference's, divided by the reference's loss
  (language models: KL in nats). A loss can fall by chance; drift cannot.
- Of the two files of taef2-vae, one is quantized at a time.
- `g128`: groups of 128 weights. *importance*: with llama.cpp's imatrix.
- *data-free*: without calibration.
"""


def quality_section(rows: Rows) -> str:
    """An overview over models, a table for each model, and the ablation."""
    plain = [row for row in rows if not row["method"].startswith(ABLATION)]
    models = list(dict.fromkeys(row["model"] for row in plain))
    parts = [_INTRODUCTION.format(samples=max(row["samples"] for row in rows)), _overview(plain)]
    for model in models:
        own = [row for row in plain if row["model"] == model]
        parts.append(f"### {model}\n\n{_model_table(own)}")
    ablation = _comparable([row for row in rows if row["method"].startswith(ABLATION)])
    if ablation:
        parts += [_ablation(ablation), _claims(ablation, plain)]
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


def _comparable(rows: Rows) -> list[dict[str, Any]]:
    """Settings of the ablation that a model was measured at with every part, by width."""
    counts = Counter((row["model"], row["family"]) for row in rows)
    whole = [row for row in rows if counts[row["model"], row["family"]] == 1 + len(_PARTS)]
    return sorted(whole, key=lambda row: ("A8" in row["family"], row["family"], row["model"]))


def _ablation(rows: Rows) -> str:
    """Rows: what is added. Columns: weights and activations. Cells: by model, and their mean."""
    text = (
        "### What spatial and time-aware quantization bring\n\n"
        "Drift of each model, and by how many per cent its geometric mean over the models is\n"
        "below that of *base*. INT2, INT4 and INT8 are calibrated, with groups of 64. A8 means\n"
        "simulated int8 activations: static with one range (time-aware: one for each group of\n"
        "timesteps), or dynamic per token (convolutions: per sample). Without time-aware, all\n"
        "tokens count the same, and no layer keeps float inputs. Time-aware calibration finds the\n"
        "few layers that are too sensitive for int8 inputs (9 of 61 in image-unet,\n"
        "none elsewhere).\n\n"
    )
    models = list(dict.fromkeys(row["model"] for row in rows))
    drifts = _drifts(rows)
    body = []
    for family in dict.fromkeys(row["family"] for row in rows):
        for part in (_BASE, *_PARTS):
            name, base = _ablated(family, part), _ablated(family, _BASE)
            saved = _saved(drifts, name, base)
            if saved is None:
                continue
            found = [f"{drifts[name][m]:.3g}" if m in drifts[name] else "" for m in models]
            body.append((family, part, *found, "" if part == _BASE else f"{100 * saved:.0f} %"))
    return text + table(("", "", *models, "less drift"), body)


def _claims(ablation: Rows, plain: Rows) -> str:
    """The promises of the migration guide beside what the rows say, whether they hold or not."""
    drifts = _drifts(ablation)
    families = list(dict.fromkeys(row["family"] for row in ablation))
    body = []
    for part, (least, most) in _PARTS.items():
        gains = [_saved(drifts, _ablated(f, part), _ablated(f, _BASE)) for f in families]
        reached = sum(gain is not None and round(100 * gain) >= least for gain in gains)
        known = sum(gain is not None for gain in gains)
        cells = ["" if gain is None else f"{100 * gain:.0f} %" for gain in gains]
        body.append((part, f"{least} to {most} %", *cells, f"{reached} of {known}"))
    return (
        "### What the guide claims and what was measured\n\n"
        "The migration guide promises better accuracy. We measure it as less drift: the last\n"
        "column of the table above, a geometric mean over the models that were measured in that\n"
        "setting. The table shows it beside the promise, and in how many of the settings the\n"
        "lower end of the promise is reached. The figures are what the code does, whatever the\n"
        "guide says.\n\n"
        + table(("added to *base*", "guide", *families, "reached in"), body)
        + _by_single_models(drifts, families)
        + _against_base_mode(plain)
        + "\nA part that does not lower a layer's error on held-out inputs is left out of that\n"
        "layer. So a gain can be zero; the metadata then say `no layer gained by it`. The guide\n"
        "also promises less than 10 % more time:\n"
        "[What calibrated parts cost](#what-calibrated-parts-cost).\n"
    )


def _by_single_models(drifts: Mapping[str, Mapping[str, float]], families: Sequence[str]) -> str:
    """The least and the most that both parts bring to one model."""
    gains = []
    for family in families:
        both, base = drifts.get(_ablated(family, "+ both"), {}), drifts[_ablated(family, _BASE)]
        gains += [(1 - both[m] / base[m], f"{m}, {family}") for m in sorted(both.keys() & base)]
    (least, where), (most, there) = min(gains), max(gains)
    return (
        f"\nOn single models, both together bring between {100 * least:.0f} % ({where})\n"
        f"and {100 * most:.0f} % ({there}).\n"
    )


def _against_base_mode(rows: Rows) -> str:
    """Calibrated methods against the same settings without calibration, as base mode runs."""
    drifts = _drifts(rows)
    least, most = _PARTS["+ both"]
    free = ", data-free"
    pairs = [name for name in drifts if f"{name}{free}" in drifts]
    gains = {name: _saved(drifts, name, f"{name}{free}") for name in pairs}
    cells = {name: f"{100 * gain:.0f} %" for name, gain in gains.items() if gain is not None}
    names = [name.replace(" ArrowQuant", "") for name in cells]
    return (
        "\n*base* above is calibrated error feedback (GPTQ) without either part, which is more\n"
        "than V1 had. Base mode of the package runs without calibration. Compared with that, the\n"
        "calibrated default has so much less drift:\n\n"
        + table(
            ("", "guide", *names),
            [("against base mode", f"{least} to {most} %", *cells.values())],
        )
    )


def _ablated(family: str, part: str) -> str:
    return f"{ABLATION} {family} {part}"


def _drifts(rows: Rows) -> dict[str, dict[str, float]]:
    """Drift by method and model."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row["method"], {})[row["model"]] = max(row["drift"], _LEAST_DRIFT)
    return found


def _saved(drifts: Mapping[str, Mapping[str, float]], method: str, base: str) -> float | None:
    """How far the drift of a method is below another's, by the geometric mean over models."""
    both = drifts.get(method, {}).keys() & drifts.get(base, {}).keys()
    if not both:
        return None
    return 1 - math.exp(
        sum(math.log(drifts[method][m] / drifts[base][m]) for m in sorted(both)) / len(both)
    )


def _name(row: dict[str, Any]) -> str:
    name = row["method"] + (" (c)" if row["calibrated"] else "")
    return f"**{name}**" if row["ours"] else name


def _percent(value: float) -> str:
    """Three digits, or powers of ten of the loss itself where it is destroyed."""
    if value >= 100:
        return f"x {value + 1:.0f}"
    return f"{100 * value:+.0f} %" if abs(value) >= 1 else f"{100 * value:+.2g} %"
