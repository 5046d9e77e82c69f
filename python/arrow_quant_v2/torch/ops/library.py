"""The custom operators of quantized models: ``torch.ops.arrow_quant.*``.

Arguments are plain tensors and numbers, so ``torch.compile`` and ``torch.export`` trace through;
each operator has a fake kernel. On the CPU the engine does the work, elsewhere plain torch does;
attention and GELU are for the CPU alone. The packed weight is always the seven arguments of
:class:`~arrow_quant_v2.torch.ops.decode.Packed` after ``codes`` in that order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from arrow_quant_v2._native import core
from arrow_quant_v2.torch.ops import cpu, int8
from arrow_quant_v2.torch.ops.decode import Packed, decode, int8_values, row_numbers

__all__ = [
    "attention",
    "conv_int8",
    "dequantize",
    "embedding",
    "expand_int8",
    "gelu_tanh",
    "linear_int8",
    "linear_weight_only",
]

_WEIGHT = (
    "Tensor codes, Tensor params, Tensor row_scales, Tensor chunks, int cols, int bit_width, "
    "int group_size, str param_encoding"
)
_library = torch.library.Library("arrow_quant", "DEF")
_library.define(f"dequantize({_WEIGHT}, ScalarType dtype) -> Tensor")
_library.define(f"expand_int8({_WEIGHT}) -> Tensor")
_library.define(f"linear_weight_only(Tensor x, {_WEIGHT}, Tensor? bias) -> Tensor")
_library.define(
    f"linear_int8(Tensor x, {_WEIGHT}, Tensor? bias, Tensor? x_scale, bool keep) -> Tensor"
)
_library.define(
    f"conv_int8(Tensor x, {_WEIGHT}, int[] kernel, Tensor? bias, Tensor? x_scale, int[] stride, "
    "int[] padding, int[] dilation, int groups, bool keep) -> Tensor"
)
_library.define("attention(Tensor query, Tensor key, Tensor value, float scale) -> Tensor")
_library.define("gelu_tanh(Tensor x) -> Tensor")
_library.define(f"embedding(Tensor ids, {_WEIGHT}, ScalarType dtype) -> Tensor")

dequantize = torch.ops.arrow_quant.dequantize
expand_int8 = torch.ops.arrow_quant.expand_int8
linear_weight_only = torch.ops.arrow_quant.linear_weight_only
linear_int8 = torch.ops.arrow_quant.linear_int8
conv_int8 = torch.ops.arrow_quant.conv_int8
embedding = torch.ops.arrow_quant.embedding
attention = torch.ops.arrow_quant.attention
gelu_tanh = torch.ops.arrow_quant.gelu_tanh


def _floats(w: Packed, dtype: torch.dtype) -> Tensor:
    """The weight in `dtype`, by whatever is fastest on its device."""
    if w.codes.device.type != "cpu":
        return decode(w, dtype)
    out = torch.empty(w.codes.shape[0], w.cols, dtype=torch.float32)
    threads = torch.get_num_threads()
    core.dequantize_packed(*cpu.arrays(w), w.cols, cpu.spec(w), out.view(-1).numpy(), threads)
    return out.to(dtype)


def _int8(w: Packed) -> Tensor:
    """The int8 matrix of the weight."""
    if w.codes.device.type != "cpu":
        return int8_values(w)
    out = torch.empty(w.codes.shape[0], w.cols, dtype=torch.int8)
    threads = torch.get_num_threads()
    core.expand_packed(*cpu.arrays(w), w.cols, cpu.spec(w), out.view(-1).numpy(), threads)
    return out


# Implementations get the tensors and numbers of the weight as one run of arguments.


def _dequantize(*weight_and_dtype: Any) -> Tensor:
    *weight, dtype = weight_and_dtype
    return _floats(Packed(*weight), dtype)


def _expand_int8(*weight: Any) -> Tensor:
    return _int8(Packed(*weight))


def _linear_weight_only(x: Tensor, *weight_and_bias: Any) -> Tensor:
    *parts, bias = weight_and_bias
    weight = Packed(*parts)
    if cpu.takes(x, weight):
        return cpu.linear(x, weight, bias, cpu.PLANES[x.dtype], 0.0, keep=False)
    return functional.linear(x, _floats(weight, x.dtype), bias)


def _linear_int8(x: Tensor, *rest: Any) -> Tensor:
    *parts, bias, x_scale, keep = rest
    weight = Packed(*parts)
    one_scale = x_scale is None or x_scale.numel() == 1
    if one_scale and cpu.takes(x, weight):
        scale = 0.0 if x_scale is None else float(x_scale)
        return cpu.linear(x, weight, bias, 1, scale, keep)
    return int8.linear(x, weight, bias, x_scale, _int8)


def _conv_int8(x: Tensor, *rest: Any) -> Tensor:
    *parts, kernel, bias, x_scale, stride, padding, dilation, groups, keep = rest
    weight = Packed(*parts)
    geometry = cpu.Geometry(kernel, stride, padding, dilation, groups)
    one_scale = x_scale is None or x_scale.numel() == 1
    if one_scale and x.numel() and cpu.takes_conv(x, weight, geometry):
        scale = 0.0 if x_scale is None else float(x_scale)
        return cpu.conv(x, weight, geometry, bias, 1, scale, keep)
    return int8.conv(x, weight, geometry, bias, x_scale, _int8)


def _embedding(ids: Tensor, *rest: Any) -> Tensor:
    *parts, dtype = rest
    table = Packed(*parts)
    rows = ids.reshape(-1)
    chosen = table._replace(
        codes=table.codes[rows],
        params=table.params[rows],
        row_scales=table.row_scales[rows] if table.row_scales.numel() else table.row_scales,
    )
    return decode(chosen, dtype, row_numbers(table)[rows]).view(*ids.shape, table.cols)


def _attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return cpu.attention(query, key, value, scale)


def _gelu_tanh(x: Tensor) -> Tensor:
    return cpu.gelu_tanh(x)


def _fake_dequantize(codes: Tensor, *rest: Any) -> Tensor:
    return codes.new_empty((codes.shape[0], rest[3]), dtype=rest[-1])


def _fake_expand_int8(codes: Tensor, *rest: Any) -> Tensor:
    return codes.new_empty((codes.shape[0], rest[3]), dtype=torch.int8)


def _fake_linear(x: Tensor, codes: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


def _fake_conv_int8(x: Tensor, codes: Tensor, *rest: Any) -> Tensor:
    kernel, _, _, stride, padding, dilation, _, _ = rest[7:]
    sizes = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    ]
    out = x.new_empty((x.shape[0], codes.shape[0], *sizes))
    return out.contiguous(memory_format=int8.output_format(x.dim()))


def _fake_embedding(ids: Tensor, *rest: Any) -> Tensor:
    return rest[0].new_empty((*ids.shape, rest[4]), dtype=rest[-1])


def _fake_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    batch, heads, tokens, width = query.shape
    return query.new_empty((batch, tokens, heads, width)).transpose(1, 2)


def _fake_gelu_tanh(x: Tensor) -> Tensor:
    return torch.empty_like(x)


for _name, _run, _fake in (
    ("dequantize", _dequantize, _fake_dequantize),
    ("expand_int8", _expand_int8, _fake_expand_int8),
    ("linear_weight_only", _linear_weight_only, _fake_linear),
    ("linear_int8", _linear_int8, _fake_linear),
    ("conv_int8", _conv_int8, _fake_conv_int8),
    ("embedding", _embedding, _fake_embedding),
    ("attention", _attention, _fake_attention),
    ("gelu_tanh", _gelu_tanh, _fake_gelu_tanh),
):
    _library.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"arrow_quant::{_name}", _fake, lib=_library)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, *weight, _ = inputs
    ctx.save_for_backward(*weight[:4])
    ctx.numbers = weight[4:]


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weight = dequantize(*ctx.saved_tensors, *ctx.numbers, grad.dtype)
    bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[-1] else None
    return (grad @ weight, *[None] * 8, bias)


torch.library.register_autograd(
    "arrow_quant::linear_weight_only", _linear_backward, setup_context=_remember, lib=_library
)
