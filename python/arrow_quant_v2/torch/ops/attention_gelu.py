"""What lies between the layers of a model, by the engine where that is faster than torch.

Once layers are quantized, attention and the GELU of feed-forward blocks take half as long as they
do. Inside the modules of a loaded model that compute such a thing, calls of
``scaled_dot_product_attention`` and ``gelu`` that the engine can do go to it; all else is left
alone.
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
from arrow_quant_v2.torch.ops import cpu, library

__all__ = ["compute_by_engine"]

#: Numbers from which on GELU is worth a call of the engine.
_SOME = 1 << 14


def compute_by_engine(model: nn.Module) -> None:
    """Let the engine do the attention and the GELU of `model`, where it runs on the CPU."""
    for module in model.modules():
        if _attends(module) or _has_gelu(module):
            module.register_forward_pre_hook(_enter)
            module.register_forward_hook(_leave, always_call=True)


def _attends(module: nn.Module) -> bool:
    """Whether this is an ``Attention`` of diffusers, or alike, with heads that the engine takes."""
    heads, projection = getattr(module, "heads", None), getattr(module, "to_k", None)
    width = getattr(projection, "out_features", None)
    if not isinstance(heads, int) or not isinstance(width, int):
        return False
    return 0 < width // heads <= core.WIDEST_HEAD


def _has_gelu(module: nn.Module) -> bool:
    """Whether this is ``torch.nn.GELU``, or that of diffusers, which has a layer before it."""
    return getattr(module, "approximate", None) == "tanh"


class _ByEngine(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention and _takes(*args, **kwargs):
            query, key, value = args
            scale = kwargs.get("scale")
            return library.attention(
                query, key, value, 1 / math.sqrt(query.shape[-1]) if scale is None else scale
            )
        if func is functional.gelu and kwargs == {"approximate": "tanh"} and _takes_numbers(*args):
            return library.gelu_tanh(args[0])
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
    if x.dim() != 4 or x.shape[:2] != key.shape[:2] or x.shape[3] != key.shape[3]:
        return False
    fits = key.shape[2] > 0 and 0 < x.shape[3] <= core.WIDEST_HEAD
    return bool(fits and not _wants_gradient(x))


def _takes_numbers(x: Tensor) -> bool:
    return x.numel() >= _SOME and cpu.takes_numbers(x) and not _wants_gradient(x)


def _wants_gradient(x: Tensor) -> bool:
    return bool(torch.is_grad_enabled() and x.requires_grad)


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
