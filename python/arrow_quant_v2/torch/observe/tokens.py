"""Tokens: the vectors that the rows of a weight meet in one call of a linear map or convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Window", "choose_tokens", "count_tokens", "take_tokens"]


@dataclass(frozen=True)
class Window:
    """Which part of its input one output of a convolution sees; all empty for a linear map.

    One entry a spatial dimension; `padding` is ``"same"``, ``"valid"``, or so many zeros.
    """

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()

    def pads(self) -> list[tuple[int, int]]:
        """Zeros before and behind each dimension."""
        if self.padding == "valid":
            return [(0, 0)] * len(self.kernel)
        if self.padding == "same":
            totals = [d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True)]
            return [(total // 2, total - total // 2) for total in totals]
        return [(int(p), int(p)) for p in self.padding]

    def outputs(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial dimensions of the output for those of an input."""
        return tuple(
            (size + sum(pad) - d * (k - 1) - 1) // s + 1
            for size, pad, k, s, d in zip(
                sizes, self.pads(), self.kernel, self.stride, self.dilation, strict=True
            )
        )


def count_tokens(x: Tensor, window: Window) -> tuple[int, int]:
    """Rows of a batch of activations, and tokens of each row."""
    if not window.kernel:
        return (len(x) if x.ndim > 1 else 1), math.prod(x.shape[1:-1])
    rows = len(x) if x.ndim == len(window.kernel) + 2 else 1
    return rows, math.prod(window.outputs(tuple(x.shape[-len(window.kernel) :])))


def take_tokens(x: Tensor, window: Window, rows: Tensor, places: Tensor) -> Tensor:
    """The tokens at `places` of `rows`: float32 [n, channels], in the order of the weight."""
    rows, places = rows.to(x.device), places.to(x.device)
    if not window.kernel:
        x = x if x.ndim > 1 else x[None]
        at = (rows, *torch.unravel_index(places, x.shape[1:-1])) if x.ndim > 2 else (rows,)
        return x[at].float()
    x = x if x.ndim == len(window.kernel) + 2 else x[None]
    padding = [side for pad in reversed(window.pads()) for side in pad]
    padded = functional.pad(x, padding).contiguous()
    steps = padded.stride()
    outputs = window.outputs(tuple(x.shape[2:]))
    patches = padded.as_strided(
        (len(x), *outputs, x.shape[1], *window.kernel),
        (
            steps[0],
            *(a * b for a, b in zip(steps[2:], window.stride, strict=True)),
            steps[1],
            *(a * b for a, b in zip(steps[2:], window.dilation, strict=True)),
        ),
    )
    at = (rows, *torch.unravel_index(places, outputs))
    return patches[at].flatten(1).float()


def choose_tokens(
    quotas: Tensor,
    tokens: int,
    generator: torch.Generator,
    valid: Tensor | None = None,
    odds: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Some tokens of each sample, at random: numbers of samples and of tokens.

    Parameters
    ----------
    quotas
        Integers ``[samples]``: at most so many of each.
    tokens
        Of each sample.
    generator
        Where chance comes from.
    valid
        Booleans ``[samples, tokens]``: those that may be chosen; of another shape, or None: all.
    odds
        Numbers above 0, ``[samples, tokens]``: how much likelier one is than another; None: all
        alike (Efraimidis and Spirakis, 2006: the least of exponential variables of these rates).
    """
    samples = len(quotas)
    if valid is not None and valid.shape != (samples, tokens):
        valid = None
    if valid is None and int(quotas.min()) >= tokens:
        return (
            torch.arange(samples).repeat_interleave(tokens),
            torch.arange(tokens).repeat(samples),
        )
    scores = torch.rand(samples, tokens, generator=generator)
    if odds is not None:
        scores = -torch.log1p(-scores) / odds
    if valid is not None:
        scores[~valid] = torch.inf
    most = min(int(quotas.max()), tokens)
    lowest = torch.topk(scores, most, dim=1, largest=False, sorted=True)
    wanted = torch.arange(most)[None] < quotas[:, None]
    wanted &= lowest.values.isfinite()
    chosen, order = lowest.indices.sort(dim=1)
    keep = wanted.gather(1, order)
    return torch.nonzero(keep)[:, 0], chosen[keep]
