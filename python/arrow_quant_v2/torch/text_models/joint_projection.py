"""Attention of GLM-4-MoE whose queries, keys and values come from one projection."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["join_projections"]


def join_projections(model: nn.Module) -> None:
    """Give every attention of `model` one layer ``qkv_proj`` in place of three."""
    for name, module in list(model.named_modules()):
        if name.endswith(".self_attn"):
            model.set_submodule(name, _JointAttention(module))


class _JointAttention(nn.Module):
    def __init__(self, source: Any) -> None:
        super().__init__()
        parts = (source.q_proj, source.k_proj, source.v_proj)
        self.widths = tuple(part.out_features for part in parts)
        self.qkv_proj = nn.Linear(
            source.q_proj.in_features, sum(self.widths), bias=source.q_proj.bias is not None
        )
        self.q_norm, self.k_norm, self.o_proj = source.q_norm, source.k_norm, source.o_proj
        self.head_dim, self.scaling = source.head_dim, source.scaling
        self._rotated = importlib.import_module(type(source).__module__).apply_rotary_pos_emb

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        parts = self.qkv_proj(hidden_states).split(self.widths, dim=-1)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in parts)
        q, k = self._rotated(self.q_norm(q), self.k_norm(k), *position_embeddings)
        groups = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        found = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=attention_mask, scale=self.scaling
        )
        return self.o_proj(found.transpose(1, 2).flatten(2)), None
