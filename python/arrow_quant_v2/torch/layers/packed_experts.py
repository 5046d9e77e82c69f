"""Stacked experts that stay packed: each expert is restored when a token needs it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from arrow_quant_v2.torch.layers.packed_weight import PackedWeight
from arrow_quant_v2.torch.ops import library

__all__ = ["PackedExperts"]


class PackedExperts(PackedWeight):
    """The weights ``[experts, out, in]`` of all experts of a layer, packed.

    It takes the place of the parameter. ``weight[i]`` restores the expert i, and ``weight[ids]``
    those of `ids`. Whatever else is done with it gets all experts restored, for that one use.
    """

    def __getitem__(self, index: Any) -> Tensor:
        """Restore experts."""
        if isinstance(index, Tensor) and not (
            index.is_floating_point() or index.dtype == torch.bool
        ):
            if index.dim() == 0:
                return self._expert(int(index))
            ids, places = index.unique(return_inverse=True)
            return torch.stack([self._expert(int(i)) for i in ids])[places]
        if isinstance(index, int):
            return self._expert(index)
        return self.dequantize()[index]

    def __getattr__(self, name: str) -> Any:
        """Methods of tensors are those of the restored weight."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or not hasattr(Tensor, name):
                raise
            return getattr(self.dequantize(), name)

    def _expert(self, number: int) -> Tensor:
        """One expert, ``[out, in]``."""
        experts, outputs = self.fmt.shape[:2]
        if not -experts <= number < experts:
            raise IndexError(f"expert {number} of {experts}")
        first = number % experts * outputs
        last = first + outputs
        begins = self.chunks[:, 0].tolist()
        chunks = [
            i
            for i, (begin, end) in enumerate(pairwise([*begins, self.fmt.rows]))
            if begin < last and end > first
        ]
        table = self.chunks[chunks[0] : chunks[-1] + 1].clone()
        table[:, 0] = (table[:, 0] - first).clamp_(min=0)
        codes, params, row_scales, _, *numbers = self.arguments()
        weight: Tensor = library.dequantize(
            codes[first:last],
            params[first:last],
            row_scales[first:last],
            table,
            *numbers,
            self.dtype,
        )
        return weight.view(self.fmt.shape[1:])
