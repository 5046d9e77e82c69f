"""Teacher-forced unmasking: the same items and masks for every model.

Item i of n has a mask ratio of its own, number i modulo their count, so that the bins share no
item; each item is masked several times, which lowers the noise of its loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from zoo.evaluate.subject import HeldOutLoss
from zoo.masking import MASK_RATIOS, MaskedBatch, hidden_logits, mask_items

BATCH = 25
#: How often each item is masked.
MASKINGS = 4


@dataclass(frozen=True)
class UnmaskingTask:
    """Masked items; ``rounds[j]`` holds each item once, as (numbers of its items, batch)."""

    rounds: tuple[tuple[tuple[npt.NDArray[np.int64], MaskedBatch], ...], ...]
    bins: npt.NDArray[np.int64]

    def loss(self, model: Any) -> HeldOutLoss:
        """Mean negative log-likelihood of the hidden tokens of each item."""
        sums = np.zeros((2, len(self.bins)))
        with torch.inference_mode():
            for rows, batch in (part for one in self.rounds for part in one):
                logs = hidden_logits(model, batch).log_softmax(dim=-1)
                nats = -logs.gather(1, batch.hidden_targets()[:, None])[:, 0]
                sums += _sums(nats.double().numpy(), rows, batch, len(self.bins))
        labels = tuple(f"{ratio:.0%} masked" for ratio in MASK_RATIOS)
        return HeldOutLoss("masked NLL", "nats per token", sums[0] / sums[1], self.bins, labels)

    def distances(self, model: Any, reference: Any) -> dict[str, float]:
        """Means over bins: how often both find the same token likeliest, and KL divergence.

        The divergence is of the model from the reference, sum of p_reference log(p_reference / p).
        """
        sums = np.zeros((3, len(self.bins)))
        with torch.inference_mode():
            for rows, batch in self.rounds[0]:
                own, other = (
                    hidden_logits(m, batch).double().log_softmax(dim=-1) for m in (model, reference)
                )
                agree = (own.argmax(dim=-1) == other.argmax(dim=-1)).double().numpy()
                divergence = (other.exp() * (other - own)).sum(dim=-1).numpy()
                sums[:2] += _sums(agree, rows, batch, len(self.bins))
                sums[2] += _sums(divergence, rows, batch, len(self.bins))[0]
        per_item = sums[[0, 2]] / sums[1]
        bins = range(len(MASK_RATIOS))
        agreement, divergence = np.mean([per_item[:, self.bins == i].mean(1) for i in bins], axis=0)
        return {"top-1 agreement": float(agreement), "KL (nats)": max(float(divergence), 0.0)}


def unmasking_task(items: Sequence[Sequence[int]], tokenizer: Any, seed: int) -> UnmaskingTask:
    """Mask ``items``, which hold their boundaries, by fixed random numbers.

    Raises
    ------
    ValueError
        There are fewer items than mask ratios.
    """
    if len(items) < len(MASK_RATIOS):
        raise ValueError(f"{len(items)} items for {len(MASK_RATIOS)} mask ratios. Measure more.")
    rng = np.random.default_rng(seed)
    bins = np.arange(len(items)) % len(MASK_RATIOS)
    ratios = np.array(MASK_RATIOS)[bins]
    by_length = np.argsort([len(item) for item in items], kind="stable")
    parts = [by_length[i : i + BATCH] for i in range(0, len(items), BATCH)]
    rounds = tuple(
        tuple(
            (rows, mask_items([items[i] for i in rows], ratios[rows], tokenizer, rng))
            for rows in parts
        )
        for _ in range(MASKINGS)
    )
    return UnmaskingTask(rounds, bins)


def _sums(
    values: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], batch: MaskedBatch, items: int
) -> npt.NDArray[np.float64]:
    """Sum of the values of each item, and their number, shape [2, items]."""
    owner = rows[np.repeat(np.arange(len(rows)), batch.hidden.sum(dim=1).numpy())]
    return np.stack([np.bincount(owner, values, items), np.bincount(owner, minlength=items)])
