"""How large the weight files of a plan become: what tensors take, and what Parquet adds.

The layout of the files (``docs/reference/format.md``) decides what is added: a footer, a header
for each column of a row group, and the columns that describe a tensor. What calibration records of
a layer depends on the layer, so a mean stands for it. Over the models of the zoo, the size is off
by less than 1 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

__all__ = ["planned_weights_bytes"]

#: Bytes of a footer without row groups, and of each row group in footer and page headers.
_FOOTER, _ROW_GROUP = 1650, 2085
#: Bytes of the columns that describe a tensor, beside its name and shape, and more if quantized.
_TENSOR, _QUANTIZED = 36, 59
#: Bytes that calibration records of a quantized tensor: the methods tried, and ranges of inputs.
_CALIBRATED = 790
_DIMENSION = 8
#: Tensors up to here share row groups; larger ones are cut into chunks.
_SHARED, _CHUNK = 1 << 20, 32 << 20


class _Tensor(Protocol):
    @property
    def component(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def bit_width(self) -> int | None: ...
    @property
    def planned_bytes(self) -> int: ...


def planned_weights_bytes(tensors: Iterable[_Tensor], *, calibrated: bool) -> int:
    """Bytes of the ``weights.parquet`` of all components together."""
    total = 0
    component = None
    open_group = 0  # bytes in the row group that is being filled
    for tensor in tensors:
        if tensor.component != component:
            component, open_group = tensor.component, 0
            total += _FOOTER
        chunks = max(1, math.ceil(tensor.planned_bytes / _CHUNK))
        row = _TENSOR + len(tensor.name.encode()) + _DIMENSION * len(tensor.shape)
        if tensor.bit_width is not None:
            row += _QUANTIZED
            total += _CALIBRATED if calibrated else 0
        total += tensor.planned_bytes + chunks * row
        if open_group == 0 or open_group + tensor.planned_bytes > _SHARED:
            total += chunks * _ROW_GROUP
            open_group = 0
        open_group += tensor.planned_bytes
        if open_group > _SHARED:
            open_group = 0
    return total
