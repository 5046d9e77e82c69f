"""The whole way of one tiny model, as a user goes it: plan, quantize, validate, load, run, export.

``python -m families.journey RESULTS.json [NAME...]`` goes it for the whole table and writes what
happened; the page of models is made from that.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, export_safetensors, load_quantized
from families.builders import BUILDERS
from families.table import Builder

__all__ = ["Journey", "travel"]

#: Samples that calibrate: one of them is held out.
SAMPLES = 5
WIDTHS = (4, 2)
#: Outputs may be this far apart, as a share of the original's squares, before a step has failed.
MOST_NMSE = {4: 0.2, 2: 1.0}


@dataclass
class Journey:
    """What happened to one model.

    Attributes
    ----------
    steps
        Each step and how it ended: ``"ok"``, or the error in one line.
    figures
        Numbers by name: bits per weight, errors of outputs, seconds.
    """

    name: str
    kind: str
    group: str
    steps: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every step ended well."""
        return all(end == "ok" for end in self.steps.values())


def travel(name: str, folder: Path, widths: Sequence[int] = WIDTHS) -> Journey:
    """Go the whole way with one entry of the table, in `folder`."""
    builder = BUILDERS[name]
    journey = Journey(name, builder.kind, builder.group)
    source = builder.build(folder / "model")

    def step(what: str, do: Callable[[], Any]) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = do()
        except Exception as error:
            line = " ".join(str(error).split())[:300]
            journey.steps[what] = f"{type(error).__name__}: {line}"
            return None
        journey.steps[what] = "ok"
        return found

    begin = time.perf_counter()
    step("plan", lambda: _planned(source, builder))
    expected = None
    if builder.open is not None:
        expected = step("run original", lambda: builder.run(builder.load(source)))
    for bits in widths:
        out = folder / f"int{bits}"
        result = step(f"quantize int{bits}", partial(_quantized, source, out, bits))
        if result is None:
            continue
        journey.figures[f"bits int{bits}"] = result["bits_per_weight"]
        validation = step(f"validate int{bits}", partial(_validated, source, out, bits))
        if validation is not None:
            journey.figures[f"output error int{bits}"] = validation["output_nmse"]
        for activation, what in (("none", f"run int{bits}"), ("dynamic", f"run int{bits} dynamic")):
            found = step(what, partial(_ran, builder, out, activation))
            if found is not None and expected is not None:
                journey.figures[f"error of {what}"] = _nmse(expected, found)
        step(f"export int{bits}", partial(_exported, builder, out, folder / f"export{bits}"))
    journey.figures["seconds"] = time.perf_counter() - begin
    return journey


def _settings(bits: int) -> DiffusionQuantConfig:
    return DiffusionQuantConfig(
        bit_width=bits, group_size=32, calibration_samples=SAMPLES, min_accuracy=0.0
    )


def _planned(source: Path, builder: Builder) -> None:
    plan = ArrowQuantV2().plan(source, _settings(4))
    assert plan.calibration == "neutral", plan.calibration_reason
    missing = set(builder.denoisers) - set(plan.components)
    assert not missing or all("controlnet" in name for name in missing), f"not planned: {missing}"


def _quantized(source: Path, out: Path, bits: int) -> Any:
    result = ArrowQuantV2().quantize_diffusion_model(source, out, _settings(bits))
    assert result["calibration"] == "neutral", result["calibration_reason"]
    return result


def _validated(source: Path, out: Path, bits: int) -> Any:
    found = ArrowQuantV2().validate_quality(source, out, level="outputs", min_accuracy=0.0)
    assert found["passed"], found["problems"]
    error = found["output_nmse"]
    assert error <= MOST_NMSE[bits], f"outputs are {error:.3g} off"
    return found


def _ran(builder: Builder, out: Path, activation: str) -> list[np.ndarray[Any, Any]]:
    model = (
        load_quantized(out) if activation == "none" else load_quantized(out, activation=activation)
    )
    if builder.open is None:
        return _sampled(model, out)
    builder.prepare(model)
    found = builder.run(model)
    assert all(np.isfinite(array).all() for array in found), "not finite"
    return found


def _sampled(model: Any, out: Path) -> list[np.ndarray[Any, Any]]:
    """Text of a model whose own code is not there."""
    from arrow_quant_v2.torch import sample_text

    text = sample_text(out, prompt="a red cat", steps=2, length=8, seed=0)
    assert isinstance(text, str)
    return []


def _exported(builder: Builder, out: Path, folder: Path) -> None:
    export_safetensors(out, folder)
    if builder.open is not None:
        builder.load(folder)


def _nmse(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """Squared difference of all arrays over the squares of the original's."""
    pairs = [(a, b) for a, b in zip(expected, found, strict=False) if a.shape == b.shape]
    whole = sum(float((a.astype(np.float64) ** 2).sum()) for a, _ in pairs)
    apart = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in pairs)
    return apart / whole if whole else 0.0


def _one(name: str) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="arrow-quant-"))
    try:
        return asdict(travel(name, folder))
    except Exception:
        kind, group = BUILDERS[name].kind, BUILDERS[name].group
        line = traceback.format_exc().strip().splitlines()[-1]
        return asdict(Journey(name, kind, group, {"build": line}))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Go the way of the entries that are named, or of all; keep what the file has of others."""
    path, names = Path(sys.argv[1]), sys.argv[2:] or list(BUILDERS)
    results = json.loads(path.read_text()) if path.is_file() else {}
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=20) as pool:
        for found in pool.imap_unordered(_one, names):
            results[found["name"]] = found
            path.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
            bad = {k: v for k, v in found["steps"].items() if v != "ok"}
            print(
                found["name"],
                f"{found['figures'].get('seconds', 0):.0f} s",
                bad or "ok",
                flush=True,
            )


if __name__ == "__main__":
    main()
