"""A packed weight with codes and scales that gradients reach.

Every weight has a position between the levels of its sub-group; its code is the level next to it.
Rounding passes gradients straight through (Bengio et al. 2013, arXiv 1308.3432), so a step of
descent moves positions, and codes flip where these cross the middle between two levels. Scales are
learned, too. Forward gives what the stored numbers restore to: fp16 scales are rounded on the way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from arrow_quant_v2._native import core
from arrow_quant_v2.tensors.tensor import QuantizedTensor
from arrow_quant_v2.tensors.weight_format import format_of, weight_arrays
from arrow_quant_v2.torch.layers.packed_weight import as_tensor
from arrow_quant_v2.torch.ops.decode import (
    Packed,
    int8_values,
    parameter_fields,
    row_numbers,
    spread,
    unpack_codes,
)

__all__ = ["SoftWeight", "Stored", "can_learn"]

#: Codes of more bits lose nothing that learning could bring back.
_WIDEST = 4


class Stored(NamedTuple):
    """The bytes of a packed weight, all rows one after the other."""

    codes: npt.NDArray[np.uint8]
    params: npt.NDArray[np.uint8]
    row_scales: npt.NDArray[np.uint8]


def can_learn(tensor: QuantizedTensor) -> bool:
    """Whether there is a soft form of a tensor: codes of 2 or 4 bits."""
    width = tensor.bit_width
    return width is not None and width <= _WIDEST and tensor.size > 0


class SoftWeight(nn.Module):
    """A weight of an artefact, to be learned.

    Parameters
    ----------
    tensor
        What is stored, with codes of 2 or 4 bits.
    weight
        The float weight that it stands for, of its shape.
    freedom
        How far from the level of its code a position may be at the start, in the direction of the
        float weight: in steps between levels, below .5, so that every code is as it was.

    Attributes
    ----------
    position
        In steps, ``[rows, cols]``.
    scale
        What scales are multiplied by: of rows ``[rows, 1]``, or of groups ``[rows, groups]`` for
        ``fp16`` parameters.
    shift
        What is added to the offsets of ``fp16`` groups, in steps; None for others.
    """

    def __init__(self, tensor: QuantizedTensor, weight: Tensor, freedom: float) -> None:
        super().__init__()
        self._tensor = tensor
        fmt = format_of(tensor)
        buffers = {name: as_tensor(array).clone() for name, array in weight_arrays(tensor).items()}
        packed = Packed(
            buffers["codes"],
            buffers["params"],
            buffers["row_scales"],
            buffers["chunks"],
            fmt.cols,
            fmt.bit_width,
            fmt.group_size,
            fmt.param_encoding,
        )
        self._fmt = fmt
        numbers = row_numbers(packed)
        # A product and not torch.ldexp, which passes no gradients.
        self._power = torch.ldexp(torch.ones(fmt.rows, 1), numbers[:, :1])
        factors = buffers.get("equalization")
        self._factors: Tensor | None = None
        if factors is not None:
            each = factors.view(torch.float32)
            self._factors = each.repeat_interleave(fmt.cols // len(each))
        levels: _Levels
        if fmt.param_encoding == "residual_binary":
            levels = _ResidualLevels(packed)
        elif fmt.param_encoding == "fp16":
            levels = _FloatLevels(packed)
        else:
            levels = _EvenLevels(packed, numbers)
        self._levels = levels
        if fmt.param_encoding == "fp16":
            halves = packed.params.view(torch.float16).float()
            self._scales, self._offsets = halves[:, 0::2], halves[:, 1::2]
            self.shift = nn.Parameter(torch.zeros_like(self._offsets))
        else:
            self._scales = packed.row_scales.view(torch.float16).float().unsqueeze(1)
            self.shift = None
        self.scale = nn.Parameter(torch.ones_like(self._scales))
        wanted = weight.detach().float().reshape(fmt.rows, fmt.cols)
        if self._factors is not None:
            wanted = wanted * self._factors
        self.position = nn.Parameter(levels.start(self._in_levels(wanted), freedom))

    def forward(self) -> Tensor:
        """The weight, of its shape, for inputs that are not equalized."""
        values = self._levels.rounded(self.position)
        if self.shift is None:
            matrix = values * (self._half_scales() * self._power)
        else:
            size, cols = self._fmt.group_size, self._fmt.cols
            matrix = values * spread(self._half_scales(), size, cols)
            matrix = matrix + spread(self._half_offsets(), size, cols)
            matrix = matrix * self._power
        if self._factors is not None:
            matrix = matrix / self._factors
        return matrix.view(self._fmt.shape)

    def scales(self) -> list[nn.Parameter]:
        """Everything that is learned but the positions."""
        return [self.scale] if self.shift is None else [self.scale, self.shift]

    def confine(self) -> None:
        """Bring back positions that are more than half a step beyond the outermost levels."""
        low, high = self._levels.reach()
        position = self.position.data
        position.copy_(torch.minimum(torch.maximum(position, low), high))

    def stored(self) -> Stored:
        """The numbers that restore to what :meth:`forward` gives."""
        codes = self._levels.codes(self.position.detach())
        params, row_scales = self._tensor.params, np.empty(0, np.uint8)
        if self.shift is None:
            row_scales = self._half_scales().detach().half().numpy().reshape(-1).view(np.uint8)
        else:
            pairs = torch.stack([self._half_scales(), self._half_offsets()], dim=2)
            params = pairs.detach().half().numpy().reshape(self._fmt.rows, -1).view(np.uint8)
        return Stored(_pack(codes, self._fmt.bit_width), params.reshape(-1), row_scales)

    def changed(self) -> float:
        """Share of codes that are not what they were."""
        stored = torch.from_numpy(np.array(self._tensor.codes))
        before = unpack_codes(stored, self._fmt.bit_width, self._fmt.cols)
        now = self._levels.codes(self.position.detach())
        return float((now != before).double().mean())

    def _in_levels(self, wanted: Tensor) -> Tensor:
        """Weights in the units of the levels."""
        scaled = wanted / self._power
        size, cols = self._fmt.group_size, self._fmt.cols
        if self.shift is None:
            return scaled / self._scales.clamp(min=_TINY)
        scales = spread(self._scales, size, cols).clamp(min=_TINY)
        return (scaled - spread(self._offsets, size, cols)) / scales

    def _half_scales(self) -> Tensor:
        return _as_half(self._scales * self.scale)

    def _half_offsets(self) -> Tensor:
        assert self.shift is not None
        return _as_half(self._offsets + self._scales * self.shift)


#: Smallest scale that is divided by: that of rows of zeros is 0.
_TINY = 1e-8


class _Levels:
    """The levels of every sub-group; a value is a level in its own units."""

    def start(self, wanted: Tensor, freedom: float) -> Tensor:
        """Positions that have the stored codes, as near to the wanted values as `freedom` lets."""
        raise NotImplementedError

    def rounded(self, position: Tensor) -> Tensor:
        """Values of the levels next to positions, with the gradient of the positions."""
        raise NotImplementedError

    def reach(self) -> tuple[Tensor, Tensor]:
        """Least and largest positions that make a difference."""
        raise NotImplementedError

    def codes(self, position: Tensor) -> Tensor:
        """Codes of the same, as integers."""
        raise NotImplementedError


class _FloatLevels(_Levels):
    """Levels of ``fp16`` parameters: the codes themselves."""

    def __init__(self, packed: Packed) -> None:
        self._last = (1 << packed.bit_width) - 1
        self._start = unpack_codes(packed.codes, packed.bit_width, packed.cols).float()

    def start(self, wanted: Tensor, freedom: float) -> Tensor:
        return self._start + (wanted - self._start).clamp(-freedom, freedom)

    def rounded(self, position: Tensor) -> Tensor:
        return _straight_through(position, self.codes(position))

    def reach(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(-0.5), torch.tensor(self._last + 0.5)

    def codes(self, position: Tensor) -> Tensor:
        return position.round().clamp(0, self._last)


class _EvenLevels(_FloatLevels):
    """Levels of ``two_level`` parameters: clamp(q (code - 2^(b-1)) + m z, -127, 127)."""

    def __init__(self, packed: Packed, numbers: Tensor) -> None:
        super().__init__(packed)
        step, offset = (field.float() for field in parameter_fields(packed))
        middle = 1 << (packed.bit_width - 1)
        self._step = step
        self._first = numbers[:, 1:] * (offset + core.MIN_Z) - step * middle

    def start(self, wanted: Tensor, freedom: float) -> Tensor:
        return super().start((wanted - self._first) / self._step, freedom)

    def rounded(self, position: Tensor) -> Tensor:
        values = super().rounded(position) * self._step + self._first
        return values.clamp(-core.MAX_V, core.MAX_V)


class _ResidualLevels(_Levels):
    """Levels of ``residual_binary`` parameters: q1 b1 + q2 b2 with signs b1 and b2."""

    def __init__(self, packed: Packed) -> None:
        first, second = (field.float() for field in parameter_fields(packed))
        self._large = torch.maximum(first, second)
        self._small = torch.minimum(first, second)
        self._second_is_large = second > first
        # Where the small part is zero two levels are one; the unit must not be.
        self._unit = 2 * self._small.clamp(min=1)
        self._start = int8_values(packed).float()

    def start(self, wanted: Tensor, freedom: float) -> Tensor:
        # The middles between levels are 0 and +-large; outer levels end as far on their other side.
        outer = self._start.abs() > self._large
        edge = torch.where(outer, self._large, 0.0)
        far = torch.where(outer, self._large + 2 * self._small, self._large)
        low = torch.where(self._start > 0, edge, -far)
        high = torch.where(self._start > 0, far, -edge)
        share = 2 * freedom
        low = self._start + share * (low - self._start)
        high = self._start + share * (high - self._start)
        return torch.minimum(torch.maximum(wanted, low), high) / self._unit

    def rounded(self, position: Tensor) -> Tensor:
        value = position * self._unit
        large, small = self._signs(position)
        return _straight_through(value, large * self._large + small * self._small)

    def reach(self) -> tuple[Tensor, Tensor]:
        most = (self._large + self._small) / self._unit + 0.5
        return -most, most

    def codes(self, position: Tensor) -> Tensor:
        large, small = self._signs(position)
        first = torch.where(self._second_is_large, small, large)
        second = torch.where(self._second_is_large, large, small)
        return (first > 0).float() + 2 * (second > 0).float()

    def _signs(self, position: Tensor) -> tuple[Tensor, Tensor]:
        value = position.detach() * self._unit
        large = torch.where(value >= 0, 1.0, -1.0)
        small = torch.where(value - large * self._large >= 0, 1.0, -1.0)
        return large, small


def _straight_through(value: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` with the gradient of `value`."""
    return value + (rounded - value).detach()


def _as_half(values: Tensor) -> Tensor:
    """Rounded to fp16, with the gradient of the unrounded."""
    return _straight_through(values, values.half().float())


def _pack(codes: Tensor, bit_width: int) -> npt.NDArray[np.uint8]:
    """Codes ``[rows, cols]`` as bytes, element 0 in the lowest bits, rows padded to whole bytes."""
    each = 8 // bit_width
    padded = nn.functional.pad(codes.to(torch.uint8), (0, -codes.shape[1] % each))
    shifts = torch.arange(0, 8, bit_width, dtype=torch.uint8)
    parts = padded.view(len(codes), -1, each) << shifts
    packed: npt.NDArray[np.uint8] = parts.sum(dim=2, dtype=torch.uint8).numpy()
    return packed.reshape(-1)
