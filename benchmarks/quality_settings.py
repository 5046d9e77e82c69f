"""What of ArrowQuant is measured: settings of the comparison, and of the ablation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "quality"
ZOO = ROOT / "zoo" / "models"
#: Of calibration; only results with so many are published.
SAMPLES = 128

#: Activations at run time: as they are, int8 by token, or int8 by ranges that calibration found.
Activation = Literal["none", "dynamic", "static"]

#: Part of every name of the ablation.
ABLATION = "ablation"
_PARTS = {
    "base": {"enable_spatial": False, "enable_time_aware": False},
    "+ spatial": {"enable_spatial": True, "enable_time_aware": False},
    "+ time-aware": {"enable_spatial": False, "enable_time_aware": True},
    "+ both": {"enable_spatial": True, "enable_time_aware": True},
}


@dataclass(frozen=True)
class OwnMethod:
    """A configuration, and how activations are treated when it is evaluated."""

    name: str
    family: str
    calibrated: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    activation: Activation = "none"


def own_methods() -> Iterator[OwnMethod]:
    kinds: tuple[Activation, ...] = ("static", "dynamic")
    for kind in kinds:
        settings: dict[str, Any] = {"bit_width": 8, "activation_bits": 8}
        yield OwnMethod(f"INT8 ArrowQuant W8A8 {kind}", "INT8", True, settings, kind)
    for bits, groups in ((8, (128,)), (4, (128, 64)), (2, (128, 64))):
        for group in groups:
            size = "" if bits == 8 else f" g{group}"
            for calibrated in (True, False):
                name = f"INT{bits} ArrowQuant{size}" + ("" if calibrated else ", data-free")
                settings = {"bit_width": bits, "group_size": group}
                if not calibrated:
                    settings["calibration_samples"] = 0
                yield OwnMethod(name, f"INT{bits}", calibrated, settings)
            if bits == 2:
                settings = {"bit_width": bits, "group_size": group, "method": "learned"}
                yield OwnMethod(f"INT2 ArrowQuant learned{size}", "INT2", True, settings)
    # Mixed precision against one width with smaller groups, which takes as many bits.
    yield OwnMethod("INT2 ArrowQuant g32", "INT2", True, {"bit_width": 2, "group_size": 32})
    for target in (2.56, 3.06):
        settings = {"target_bits": target, "group_size": 128}
        yield OwnMethod(f"INT2 ArrowQuant mixed {target} bits", "INT2", True, settings)
    for bits in (2, 4):
        for part, flags in _PARTS.items():
            settings = {"bit_width": bits, "group_size": 64, **flags}
            yield OwnMethod(f"{ABLATION} W{bits} {part}", f"W{bits}", True, settings)
    for bits in (2, 4, 8):
        for kind in kinds:
            for part, flags in _PARTS.items():
                settings = {"bit_width": bits, "group_size": 64, "activation_bits": 8, **flags}
                family = f"W{bits}A8 {kind}"
                name = f"{ABLATION} {family} {part}"
                yield OwnMethod(name, family, True, settings, kind)
