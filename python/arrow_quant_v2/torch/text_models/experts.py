"""Experts as ordinary layers, one after the other, under the names that checkpoints have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from arrow_quant_v2.torch.text_models.routing import routed

__all__ = ["ExpertList", "has_own_experts", "separate_experts"]


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


class _Expert(nn.Module):
    """The gated feed-forward network of one expert, on parts of the weights of all."""

    def __init__(self, gate_up: Tensor, down: Tensor, activation: Any) -> None:
        super().__init__()
        gate, up = gate_up.chunk(2)
        self.gate_proj, self.up_proj, self.down_proj = (_layer(w) for w in (gate, up, down))
        self.act_fn = activation

    def forward(self, hidden: Tensor) -> Tensor:
        found: Tensor = self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden))
        return found


def _layer(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return layer


def has_own_experts(names: Iterable[str]) -> bool:
    """Whether weights of these names belong to experts one by one."""
    return any(".experts.0." in name for name in names)


def separate_experts(model: nn.Module) -> None:
    """Give every expert of `model` its own layers, where the library joins the weights of all.

    transformers 5 joins them when it loads a checkpoint that has them one by one, as
    ``gate_up_proj`` [experts, 2 hidden, channels] and ``down_proj`` [experts, channels, hidden].
    """
    for name, module in list(model.named_modules()):
        gate_up, down = (module._parameters.get(leaf) for leaf in ("gate_up_proj", "down_proj"))
        if gate_up is None or down is None or gate_up.ndim != 3 or down.ndim != 3:
            continue
        if gate_up.shape != (down.shape[0], 2 * down.shape[2], down.shape[1]):
            continue  # the other way round
        activation = getattr(module, "act_fn", None)
        experts = [_Expert(g, d, activation) for g, d in zip(gate_up, down, strict=True)]
        model.set_submodule(name, ExpertList(experts))
