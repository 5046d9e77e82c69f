"""Layers by the engine, on tensors in main memory: products of integers with packed weights.

Inputs become integers of one to three signed bytes, one scale per token (linear maps) or sample
(convolutions), and are multiplied exactly; three bytes give the result of float32 arithmetic, one
is W8A8, W4A8 or W2A8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from arrow_quant_v2._native import core
from arrow_quant_v2.torch.ops.decode import Packed, row_scales_of

__all__ = [
    "PLANES",
    "Geometry",
    "arrays",
    "attention",
    "conv",
    "gelu_tanh",
    "kept_bytes",
    "linear",
    "spec",
    "takes",
    "takes_conv",
    "takes_numbers",
]

#: Bytes of an input element that its type needs.
PLANES = {torch.float32: 3, torch.bfloat16: 2, torch.float16: 2}

#: Types that it reads and writes as they are.
_READABLE = (torch.float32, torch.bfloat16)

_CHANNELS_LAST = torch.channels_last

#: Longer rows could exceed the 32 bits of a sum.
_LONGEST_ROW = 1 << 16


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over its input; one entry a spatial dimension."""

    kernel: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def as_engine(self) -> core.ConvGeometry:
        """As the engine wants it: one dimension is an image of height 1."""

        def pair(values: list[int], alone: int) -> tuple[int, int]:
            height, width = values if len(values) == 2 else (alone, *values)
            return height, width

        return core.ConvGeometry(
            pair(self.kernel, 1),
            pair(self.stride, 1),
            pair(self.padding, 0),
            pair(self.dilation, 1),
        )


@dataclass(frozen=True)
class _Kept:
    """A weight expanded to int8 in the engine's layout, and its row scales."""

    panels: Tensor
    scales: Tensor
    version: int


_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()


def arrays(weight: Packed) -> tuple[Any, Any, Any, Any]:
    """The buffers of a weight as the engine takes them."""
    codes, params, scales, chunks = weight.codes, weight.params, weight.row_scales, weight.chunks
    return codes.numpy(), params.numpy(), scales.numpy(), chunks.numpy()


def spec(weight: Packed) -> core.AffineSpec:
    """The format of a weight as the engine takes it."""
    return _spec(weight.bit_width, weight.group_size, weight.param_encoding)


@cache
def _spec(bit_width: int, group_size: int, param_encoding: str) -> core.AffineSpec:
    return core.AffineSpec(bit_width, group_size, param_encoding, "search")


def takes(x: Tensor, weight: Packed) -> bool:
    """Whether :func:`linear` can do this."""
    if x.device.type != "cpu" or x.dtype not in PLANES or weight.codes.numel() == 0:
        return False
    return weight.cols <= _LONGEST_ROW


def takes_conv(x: Tensor, weight: Packed, geometry: Geometry) -> bool:
    """Whether :func:`conv` can do this."""
    known = geometry.groups == 1 and len(geometry.kernel) <= 2 and weight.param_encoding != "fp16"
    return known and takes(x, weight)


def linear(
    x: Tensor, weight: Packed, bias: Tensor | None, planes: int, scale: float, keep: bool
) -> Tensor:
    """Multiply.

    Parameters
    ----------
    x
        ``[..., cols]``, of a type in :data:`PLANES`.
    planes
        Bytes of an input element: 1, 2 or 3.
    scale
        Static scale of one plane; 0: one of its own for each token.
    keep
        Keep the weight expanded to int8 for the next call, if it has an int8 form.
    """
    tokens = _numbers(x.detach().reshape(-1, weight.cols))
    rows, threads = weight.codes.shape[0], torch.get_num_threads()
    out = torch.empty(tokens.shape[0], rows, dtype=tokens.dtype)
    rest = (_bias(bias), None, planes, scale, threads)
    if keep and weight.param_encoding != "fp16":

        def expand() -> Tensor:
            panels = torch.empty(core.panels_bytes(rows, weight.cols), dtype=torch.uint8)
            core.make_panels(*_described(weight), panels.numpy(), threads)
            return panels

        kept = _kept_weight(weight, expand)
        core.linear_panels(
            _array(tokens), _array(out), kept.panels.numpy(), kept.scales.numpy(), *rest
        )
    else:
        core.linear_packed(_array(tokens), _array(out), *_described(weight), *rest)
    y = out.view(*x.shape[:-1], rows)
    return y if y.dtype == x.dtype else y.to(x.dtype)


def conv(
    x: Tensor,
    weight: Packed,
    geometry: Geometry,
    bias: Tensor | None,
    planes: int,
    scale: float,
    keep: bool,
) -> Tensor:
    """Convolve ``[batch, channels, *sizes]`` with one or two sizes; images come out channels-last.

    `planes`, `scale` and `keep` as for :func:`linear`; scales are of samples.
    """
    one = x.dim() == 3
    images = x.detach().unsqueeze(2) if one else x.detach()
    images = _numbers(images.permute(0, 2, 3, 1))
    shape, threads = geometry.as_engine(), torch.get_num_threads()
    rows = weight.codes.shape[0]
    sizes = _output_sizes(x, geometry)
    out = torch.empty(x.shape[0], *([1, *sizes] if one else sizes), rows, dtype=images.dtype)
    rest = (shape, _bias(bias), None, planes, scale, threads)
    if keep:

        def expand() -> Tensor:
            size = core.conv_panels_bytes(rows, x.shape[1], shape)
            panels = torch.empty(size, dtype=torch.uint8)
            core.make_conv_panels(*_described(weight), x.shape[1], shape, panels.numpy(), threads)
            return panels

        kept = _kept_weight(weight, expand)
        core.conv2d_panels(
            _array(images), _array(out), kept.panels.numpy(), kept.scales.numpy(), *rest
        )
    else:
        core.conv2d_packed(_array(images), _array(out), *_described(weight), *rest)
    result = out.permute(0, 3, 1, 2).to(x.dtype)
    if one:
        return result.squeeze(2).contiguous()
    return result.contiguous(memory_format=torch.channels_last)


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """``softmax(query key^T scale) value`` of ``[batch, heads, tokens, width]``.

    The result lies in memory as ``[batch, tokens, heads, width]``, as projections want it.
    """
    batch, heads, tokens, width = query.shape
    q, k, v = (_rows_of_numbers(x.detach()) for x in (query, key, value))
    out = torch.empty(batch, tokens, heads, width, dtype=q.dtype).transpose(1, 2)
    threads = torch.get_num_threads()
    core.attention(_array(q), _array(k), _array(v), _array(out), scale, threads)
    return out.to(query.dtype)


def takes_numbers(x: Tensor) -> bool:
    """Whether :func:`gelu_tanh` can do this: it goes through memory as it lies."""
    dense = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=_CHANNELS_LAST))
    return x.device.type == "cpu" and x.dtype in _READABLE and dense


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by tanh of every number; the result lies in memory as `x` does."""
    out = torch.empty_like(x)
    threads = torch.get_num_threads()
    core.gelu_tanh(_array(_as_stored(x.detach())), _array(_as_stored(out)), threads)
    return out


def _as_stored(x: Tensor) -> Tensor:
    return x.as_strided((x.numel(),), (1,))


def _rows_of_numbers(x: Tensor) -> Tensor:
    numbers = x if x.dtype in _READABLE else x.to(torch.float32)
    return numbers if numbers.stride(-1) == 1 else numbers.contiguous()


def _described(weight: Packed) -> tuple[Any, Any, Any, Any, int, core.AffineSpec]:
    return (*arrays(weight), weight.cols, spec(weight))


def _numbers(x: Tensor) -> Tensor:
    """Of a type that the engine reads and writes."""
    return (x if x.dtype in _READABLE else x.to(torch.float32)).contiguous()


def _array(numbers: Tensor) -> Any:
    """What :func:`_numbers` gave as the engine takes it; numpy has no bfloat16."""
    if numbers.dtype == torch.bfloat16:
        numbers = numbers.view(torch.int16)
    return numbers.numpy()


def _bias(bias: Tensor | None) -> Any:
    return None if bias is None else bias.detach().to(torch.float32).contiguous().numpy()


def _output_sizes(x: Tensor, g: Geometry) -> list[int]:
    moves = zip(x.shape[2:], g.kernel, g.stride, g.padding, g.dilation, strict=True)
    sizes = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in moves]
    if min(sizes) < 1:
        raise RuntimeError(
            f"a kernel of {tuple(g.kernel)} does not fit an input of {tuple(x.shape[2:])}"
        )
    return sizes


def kept_bytes(codes: Tensor) -> int:
    """Bytes that are kept beside a weight, of which `codes` are the codes."""
    found: _Kept | None = _kept.get(codes)
    return 0 if found is None else found.panels.nbytes + found.scales.nbytes


def _kept_weight(weight: Packed, expand: Callable[[], Tensor]) -> _Kept:
    # Tensors made under inference_mode have no count of changes, and never change.
    version = 0 if weight.codes.is_inference() else weight.codes._version
    found: _Kept | None = _kept.get(weight.codes)
    if found is None or found.version != version:
        scales = row_scales_of(weight).view(-1).contiguous()
        found = _Kept(expand(), scales, version)
        _kept[weight.codes] = found
    return found
