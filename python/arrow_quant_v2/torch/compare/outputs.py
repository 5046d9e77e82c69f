"""All outputs of two networks on the same inputs, as sums of squares by bin of time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.torch.compare.time_bins import TimeBins, first_output
from arrow_quant_v2.torch.evaluation import evaluating
from arrow_quant_v2.torch.record.trajectory import Batch

__all__ = ["predictions", "squares_by_time"]


def predictions(
    network: nn.Module,
    batches: Sequence[Batch],
    message: str,
    progress: ProgressCallback | None,
) -> list[Tensor]:
    """The first output for each batch, in the type that the network returns."""
    outputs = []
    with evaluating(network):
        for number, batch in enumerate(batches):
            outputs.append(first_output(network(*batch.args, **batch.kwargs)))
            if progress is not None:
                progress(message, (number + 1) / len(batches))
    return outputs


def squares_by_time(
    batches: Sequence[Batch], expected: Sequence[Tensor], found: Sequence[Tensor], count: int
) -> tuple[TimeBins, Tensor]:
    """Sums over the outputs a expected and b found: a a, b b, a b and (a - b)^2.

    Returns
    -------
    tuple
        The bins, and float64 ``[count, 4]``.
    """
    bins = TimeBins(batches, count)

    def squares(number: int, batch: Batch) -> Tensor:
        a, b = (_counted(batch, x[number].double()) for x in (expected, found))
        return torch.stack(
            [(a * a).sum(1), (b * b).sum(1), (a * b).sum(1), ((a - b) ** 2).sum(1)], 1
        )

    return bins, bins.sums(batches, squares)


def _counted(batch: Batch, output: Tensor) -> Tensor:
    """[samples, numbers]; tokens that do not count are zero."""
    if batch.valid is not None and batch.valid.shape == output.shape[:2]:
        output = output * batch.valid.reshape(*batch.valid.shape, *[1] * (output.ndim - 2))
    return output.reshape(batch.samples, -1)
