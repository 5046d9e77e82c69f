"""From packed codes to numbers in plain torch, on every device (``docs/reference/format.md``).

The engine does the same faster where tensors lie in main memory; ``ops.py`` chooses.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from arrow_quant_v2._native import core

__all__ = [
    "Packed",
    "decode",
    "int8_values",
    "parameter_fields",
    "row_numbers",
    "row_scales_of",
    "spread",
    "unpack_codes",
]


class Packed(NamedTuple):
    """The buffers of a weight ``[rows, cols]``, and what they mean.

    Attributes
    ----------
    codes, params
        uint8 ``[rows, bytes]``, as stored.
    row_scales
        fp16 bits as int16 ``[rows]``; empty for ``fp16`` parameters.
    chunks
        int32 ``[n, 3]``: first row, binary exponent of the tensor scale, offset unit.
    cols, bit_width, group_size, param_encoding
        As in the artefact.
    """

    codes: Tensor
    params: Tensor
    row_scales: Tensor
    chunks: Tensor
    cols: int
    bit_width: int
    group_size: int
    param_encoding: str


def unpack_codes(codes: Tensor, bit_width: int, cols: int) -> Tensor:
    """Integer codes, uint8 ``[rows, cols]``."""
    if bit_width == 8:
        return codes[:, :cols]
    shifts = torch.arange(0, 8, bit_width, dtype=torch.uint8, device=codes.device)
    parts = (codes.unsqueeze(-1) >> shifts) & ((1 << bit_width) - 1)
    return parts.flatten(1)[:, :cols]


def row_numbers(packed: Packed) -> Tensor:
    """Exponent of the tensor scale and offset unit of every row, int32 ``[rows, 2]``."""
    rows, chunks = packed.codes.shape[0], packed.chunks
    if chunks.shape[0] == 1:
        return chunks[:, 1:].expand(rows, 2)
    row = torch.arange(rows, dtype=torch.int32, device=chunks.device)
    return chunks[torch.searchsorted(chunks[:, 0].contiguous(), row, right=True) - 1, 1:]


def row_scales_of(packed: Packed, numbers: Tensor | None = None) -> Tensor:
    """Scale of each row with the tensor's power of two in it, float32 ``[rows, 1]``."""
    exponent = row_numbers(packed)[:, :1] if numbers is None else numbers[:, :1]
    halves = packed.row_scales.view(torch.float16).to(torch.float32).unsqueeze(1)
    return torch.ldexp(halves, exponent)


def int8_values(packed: Packed, numbers: Tensor | None = None) -> Tensor:
    """The int8 matrix v of w = row scale * v, ``[rows, cols]``; not for ``fp16`` parameters."""
    codes = unpack_codes(packed.codes, packed.bit_width, packed.cols)
    if packed.param_encoding == "row":
        return codes.view(torch.int8)
    low, high = (field.to(torch.int16) for field in parameter_fields(packed))
    code = codes.to(torch.int16)
    if packed.param_encoding == "residual_binary":
        first, second = 2 * (code & 1) - 1, (code & 2) - 1
        return (low * first + high * second).to(torch.int8)
    unit = (row_numbers(packed) if numbers is None else numbers)[:, 1:].to(torch.int16)
    value = low * (code - (1 << (packed.bit_width - 1))) + unit * (high + core.MIN_Z)
    return value.clamp_(-core.MAX_V, core.MAX_V).to(torch.int8)


def parameter_fields(packed: Packed) -> tuple[Tensor, Tensor]:
    """What the halves of the parameter bytes count, for every weight, uint8 ``[rows, cols]``.

    The first is q of ``two_level`` and q1 of ``residual_binary``, from 1 on; the second is q2, or z
    less its minimum.
    """
    size, params = packed.group_size // core.SUB_GROUPS, packed.params
    low = (params & core.FIELD_MASK) + core.MIN_Q
    return spread(low, size, packed.cols), spread(params >> core.FIELD_BITS, size, packed.cols)


def decode(packed: Packed, dtype: torch.dtype, numbers: Tensor | None = None) -> Tensor:
    """The weight, ``[rows, cols]``; `numbers` are its :func:`row_numbers` if they are at hand."""
    if numbers is None:
        numbers = row_numbers(packed)
    if packed.param_encoding != "fp16":
        values = int8_values(packed, numbers).to(torch.float32)
        return values.mul_(row_scales_of(packed, numbers)).to(dtype)
    pairs = packed.params.view(torch.float16).to(torch.float32)
    scale = spread(pairs[:, 0::2], packed.group_size, packed.cols)
    offset = spread(pairs[:, 1::2], packed.group_size, packed.cols)
    code = unpack_codes(packed.codes, packed.bit_width, packed.cols).to(torch.float32)
    return torch.ldexp(code.mul_(scale).add_(offset), numbers[:, :1]).to(dtype)


def spread(per_group: Tensor, size: int, cols: int) -> Tensor:
    """Repeat the number of each group for its columns."""
    return per_group.repeat_interleave(size, dim=1)[:, :cols]
