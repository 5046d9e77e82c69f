"""Masking tokens: what masked diffusion language models see, and what they should say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

#: Parts of the tokens that are masked when a model is measured.
MASK_RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
#: The target where a token is not masked.
IGNORED = -100


@dataclass(frozen=True)
class MaskedBatch:
    """Padded items, all shapes [items, longest].

    Attributes
    ----------
    tokens
        With the mask token where something is hidden.
    present
        1 where there is a token, 0 where there is padding.
    targets
        The hidden tokens; IGNORED elsewhere.
    """

    tokens: Tensor
    present: Tensor
    targets: Tensor

    @property
    def hidden(self) -> Tensor:
        """Where a token is masked."""
        return self.targets != IGNORED

    def hidden_targets(self) -> Tensor:
        """The hidden tokens, row by row, shape [hidden tokens]."""
        return self.targets[self.hidden]


def mask_items(
    items: Sequence[Sequence[int]],
    ratios: npt.NDArray[np.float64],
    tokenizer: Any,
    rng: np.random.Generator,
) -> MaskedBatch:
    """Hide ceil(ratios[i] * tokens) tokens of item i, never its first and last, the boundaries."""
    width = max(map(len, items))
    tokens = np.full((len(items), width), tokenizer.pad_token_id)
    targets = np.full_like(tokens, IGNORED)
    present = np.zeros_like(tokens)
    for row, (item, ratio) in enumerate(zip(items, ratios, strict=True)):
        inner = len(item) - 2
        hidden = 1 + rng.permutation(inner)[: max(1, math.ceil(ratio * inner))]
        tokens[row, : len(item)] = item
        present[row, : len(item)] = 1
        targets[row, hidden] = tokens[row, hidden]
        tokens[row, hidden] = tokenizer.mask_token_id
    return MaskedBatch(*map(torch.from_numpy, (tokens, present, targets)))


def hidden_logits(model: Any, batch: MaskedBatch) -> Tensor:
    """What any ``AutoModelForMaskedLM`` says of the hidden tokens, [hidden tokens, vocabulary]."""
    logits: Tensor = model(input_ids=batch.tokens, attention_mask=batch.present).logits
    return logits[batch.hidden].float()
