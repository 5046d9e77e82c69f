"""The codes of all layers that meet a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from arrow_quant_v2.config.settings import SENSITIVITY
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.mixed.knapsack import Choice, choose
from arrow_quant_v2.mixed.layers import Layer, total_size
from arrow_quant_v2.plan.mixed_precision import Codes

__all__ = ["least_drift", "least_size"]

#: Factor by which the search moves until it has both a sum that is too small and one too large.
_STRIDE = 4


def least_drift(layers: Sequence[Layer], size: float) -> list[Codes]:
    """Codes with the least sum of drifts within so many bytes.

    Raises
    ------
    ValueError
        The smallest codes take more.
    """
    return _chosen(layers, lambda layer, codes: (layer.sizes[codes], layer.drifts[codes]), size)


def least_size(
    layers: Sequence[Layer], bound: float, measure: Callable[[Sequence[Codes]], float]
) -> list[Codes]:
    """The smallest codes found whose drift, as `measure` tells it, is within `bound`.

    Sums of drifts order codes well but are off by a factor, since errors of layers meet. So the
    sum that is allowed is bisected, by its logarithm, until what is measured is what was asked for.

    Raises
    ------
    ConfigurationError
        The gentlest codes drift further.
    """
    smallest = [layer.smallest for layer in layers]
    if measure(smallest) <= bound:
        return smallest
    best = [layer.gentlest for layer in layers]
    least = measure(best)
    if least > bound:
        raise ConfigurationError(
            f"max_quality_loss {bound:g} cannot be reached: layers that rules decide move the "
            f"predictions by {least:.4g}",
            hint="Ask for that or more, or give those layers more bits.",
        )
    low, high, allowed = 0.0, math.inf, bound
    for _ in range(SENSITIVITY.searches):
        found = _chosen(
            layers, lambda layer, codes: (layer.drifts[codes], layer.sizes[codes]), allowed
        )
        if measure(found) <= bound:
            low = allowed
            best = min(best, found, key=lambda codes: total_size(layers, codes))
        else:
            high = allowed
        allowed = _between(low, high)
    return best


def _between(low: float, high: float) -> float:
    """Where to look next, when what is wanted lies between these, of which one may be open."""
    if low == 0:
        return high / _STRIDE
    return low * _STRIDE if math.isinf(high) else math.sqrt(low * high)


def _chosen(
    layers: Sequence[Layer], choice: Callable[[Layer, Codes], tuple[float, float]], limit: float
) -> list[Codes]:
    own = [list(layer.sizes) for layer in layers]
    choices = [
        [Choice(*choice(layer, codes)) for codes in known]
        for layer, known in zip(layers, own, strict=True)
    ]
    return [known[at] for known, at in zip(own, choose(choices, limit), strict=True)]
