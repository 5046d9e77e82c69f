"""The floating-point type of a loaded model, and what its library keeps in float32."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from arrow_quant_v2.tensors.tensor import QuantizedTensor

__all__ = ["source_dtype", "stored_dtype", "take_float32", "wide_modules"]

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def source_dtype(tensor: QuantizedTensor) -> torch.dtype:
    """The type of the source; bfloat16 where that was narrower."""
    return _TYPES.get(tensor.source_dtype, torch.bfloat16)


def stored_dtype(components: Iterable[Mapping[str, QuantizedTensor]]) -> torch.dtype:
    """The type that most numbers of the source have, which the model computes in."""
    counts: Counter[torch.dtype] = Counter()
    for component in components:
        for tensor in component.values():
            if tensor.is_quantized or tensor.source_dtype in _TYPES:
                counts[source_dtype(tensor)] += tensor.size
    return max(counts, key=lambda kind: counts[kind], default=torch.float32)


def wide_modules(model: nn.Module, dtype: torch.dtype | None) -> Callable[[str], bool]:
    """Tells by its name whether a tensor stays in float32 when the model is loaded in `dtype`.

    Libraries name modules whose numbers leave the range, or need the precision, of 16 bits.
    """
    names: set[str] = set()
    if dtype in (torch.float16, torch.bfloat16):
        names.update(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
        # transformers means float16 alone by the plain list, diffusers both.
        if dtype == torch.float16 or not hasattr(model, "base_model_prefix"):
            names.update(getattr(model, "_keep_in_fp32_modules", None) or ())
    if not names:
        return lambda _: False
    pattern = re.compile(rf"(^|\.)({'|'.join(map(re.escape, sorted(names)))})(\.|$)")
    return lambda name: pattern.search(name) is not None


def take_float32(layer: nn.Module) -> None:
    """Let a packed layer compute in float32, and put it out, whatever type its input has."""

    def widen(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(a.float() if isinstance(a, Tensor) and _is_half(a) else a for a in args)

    layer.register_forward_pre_hook(widen)


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)
