"""Attention of narrow heads by the engine, in models that quantized layers run in.

Denoisers of diffusers have heads of 8 numbers by default, for which torch's products take
longer than the quantized layers around them. Inside the attention modules of a loaded model,
calls of ``scaled_dot_product_attention`` that the engine can do go to it; all else is left alone.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from arrow_quant_v2._native import core
from arrow_quant_v2.torch import ops

__all__ = ["attend_by_engine"]


def attend_by_engine(model: nn.Module) -> None:
    """Let the engine do the attention of the narrow heads of `model`, where it runs on the CPU."""
    for module in model.modules():
        if _has_narrow_heads(module):
            module.register_forward_pre_hook(_enter)
            module.register_forward_hook(_leave, always_call=True)


def _has_narrow_heads(module: nn.Module) -> bool:
    """Whether this is an ``Attention`` of diffusers, or alike, with heads that the engine takes."""
    heads, projection = getattr(module, "heads", None), getattr(module, "to_k", None)
    width = getattr(projection, "out_features", None)
    if not isinstance(heads, int) or not isinstance(width, int):
        return False
    return 0 < width // heads <= core.WIDEST_HEAD


class _ByEngine(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention and _takes(*args, **kwargs):
            query, key, value = args
            scale = kwargs.get("scale")
            return ops.attention(
                query, key, value, 1 / math.sqrt(query.shape[-1]) if scale is None else scale
            )
        return func(*args, **kwargs)


def _takes(*heads: Any, **settings: Any) -> bool:
    """Whether the engine can do this call."""
    if len(heads) != 3 or any(settings.get(name) for name in ("is_causal", "enable_gqa")):
        return False
    if settings.get("attn_mask") is not None or settings.get("dropout_p"):
        return False
    return all(_takes_heads(x, heads[1]) for x in heads)


def _takes_heads(x: Tensor, key: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    if torch.is_grad_enabled() and x.requires_grad:
        return False
    if x.dim() != 4 or x.shape[:2] != key.shape[:2] or x.shape[3] != key.shape[3]:
        return False
    return bool(key.shape[2] > 0 and 0 < x.shape[3] <= core.WIDEST_HEAD)


class _Entered(threading.local):
    """The modes that hooks of this thread have entered."""

    def __init__(self) -> None:
        self.modes: list[_ByEngine] = []


_entered = _Entered()


def _enter(module: nn.Module, args: Any) -> None:
    if not torch.compiler.is_compiling():
        _entered.modes.append(_ByEngine().__enter__())


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    if not torch.compiler.is_compiling() and _entered.modes:
        _entered.modes.pop().__exit__(None, None, None)
