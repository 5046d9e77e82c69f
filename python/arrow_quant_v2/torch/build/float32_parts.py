"""Which tensors of a model stay float32 when the rest is narrower: its class says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import torch
from torch import nn

__all__ = ["float32_parts"]


def float32_parts(model: nn.Module) -> Callable[[str, torch.dtype], bool]:
    """Find the tensors that the library of `model` would keep in float32.

    diffusers and transformers call them ``_keep_in_fp32_modules``. transformers has those that stay
    float32 in a float16 model only, as float16 overflows there (``wo`` of T5), and those that
    always do, ``_keep_in_fp32_modules_strict``.

    Returns
    -------
    Callable
        Says by the name of a tensor, and the type that it would have, whether it is float32.
    """
    parts = getattr(model, "_keep_in_fp32_modules", None) or ()
    strict = getattr(model, "_keep_in_fp32_modules_strict", None)
    of_diffusers = strict is None and hasattr(model, "register_to_config")
    bfloat16 = _pattern(parts if of_diffusers else strict or ())
    float16 = _pattern({*parts, *(strict or ())})

    def is_float32(name: str, dtype: torch.dtype) -> bool:
        if dtype == torch.float16:
            return float16.search(name) is not None
        return dtype == torch.bfloat16 and bfloat16.search(name) is not None

    return is_float32


def _pattern(parts: Iterable[str]) -> re.Pattern[str]:
    """Matches names with one of `parts` in them, at whole steps of the path."""
    names = "|".join(re.escape(part) for part in parts)
    return re.compile(rf"(?:^|\.)(?:{names})(?:\.|$)" if names else r"(?!)")
