"""Forward passes of published architectures in plain torch, written from their descriptions.

They know weights by their published names and nothing of any library's modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["dream", "llada", "llada2", "llada_moe"]

Weights = Mapping[str, Tensor]


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def _rotate(x: Tensor, theta: float, channels: int) -> Tensor:
    """Turn pairs of the first `channels` of each head, [batch, heads, tokens, channels]."""
    half = channels // 2
    speeds = theta ** (-torch.arange(half, dtype=x.dtype) / half)
    angles = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * speeds
    a, b, rest = x[..., :half], x[..., half:channels], x[..., channels:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


def _heads(x: Tensor, count: int) -> Tensor:
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """Attention of heads, of which several share a key; without a mask unless `seen` is given."""
    shared = q.shape[1] // k.shape[1]
    k = torch.stack([k[:, h // shared] for h in range(q.shape[1])], dim=1)
    v = torch.stack([v[:, h // shared] for h in range(q.shape[1])], dim=1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def _swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def _experts(
    x: Tensor, w: Weights, prefix: str, choose: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    out = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            numbers, shares = choose(x[b, t])
            for number, share in zip(numbers.tolist(), shares, strict=True):
                name = f"{prefix}experts.{number}."
                parts = (w[f"{name}{p}_proj.weight"] for p in ("gate", "up", "down"))
                out[b, t] += share * _swiglu(x[b, t], *parts)
    return out


def llada(w: Weights, c: Mapping[str, Any], ids: Tensor) -> Tensor:
    """Logits of LLaDA."""
    root, eps, width = "model.transformer.", c["rms_norm_eps"], c["d_model"] // c["n_heads"]
    x = w[root + "wte.weight"][ids]
    for n in range(c["n_layers"]):
        block = f"{root}blocks.{n}."
        h = _rms_norm(x, w[block + "attn_norm.weight"], eps)
        q = _heads(h @ w[block + "q_proj.weight"].T, c["n_heads"])
        k = _heads(h @ w[block + "k_proj.weight"].T, c["n_kv_heads"])
        v = _heads(h @ w[block + "v_proj.weight"].T, c["n_kv_heads"])
        q, k = (_rotate(y, c["rope_theta"], width) for y in (q, k))
        x = x + _attend(q, k, v) @ w[block + "attn_out.weight"].T
        h = _rms_norm(x, w[block + "ff_norm.weight"], eps)
        parts = (w[f"{block}{p}.weight"] for p in ("ff_proj", "up_proj", "ff_out"))
        x = x + _swiglu(h, *parts)
    return _rms_norm(x, w[root + "ln_f.weight"], eps) @ w[root + "ff_out.weight"].T


def dream(w: Weights, c: Mapping[str, Any], ids: Tensor) -> Tensor:
    """Logits of Dream, of the position itself: what the one before it puts out."""
    heads, eps = c["num_attention_heads"], c["rms_norm_eps"]
    width = c["hidden_size"] // heads
    x = w["model.embed_tokens.weight"][ids]
    for n in range(c["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        h = _rms_norm(x, w[layer + "input_layernorm.weight"], eps)

        def project(name: str, h: Tensor = h, layer: str = layer) -> Tensor:
            name = f"{layer}self_attn.{name}_proj."
            return h @ w[name + "weight"].T + w[name + "bias"]

        q = _heads(project("q"), heads)
        k, v = (_heads(project(name), c["num_key_value_heads"]) for name in "kv")
        q, k = (_rotate(y, c["rope_theta"], width) for y in (q, k))
        x = x + _attend(q, k, v) @ w[layer + "self_attn.o_proj.weight"].T
        h = _rms_norm(x, w[layer + "post_attention_layernorm.weight"], eps)
        parts = (w[f"{layer}mlp.{p}_proj.weight"] for p in ("gate", "up", "down"))
        x = x + _swiglu(h, *parts)
    out = _rms_norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T
    return torch.cat([out[:, :1], out[:, :-1]], dim=1)


def llada_moe(w: Weights, c: Mapping[str, Any], ids: Tensor) -> Tensor:
    """Logits of LLaDA-MoE."""
    heads, eps = c["num_attention_heads"], c["rms_norm_eps"]
    x = w["model.embed_tokens.weight"][ids]
    for n, mixture in enumerate(c["moe_layer_freq"]):
        layer = f"model.layers.{n}."
        h = _rms_norm(x, w[layer + "input_layernorm.weight"], eps)
        q = _heads(h @ w[layer + "self_attn.q_proj.weight"].T, heads)
        k, v = (
            _heads(h @ w[f"{layer}self_attn.{p}_proj.weight"].T, c["num_key_value_heads"])
            for p in "kv"
        )
        q = _rms_norm(q, w[layer + "self_attn.q_norm.weight"], eps)
        k = _rms_norm(k, w[layer + "self_attn.k_norm.weight"], eps)
        q, k = (_rotate(y, c["rope_theta"], y.shape[-1]) for y in (q, k))
        x = x + _attend(q, k, v) @ w[layer + "self_attn.o_proj.weight"].T
        h = _rms_norm(x, w[layer + "post_attention_layernorm.weight"], eps)
        if mixture:
            router = w[layer + "mlp.gate.weight"]

            def choose(token: Tensor, router: Tensor = router) -> tuple[Tensor, Tensor]:
                shares, numbers = (router @ token).softmax(0).sort(descending=True)
                return numbers[: c["num_experts_per_tok"]], shares[: c["num_experts_per_tok"]]

            x = x + _experts(h, w, layer + "mlp.", choose)
        else:
            parts = (w[f"{layer}mlp.{p}_proj.weight"] for p in ("gate", "up", "down"))
            x = x + _swiglu(h, *parts)
    return _rms_norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T


def llada2(w: Weights, c: Mapping[str, Any], ids: Tensor, seen: Tensor | None = None) -> Tensor:
    """Logits of LLaDA2; `seen` [tokens, tokens] says which positions see which."""
    heads, narrow, head = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    eps, rotated = c["rms_norm_eps"], int(c["partial_rotary_factor"] * c["head_dim"])
    x = w["model.word_embeddings.weight"][ids]
    for n in range(c["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        h = _rms_norm(x, w[layer + "input_layernorm.weight"], eps)
        qkv = _heads(h @ w[layer + "attention.query_key_value.weight"].T, heads + 2 * narrow)
        q, k, v = qkv[:, :heads], qkv[:, heads : heads + narrow], qkv[:, heads + narrow :]
        assert q.shape[-1] == head
        q = _rms_norm(q, w[layer + "attention.query_layernorm.weight"], eps)
        k = _rms_norm(k, w[layer + "attention.key_layernorm.weight"], eps)
        q, k = (_rotate(y, c["rope_theta"], rotated) for y in (q, k))
        x = x + _attend(q, k, v, seen) @ w[layer + "attention.dense.weight"].T
        h = _rms_norm(x, w[layer + "post_attention_layernorm.weight"], eps)
        if n >= c["first_k_dense_replace"]:
            router, bias = w[layer + "mlp.gate.weight"], w[layer + "mlp.gate.expert_bias"]

            def choose(
                token: Tensor, router: Tensor = router, bias: Tensor = bias
            ) -> tuple[Tensor, Tensor]:
                scores = (router @ token).sigmoid()
                groups = (scores + bias).reshape(c["n_group"], -1)
                best = groups.sort(descending=True).values[:, :2].sum(1).sort(descending=True)
                allowed = torch.full_like(groups, -torch.inf)
                for group in best.indices[: c["topk_group"]].tolist():
                    allowed[group] = groups[group]
                numbers = allowed.flatten().sort(descending=True).indices
                numbers = numbers[: c["num_experts_per_tok"]]
                shares = scores[numbers] / scores[numbers].sum()
                return numbers, shares * c["routed_scaling_factor"]

            shared = (
                w[f"{layer}mlp.shared_experts.{p}_proj.weight"] for p in ("gate", "up", "down")
            )
            x = x + _experts(h, w, layer + "mlp.", choose) + _swiglu(h, *shared)
        else:
            parts = (w[f"{layer}mlp.{p}_proj.weight"] for p in ("gate", "up", "down"))
            x = x + _swiglu(h, *parts)
    return _rms_norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T
