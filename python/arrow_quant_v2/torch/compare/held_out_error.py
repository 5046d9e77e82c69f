"""Held-out recorded samples, which tell whose predictions are nearer to the float network's.

Errors are means over parts of the range of diffusion times, and are compared as a geometric mean
over these, so that late times, whose errors and losses are small, count as much as early ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from arrow_quant_v2.config.settings import JUDGING
from arrow_quant_v2.torch.compare.minibatches import distances, gathered, predict
from arrow_quant_v2.torch.compare.time_bins import TimeBins
from arrow_quant_v2.torch.record.trajectory import Batch, batches_of

__all__ = ["Judge"]

#: Parts of the range of times whose errors are below this share of the mean do not weigh more.
_LEAST_SHARE = 1e-4
_SMALLEST = 1e-30


class Judge:
    """What a network predicts for held-out samples.

    Parameters
    ----------
    network
        The float network.
    tape
        States with some held out.
    generator
        Chooses among these.
    check
        Called between two batches; may raise.
    """

    def __init__(
        self,
        network: nn.Module,
        tape: Sequence[Batch],
        generator: torch.Generator,
        check: Callable[[], object],
    ) -> None:
        self._network = network
        self._check = check
        self._bins = TimeBins(tape, JUDGING.time_bins)
        self._batches = list(_some(gathered(tape, held_out=True), generator))
        self._counts = self._bins.occupied(self._batches).double()
        self._seen = self._counts > 0

    @property
    def states(self) -> int:
        """How many samples judge."""
        return int(self._counts.sum())

    def bins(self, batch: Batch) -> Tensor:
        """The part of the range of times that each sample is in."""
        return self._bins.of(batch)

    def errors(self, predicted: Callable[[Batch], Tensor]) -> Tensor:
        """Mean distance of other predictions in each part; 0 for parts without samples."""

        def distance(_: int, batch: Batch) -> Tensor:
            self._check()
            return distances(batch, predict(self._network, batch), predicted(batch))

        return self._bins.sums(self._batches, distance) / self._counts.clamp(min=1)

    def mean(self, errors: Tensor) -> float:
        """Over the parts."""
        return float(errors[self._seen].mean())

    def ratio(self, errors: Tensor, start: Tensor) -> float:
        """Geometric mean over the parts of errors over those of the start; NaN if one is NaN."""
        logs = self._logs(errors, start)
        return float(logs.mean().exp()) if len(logs) else 1.0

    def is_less(self, errors: Tensor, start: Tensor) -> bool:
        """Whether that ratio is below 1 by more than its standard error over the parts."""
        logs = self._logs(errors, start)
        return len(logs) > 1 and float(logs.mean() + logs.std() / math.sqrt(len(logs))) < 0

    def _logs(self, errors: Tensor, start: Tensor) -> Tensor:
        known = self._seen & (start > 0)
        return (errors[known] / start[known]).clamp(min=_SMALLEST).log()

    def weights(self, start: Tensor) -> Tensor:
        """What makes the errors of the start the same everywhere, with a mean of 1."""
        mean = start[self._seen].mean()
        weights = mean / start.clamp(min=float(_LEAST_SHARE * mean))
        return torch.where(self._seen, weights, 1.0).float()


def _some(batches: Sequence[Batch], generator: torch.Generator) -> list[Batch]:
    """About as many samples as shall judge, from each batch its share, in small batches."""
    total = sum(batch.samples for batch in batches)
    share = min(1.0, JUDGING.states / max(1, total))
    chosen = []
    for batch in batches:
        rows = torch.randperm(batch.samples, generator=generator)
        rows = rows[: math.ceil(share * batch.samples)]
        for numbers in batches_of(len(rows), JUDGING.batch):
            chosen.append(batch.take(rows[numbers.start : numbers.stop]))
    return chosen
