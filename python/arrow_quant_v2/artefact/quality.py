"""The quality of an artefact in a few figures, defined once.

What is quantized, inspected and validated is summed up in the same way. The accuracy of a tensor is
the cosine similarity of its layer's outputs on held-out calibration inputs where calibration saw
them, and that of its weights otherwise. The mean is weighted by the number of weights; the worst
layer has the least accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["LayerQuality", "Quality", "summed_up"]


@dataclass(frozen=True)
class LayerQuality:
    """One quantized tensor.

    Attributes
    ----------
    weights
        How many it has.
    cosine
        Of its weights, against those of the source.
    output_cosine
        Of its layer's outputs on held-out calibration inputs; None where calibration saw none.
    """

    name: str
    weights: int
    cosine: float
    output_cosine: float | None = None

    @property
    def accuracy(self) -> float:
        """What the layer is judged by."""
        return self.cosine if self.output_cosine is None else self.output_cosine


@dataclass(frozen=True)
class Quality:
    """The quality of all quantized tensors.

    Attributes
    ----------
    cosine_similarity, min_cosine_similarity, worst_layer
        Mean and least accuracy, and the layer that has it.
    cosine_kind
        ``"outputs"`` where calibration saw the outputs of layers, ``"weights"`` otherwise.
    weight_cosine_similarity
        The mean of weights alone.
    layer_output_cosine_similarity
        The mean of the outputs of the layers that calibration saw; None where it saw none.
    """

    cosine_similarity: float = 1.0
    cosine_kind: str = "weights"
    min_cosine_similarity: float = 1.0
    worst_layer: str = ""
    weight_cosine_similarity: float = 1.0
    layer_output_cosine_similarity: float | None = None


def summed_up(layers: Iterable[LayerQuality]) -> Quality:
    """The figures of the quantized tensors; all 1 where there is none."""
    found = list(layers)
    if not found:
        return Quality()
    seen = [layer for layer in found if layer.output_cosine is not None]
    worst = min(found, key=lambda layer: layer.accuracy)
    return Quality(
        cosine_similarity=_mean((layer.accuracy, layer.weights) for layer in found),
        cosine_kind="outputs" if seen else "weights",
        min_cosine_similarity=worst.accuracy,
        worst_layer=worst.name,
        weight_cosine_similarity=_mean((layer.cosine, layer.weights) for layer in found),
        layer_output_cosine_similarity=_mean((layer.accuracy, layer.weights) for layer in seen)
        if seen
        else None,
    )


def _mean(values: Iterable[tuple[float, int]]) -> float:
    pairs = list(values)
    total = sum(weights for _, weights in pairs)
    return sum(value * weights for value, weights in pairs) / total if total else 1.0
