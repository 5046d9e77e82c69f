"""Products of int8 activations with int8 weights in plain torch: what the engine does not do.

The engine (``engine.py``) has linear maps and convolutions on the CPU. Here are other devices,
groups, three dimensions, and static scales that differ between the samples of a batch. A
``two_level``, ``row`` or ``residual_binary`` weight is an int8 matrix with one scale per row
(``docs/reference/format.md``). Activations become int8 with one scale per token (linear maps) or
per sample (convolutions): their own largest magnitude over 127, or a given, calibrated one. NaN and
infinity in a token or sample come out as NaN or infinity of that token or sample.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from arrow_quant_v2.torch.ops.cpu import Geometry
from arrow_quant_v2.torch.ops.decode import Packed, row_scales_of

__all__ = ["conv", "linear", "output_format", "quantize_activations"]

Expand = Callable[[Packed], Tensor]

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_SMALLEST = torch.finfo(torch.float32).tiny


def quantize_activations(
    x: Tensor, x_scale: Tensor | None, dims: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Int8 values and their scales; one scale for all along `dims`.

    Parameters
    ----------
    x
        Activations.
    x_scale
        Scales that broadcast to `x`, or None for the largest magnitude over 127.
    dims
        The dimensions that share a scale.
    """
    largest = torch.linalg.vector_norm(x, ord=float("inf"), dim=dims, keepdim=True)
    largest = largest.to(torch.float32)
    if x_scale is None:
        scale = largest.div_(127).clamp_min_(_SMALLEST)
        return x.div(scale).round_().to(torch.int8), scale
    values = x.div(x_scale).round_().clamp_(-127, 127).to(torch.int8)
    return values, x_scale + largest.mul_(0)  # a bad number spoils its token, as in float


def linear(
    x: Tensor, weight: Packed, bias: Tensor | None, x_scale: Tensor | None, expand: Expand
) -> Tensor:
    """``x @ weight.T + bias`` in int8 where the engine does not do it; `x` is ``[..., cols]``."""
    tokens = x.reshape(-1, weight.cols)
    if x_scale is not None and x_scale.dim() > 0:
        x_scale = x_scale.expand(*x.shape[:-1], 1).reshape(-1, 1)
    values, scale = quantize_activations(tokens, x_scale, (1,))
    product = _exact_product(values, expand(weight))
    out = product.to(torch.float32).mul_(row_scales_of(weight).t()).mul_(scale).to(x.dtype)
    if bias is not None:
        out.add_(bias)
    return out.view(*x.shape[:-1], weight.codes.shape[0])


def _exact_product(values: Tensor, weight: Tensor) -> Tensor:
    """Int8 by int8, as exactly as the device can."""
    device = values.device.type
    if device == "cpu" and values.numel() and weight.numel():
        return torch._int_mm(values, weight.t())
    if device == "cuda" and values.shape[0] > 16 and _multiples_of_8(weight):
        return torch._int_mm(values, weight.t())
    return values.to(torch.float32) @ weight.to(torch.float32).t()


def _multiples_of_8(weight: Tensor) -> bool:
    return all(size > 0 and size % 8 == 0 for size in weight.shape)


def conv(
    x: Tensor,
    weight: Packed,
    geometry: Geometry,
    bias: Tensor | None,
    x_scale: Tensor | None,
    expand: Expand,
) -> Tensor:
    """A convolution in int8 where the engine does not do it; `x` is ``[batch, channels, *sizes]``.

    The integers are multiplied as floats: exactly, up to sums of 2^24.
    """
    if x_scale is not None and x_scale.dim() > 0:
        x_scale = x_scale.reshape(-1, *[1] * (x.dim() - 1))
    values, scale = quantize_activations(x, x_scale, tuple(range(1, x.dim())))
    matrix = expand(weight).to(torch.float32).mul_(row_scales_of(weight))
    out = _CONVOLUTIONS[x.dim() - 2](
        values.to(torch.float32),
        matrix.view(matrix.shape[0], -1, *geometry.kernel),
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.groups,
    )
    out = out.mul_(scale).to(x.dtype)
    if bias is not None:
        out.add_(bias.view(-1, *[1] * len(geometry.kernel)))
    return out.contiguous(memory_format=output_format(x.dim()))


def output_format(dims: int) -> torch.memory_format:
    """Memory format of the result of :func:`conv`, for an input of so many dimensions."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return formats.get(dims, torch.contiguous_format)
