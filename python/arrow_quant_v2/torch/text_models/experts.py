"""Experts as ordinary layers, one after the other, under the names that checkpoints have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from arrow_quant_v2.torch.observe.routing import routed

__all__ = ["ExpertList"]


class ExpertList(nn.ModuleList):
    """Feed-forward networks, each for the tokens that are routed to it.

    transformers 5 holds the weights of all experts in one tensor; here each has its own layers, so
    that each can be observed and packed by itself.
    """

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Add up what experts make of their tokens.

        Parameters
        ----------
        hidden
            ``[tokens, channels]``.
        chosen, weights
            Numbers of experts and the weights of their outputs, ``[tokens, experts per token]``.
        """
        total = torch.zeros_like(hidden)
        for number in chosen.unique().tolist():
            tokens, places = torch.where(chosen == number)
            with routed(tokens):
                found = self[number](hidden[tokens]) * weights[tokens, places, None]
            total = total.index_add(0, tokens, found.to(total.dtype))
        return total
