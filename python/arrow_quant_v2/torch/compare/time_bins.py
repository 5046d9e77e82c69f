"""Two networks on the same recorded inputs, compared by bin of diffusion time.

Whoever compares networks says what is summed of each sample; the bins and the sums are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from arrow_quant_v2.torch.record.trajectory import Batch

__all__ = ["TimeBins", "first_output"]


def first_output(output: Any) -> Tensor:
    """The prediction in what a network returns: a tensor, or the first of several.

    A list of equal tensors, one for each sample, is put together: Z-Image returns such.
    """
    found = output if isinstance(output, Tensor) else output[0]
    if isinstance(found, list | tuple):
        found = torch.stack(list(found))
    result: Tensor = found
    return result


class TimeBins:
    """Equal parts of the range of diffusion times of some batches.

    Parameters
    ----------
    batches
        Their times span the range.
    count
        How many bins.
    """

    def __init__(self, batches: Sequence[Batch], count: int) -> None:
        times = [batch.times() for batch in batches]
        self.count = count
        self.low = min(float(t.min()) for t in times)
        self.width = (max(float(t.max()) for t in times) - self.low) / count

    def of(self, batch: Batch) -> Tensor:
        """The bin of each sample, int64 ``[samples]``."""
        part = ((batch.times() - self.low) / (self.width or 1.0)).long()
        return part.clamp(max=self.count - 1)

    def occupied(self, batches: Iterable[Batch]) -> Tensor:
        """How many samples each bin has, int64 ``[count]``."""
        counts = torch.zeros(self.count, dtype=torch.long)
        for batch in batches:
            counts += torch.bincount(self.of(batch), minlength=self.count)
        return counts

    def sums(self, batches: Iterable[Batch], measure: Callable[[int, Batch], Tensor]) -> Tensor:
        """Add up `measure` of each batch by bin.

        Parameters
        ----------
        measure
            Gets the number of a batch and the batch; returns ``[samples]`` or
            ``[samples, columns]``.

        Returns
        -------
        Tensor
            float64 ``[count]`` or ``[count, columns]``.
        """
        total: Tensor | None = None
        for number, batch in enumerate(batches):
            values = measure(number, batch).double().cpu()
            if total is None:
                total = torch.zeros((self.count, *values.shape[1:]), dtype=torch.float64)
            total.index_add_(0, self.of(batch), values)
        return torch.zeros(self.count, dtype=torch.float64) if total is None else total
