"""How far the predictions of a network move when its weights change.

The measure, called drift, is relative to the size of the predictions, so that 0 is no change and 1
as much as all of them:

- in general, the squared distance of the outputs over the square of the original's;
- of the masked tokens of a language model, the Kullback-Leibler divergence from the original's
  distribution over that one's entropy: by how much the loss grows, where the original is right
  about its own uncertainty.

Both are ratios of sums over the states in a part of the range of diffusion times, averaged over
these parts, so that times with small predictions count as much as others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from arrow_quant_v2.config.settings import SENSITIVITY
from arrow_quant_v2.torch.compare.quantized_network import replaced
from arrow_quant_v2.torch.compare.time_bins import TimeBins, first_output
from arrow_quant_v2.torch.evaluation import evaluating
from arrow_quant_v2.torch.record.trajectory import Batch

__all__ = ["LARGEST_DRIFT", "Replay"]

#: What predictions count as that are not finite, or further off.
LARGEST_DRIFT = 1e6


class Replay:
    """A network and recorded samples, with its own predictions for them.

    Parameters
    ----------
    network
        Any module; its first output is its prediction.
    tape
        What it is given.
    check
        Called between two batches; may raise.
    """

    def __init__(
        self, network: nn.Module, tape: Sequence[Batch], check: Callable[[], None] = lambda: None
    ) -> None:
        self._network = network
        self._tape = tape
        self._check = check
        self._names = {name for name, _ in network.named_parameters(remove_duplicate=False)}
        self._bins = TimeBins(tape, SENSITIVITY.time_bins)
        self._seen = self._bins.occupied(tape) > 0
        self._expected = [self._predict(batch) for batch in tape]

    @property
    def states(self) -> int:
        """How many recorded samples there are."""
        return sum(batch.samples for batch in self._tape)

    def knows(self, name: str) -> bool:
        """Whether the network has a parameter of this name."""
        return name in self._names

    def drift(self, weights: Mapping[str, Tensor]) -> float:
        """The drift with these in place of the network's own weights, by their names."""
        with replaced(self._network, weights):
            sums = self._bins.sums(self._tape, self._distances)
        moved, whole = sums.unbind(dim=1)
        drift = float(torch.where(moved == 0, 0.0, moved / whole)[self._seen].mean())
        return min(drift, LARGEST_DRIFT) if math.isfinite(drift) else LARGEST_DRIFT

    def _distances(self, number: int, batch: Batch) -> Tensor:
        """[samples, 2]: how far each prediction moved, and its own size."""
        compare = _squares if batch.masked is None else _divergences
        return torch.stack(compare(batch, self._expected[number], self._predict(batch)), dim=1)

    def _predict(self, batch: Batch) -> Tensor:
        """[rows, ...]: the output for every sample, or for every masked token."""
        self._check()
        with evaluating(self._network):
            output = first_output(self._network(*batch.args, **batch.kwargs))
        return output if batch.masked is None else output[batch.masked].float().log_softmax(-1)


def _squares(batch: Batch, expected: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """(e - f)^2 and e^2 of each sample; of a text, over its tokens without padding."""
    e, f = expected.double(), found.double()
    if batch.valid is not None and batch.valid.shape == e.shape[:2]:
        e, f = e * batch.valid[..., None], f * batch.valid[..., None]
    e, f = e.reshape(batch.samples, -1), f.reshape(batch.samples, -1)
    return ((e - f) ** 2).sum(1).cpu(), (e**2).sum(1).cpu()


def _divergences(batch: Batch, expected: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Of each sample, p (log p - log q) and -p log p, summed over its masked tokens."""
    assert batch.masked is not None
    p, q = expected.double(), found.double()
    owners = torch.nonzero(batch.masked)[:, 0]

    def by_sample(tokens: Tensor) -> Tensor:
        return p.new_zeros(batch.samples).index_add_(0, owners, tokens.sum(-1)).cpu()

    return by_sample(p.exp() * (p - q)), by_sample(-p.exp() * p)
