"""The codes that mixed precision gave to the layers of a model, as plain values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from arrow_quant_v2.plan.engine_options import Allotment

__all__ = ["KEPT", "WIDTHS", "Codes", "LayerBits", "Measure", "MixedPrecision"]

#: Bits that a layer can get.
WIDTHS = (2, 4, 8)


class Codes(NamedTuple):
    """How the weights of a layer are stored."""

    bit_width: int
    group_size: int

    @property
    def name(self) -> str:
        """Short: ``"2g64"``; 8 bits share parameters by row, so there is one ``"8"``."""
        if self.bit_width == 0:
            return "keep"
        return "8" if self.bit_width == WIDTHS[-1] else f"{self.bit_width}g{self.group_size}"


#: The layer stays as it is.
KEPT = Codes(0, 0)


Measure = Literal["predictions", "layer outputs", "weights"]


@dataclass(frozen=True)
class LayerBits:
    """What one layer got.

    Attributes
    ----------
    bit_width, group_size
        None: the layer stays as it is.
    sizes, drifts
        Bytes and sensitivity by codes: ``"2g64"`` are 2 bits in groups of 64, ``"keep"`` is the
        layer as it is.
    """

    component: str
    name: str
    bit_width: int | None
    group_size: int | None
    sizes: Mapping[str, int]
    drifts: Mapping[str, float]
    reason: str


@dataclass(frozen=True)
class MixedPrecision:
    """Codes for the layers of a model, and how they were found.

    Attributes
    ----------
    target
        The setting and its value.
    measure
        What sensitivities are: the drift of the model's ``"predictions"``; or, where it cannot run,
        the relative squared error of ``"layer outputs"`` on held-out inputs, or of ``"weights"``.
    measure_reason
        Why the model did not run; empty when it did.
    states
        How many states of the model its predictions are about.
    bits_per_weight
        Of the layers listed and those that rules decide, with all parameters; layers that stay as
        they are count with what they take.
    predicted_drift, measured_drift
        The sum of the sensitivities, and the drift with all layers rounded; None where the model
        did not run.
    layers
        Those that no rule decides.
    """

    target: Mapping[str, float]
    measure: Measure
    measure_reason: str
    states: int
    bits_per_weight: float
    predicted_drift: float | None
    measured_drift: float | None
    layers: tuple[LayerBits, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return {**asdict(self), "layers": [asdict(layer) for layer in self.layers]}

    def json(self) -> str:
        """For the manifest."""
        return json.dumps(self.to_dict())

    def allotments(self) -> list[Allotment]:
        """For the engine."""
        return [
            (
                layer.component,
                layer.name,
                layer.bit_width or KEPT.bit_width,
                layer.group_size or KEPT.group_size,
                layer.reason,
            )
            for layer in self.layers
        ]

    def histogram(self) -> str:
        """How many layers got which codes, in words."""
        counts = Counter(
            Codes(layer.bit_width or 0, layer.group_size or 0).name for layer in self.layers
        )
        return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
