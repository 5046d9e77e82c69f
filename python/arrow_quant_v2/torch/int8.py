"""Products of int8 activations with int8 weights.

A ``two_level``, ``row`` or ``residual_binary`` weight is an int8 matrix with one scale per row
(``docs/format.md``). Activations become int8 with one scale per token (linear maps) or per sample
(convolutions), either their own largest magnitude over 127 or a given, calibrated one. The product
is an exact int32; both scales are applied to it in float32. NaN and infinity in a token or sample
come out as NaN or infinity of that token or sample.

Linear layers on the CPU are the engine's (``engine.py``); convolutions are oneDNN's. Weights can be
kept in its layout, for speed, beside the packed ones; what is kept goes when its weight goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from arrow_quant_v2.torch.decode import Packed, row_scales_of

__all__ = ["conv", "linear", "quantize_activations"]

Expand = Callable[[Packed], Tensor]

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
#: oneDNN's convolutions take uint8 activations.
_SHIFT = 128
_SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class _Kept:
    """A weight in oneDNN's layout, and its row scales."""

    values: Tensor
    scales: Tensor
    zeros: Tensor
    version: int


_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()


def quantize_activations(
    x: Tensor, x_scale: Tensor | None, dims: tuple[int, ...], shift: int = 0
) -> tuple[Tensor, Tensor]:
    """Int8 values (uint8 when there is a shift) and their scales; one scale for all along `dims`.

    Parameters
    ----------
    x
        Activations.
    x_scale
        Scales that broadcast to `x`, or None for the largest magnitude over 127.
    dims
        The dimensions that share a scale.
    shift
        What is added to every value: 128 makes them uint8.
    """
    dtype = torch.uint8 if shift else torch.int8
    largest = torch.linalg.vector_norm(x, ord=float("inf"), dim=dims, keepdim=True)
    largest = largest.to(torch.float32)
    if x_scale is None:
        scale = largest.div_(127).clamp_min_(_SMALLEST)
        return x.div(scale).round_().add_(shift).to(dtype), scale
    values = x.div(x_scale).round_().clamp_(-127, 127).add_(shift).to(dtype)
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


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over its input; one entry a spatial dimension."""

    kernel: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


def conv(
    x: Tensor,
    weight: Packed,
    geometry: Geometry,
    bias: Tensor | None,
    x_scale: Tensor | None,
    keep: bool,
    expand: Expand,
) -> Tensor:
    """A convolution in int8; `x` is ``[batch, channels, *sizes]``."""
    dims = tuple(range(1, x.dim()))
    if x_scale is not None and x_scale.dim() > 0:
        x_scale = x_scale.reshape(-1, *[1] * (x.dim() - 1))
    on_cpu = x.device.type == "cpu" and x.numel() > 0
    values, scale = quantize_activations(x, x_scale, dims, _SHIFT if on_cpu else 0)
    if on_cpu:
        out = _conv_onednn(values, weight, geometry, x.dtype, keep, expand)
    else:
        matrix = expand(weight).to(torch.float32).mul_(row_scales_of(weight))
        out = _CONVOLUTIONS[x.dim() - 2](
            values.to(torch.float32),
            matrix.view(matrix.shape[0], -1, *geometry.kernel),
            None,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.groups,
        ).to(x.dtype)
    out = out.mul_(scale)
    if bias is not None:
        out.add_(bias.view(-1, *[1] * len(geometry.kernel)))
    return out.contiguous(memory_format=output_format(x.dim()))


def output_format(dims: int) -> torch.memory_format:
    """Memory format of the result of :func:`conv`, for an input of so many dimensions."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return formats.get(dims, torch.contiguous_format)


def _conv_onednn(
    values: Tensor,
    weight: Packed,
    g: Geometry,
    dtype: torch.dtype,
    keep: bool,
    expand: Expand,
) -> Tensor:
    moves = (g.stride, g.padding, g.dilation, g.groups)

    def pack() -> Tensor:
        matrix = expand(weight)
        shaped = matrix.view(matrix.shape[0], -1, *g.kernel)
        return torch.ops.onednn.qconv_prepack(
            shaped, row_scales_of(weight).view(-1), 1.0, _SHIFT, *moves
        )

    kept = _kept_weight(weight, pack) if keep else _new(weight, pack)
    wanted = dtype if dtype in (torch.float32, torch.bfloat16) else torch.float32
    return torch.ops.onednn.qconv_pointwise(
        values,
        1.0,
        _SHIFT,
        kept.values,
        kept.scales,
        kept.zeros,
        None,
        *moves,
        1.0,
        0,
        wanted,
        "none",
        [],
        "",
    ).to(dtype)


def _new(weight: Packed, pack: Callable[[], Tensor]) -> _Kept:
    rows = weight.codes.shape[0]
    scales = row_scales_of(weight).view(-1).contiguous()
    zeros = torch.zeros(rows, dtype=torch.int32)
    return _Kept(pack(), scales, zeros, _version(weight.codes))


def _kept_weight(weight: Packed, pack: Callable[[], Tensor]) -> _Kept:
    found: _Kept | None = _kept.get(weight.codes)
    if found is None or found.version != _version(weight.codes):
        found = _new(weight, pack)
        _kept[weight.codes] = found
    return found


def _version(tensor: Tensor) -> int:
    """Counts changes in place; tensors made under inference_mode have no count and never change."""
    return 0 if tensor.is_inference() else tensor._version
