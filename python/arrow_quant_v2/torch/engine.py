"""Linear layers by the engine, on tensors in main memory: ``y = x W^T + b`` on packed weights.

Inputs become integers of one to three signed bytes, one scale per token, and are multiplied
exactly; three bytes give the result of float32 arithmetic, one is W8A8, W4A8 or W2A8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from arrow_quant_v2._native import core
from arrow_quant_v2.torch.decode import Packed, row_scales_of

__all__ = ["PLANES", "linear", "takes"]

#: Bytes of an input element that its type needs.
PLANES = {torch.float32: 3, torch.bfloat16: 2, torch.float16: 2}

_ENCODINGS = ("two_level", "row", "fp16")
#: Longer rows could exceed the 32 bits of a sum.
_LONGEST_ROW = 1 << 16


@dataclass
class _Chunk:
    """Rows [first, first + rows) of a weight."""

    first: int
    rows: int
    packed: core.PackedWeight
    panels: Tensor | None = None


@dataclass
class _Derived:
    """What follows from the buffers of a weight, kept as long as they are."""

    version: int
    scales: Tensor
    chunks: list[_Chunk]


_derived: WeakIdKeyDictionary = WeakIdKeyDictionary()


def takes(x: Tensor, weight: Packed) -> bool:
    """Whether :func:`linear` can do this."""
    if x.device.type != "cpu" or x.dtype not in PLANES or weight.codes.numel() == 0:
        return False
    return weight.param_encoding in _ENCODINGS and weight.cols <= _LONGEST_ROW


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
    tokens = x.reshape(-1, weight.cols).to(torch.float32).contiguous()
    count, rows = tokens.shape[0], weight.codes.shape[0]
    out = torch.empty(count, rows, dtype=torch.float32)
    floats = None if bias is None else bias.to(torch.float32).contiguous()
    known = _of(weight)
    for chunk in known.chunks:
        below = 4 * chunk.first
        address = 0 if floats is None else floats.data_ptr() + below
        call = (tokens.data_ptr(), out.data_ptr() + below, count, rows, address, 0, planes, scale)
        threads = torch.get_num_threads()
        if keep and known.scales.numel():
            scales = known.scales.data_ptr() + below
            panels = _panels(chunk, weight.cols).data_ptr()
            core.linear_panels(panels, scales, chunk.rows, weight.cols, *call, threads)
        else:
            core.linear(chunk.packed, *call, threads)
    return out.view(*x.shape[:-1], rows).to(x.dtype)


def _of(weight: Packed) -> _Derived:
    # Tensors made under inference_mode have no count of changes, and never change.
    version = 0 if weight.codes.is_inference() else weight.codes._version
    found: _Derived | None = _derived.get(weight.codes)
    if found is None or found.version != version:
        found = _new(weight, version)
        _derived[weight.codes] = found
    return found


def _new(weight: Packed, version: int) -> _Derived:
    scales = torch.empty(0)
    if weight.param_encoding != "fp16":
        scales = row_scales_of(weight).view(-1).contiguous()
    table = weight.chunks.tolist()
    ends = [*(entry[0] for entry in table[1:]), weight.codes.shape[0]]
    chunks = []
    for (first, exponent, unit), end in zip(table, ends, strict=True):
        packed = core.PackedWeight(
            core.AffineSpec(weight.bit_width, weight.group_size, weight.param_encoding, "search"),
            "affine",
            end - first,
            weight.cols,
            _address(weight.codes, first),
            _address(weight.params, first),
            _address(scales, first),
            2.0**exponent,
            unit,
        )
        chunks.append(_Chunk(first, end - first, packed))
    return _Derived(version, scales, chunks)


def _address(rows: Tensor, first: int) -> int:
    """Where row `first` begins; 0 for a tensor without elements."""
    return rows.data_ptr() + first * rows.stride(0) * rows.element_size() if rows.numel() else 0


def _panels(chunk: _Chunk, cols: int) -> Tensor:
    if chunk.panels is None:
        panels = torch.empty(core.panels_bytes(chunk.rows, cols), dtype=torch.uint8)
        core.make_panels(chunk.packed, torch.get_num_threads(), panels.data_ptr())
        chunk.panels = panels
    return chunk.panels
