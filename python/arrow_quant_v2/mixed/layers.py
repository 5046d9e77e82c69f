"""A weight and its possible codes: what each takes, and what it does to the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from arrow_quant_v2.plan.mixed_precision import WIDTHS, Codes

__all__ = ["Key", "Layer", "candidates", "total_drift", "total_size"]

#: Groups smaller than that are not tried.
_SMALLEST_GROUP = 32
#: How often the group size is halved for the narrowest codes.
_HALVINGS = 2

#: Component and name of a weight.
Key = tuple[str, str]


def candidates(bit_width: int, group_size: int) -> list[Codes]:
    """Codes of at least `bit_width` bits; of that many also with smaller groups.

    Between 2 bits and 4, smaller groups are the better buy for a layer that matters a little.
    """
    groups = [group_size >> halving for halving in range(1, _HALVINGS + 1)]
    wider = [Codes(width, group_size) for width in WIDTHS if width > bit_width]
    smaller = [
        Codes(bit_width, group)
        for group in groups
        if wider and group >= _SMALLEST_GROUP and group % _SMALLEST_GROUP == 0
    ]
    return [Codes(bit_width, group_size), *smaller, *wider]


@dataclass(frozen=True)
class Layer:
    """One planned weight.

    Attributes
    ----------
    fixed
        A rule of the user decided; it has one choice.
    sizes, drifts
        By codes: bytes (of codes and parameters, or of the tensor that is not quantized), and the
        sensitivity.
    """

    key: Key
    fixed: bool
    sizes: Mapping[Codes, int]
    drifts: Mapping[Codes, float]

    @property
    def smallest(self) -> Codes:
        """Those with the fewest bytes."""
        return min(self.sizes, key=self.sizes.__getitem__)

    @property
    def gentlest(self) -> Codes:
        """Those with the least drift."""
        return min(self.sizes, key=self.drifts.__getitem__)


def total_size(layers: Sequence[Layer], codes: Sequence[Codes]) -> int:
    """Bytes of all layers with these codes."""
    return sum(layer.sizes[own] for layer, own in zip(layers, codes, strict=True))


def total_drift(layers: Sequence[Layer], codes: Sequence[Codes]) -> float:
    """What the drifts of all layers with these codes add up to."""
    return sum(layer.drifts[own] for layer, own in zip(layers, codes, strict=True))
