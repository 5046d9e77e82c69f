"""Parameters of a layer that depend on the diffusion time: input scales, output corrections."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from arrow_quant_v2.tensors.tensor import TimeGroup
from arrow_quant_v2.tensors.weight_format import time_arrays
from arrow_quant_v2.torch.layers.clock import Clock

__all__ = ["TimeParameters"]


class TimeParameters(nn.Module):
    """Time groups of one layer. Which group applies is looked up by the clock of the model.

    Its buffers are those of :func:`arrow_quant_v2.tensors.weight_format.time_arrays`; what is
    absent is None.
    """

    edges: Tensor
    scales: Tensor | None
    zeros: Tensor | None
    output_scale: Tensor | None
    output_bias: Tensor | None

    def __init__(self, buffers: Mapping[str, Tensor], clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        # The edges as numbers, with the tensor and the version that they are of.
        self._listed: tuple[Tensor | None, int, list[float]] = (None, 0, [])
        for name in ("edges", "scales", "zeros", "output_scale", "output_bias"):
            self.register_buffer(name, buffers.get(name))

    @classmethod
    def from_groups(cls, groups: Sequence[TimeGroup], clock: Clock) -> TimeParameters:
        """Take the groups of a tensor of an artefact."""
        arrays = time_arrays(groups)
        return cls({name: torch.from_numpy(array) for name, array in arrays.items()}, clock)

    @classmethod
    def empty(
        cls, shapes: Mapping[str, Sequence[int]], clock: Clock, device: Any = "meta"
    ) -> TimeParameters:
        """Make groups without numbers, for a loader to fill."""
        return cls(
            {
                name: torch.empty(tuple(shape), dtype=torch.int32, device=device)
                for name, shape in shapes.items()
            },
            clock,
        )

    def forward(self) -> dict[str, Tensor | None]:
        """Give the buffers, which accelerate brings here for the call if it has put them aside."""
        return dict(self._buffers)

    def _buffer(self, name: str) -> Tensor:
        found = (self() if "_hf_hook" in self.__dict__ else self._buffers)[name]
        assert found is not None
        return found

    def _floats(self, name: str) -> Tensor:
        return self._buffer(name).view(torch.float32)

    @property
    def has_scales(self) -> bool:
        """Whether there are static scales for inputs."""
        return self.scales is not None

    @property
    def is_symmetric(self) -> bool:
        """Whether a code of 0 is an input of 0 in every group."""
        return self.zeros is None

    def activation_scale(self, x: Tensor) -> Tensor:
        """Scale of the group of this call: ``[]``, or one a sample as ``[batch, 1, ...]``."""
        return _for_samples(self._floats("scales")[self._group(x)], x)

    def rounded(self, x: Tensor) -> Tensor:
        """`x` as static int8 codes with a zero point stand for it."""
        scale = self.activation_scale(x)
        zero = _for_samples(self._floats("zeros")[self._group(x)], x)
        code = ((x / scale).round() + zero).clamp(-128, 127)
        return ((code - zero) * scale).to(x.dtype)

    def common_bias(self, x: Tensor) -> Tensor | None:
        """The output correction if it adds the same ``[rows]`` to every sample, and is no more."""
        if self.output_bias is None or self.output_scale is not None:
            return None
        if self.edges.numel() and self.clock.now().dim():
            return None
        return self._floats("output_bias")[self._group(x)]

    def corrected(self, y: Tensor, channel_dim: int) -> Tensor:
        """`y` with the output correction of its group."""
        if self.output_scale is None and self.output_bias is None:
            return y
        group = self._group(y)
        channels = [1] * (-1 - channel_dim)
        if self.output_scale is not None:
            y = y * _rows(self._floats("output_scale")[group], y, channels)
        if self.output_bias is not None:
            y = y + _rows(self._floats("output_bias")[group], y, channels)
        return y

    def _group(self, like: Tensor) -> Tensor | int:
        """The group of this call, or of each sample."""
        if self.edges.numel() == 0:
            return 0  # at all times, known or not
        t = self.clock.now()
        if t.dim() == 0 and t.device.type == "cpu" and not torch.compiler.is_compiling():
            return bisect_right(self._edges(), float(t))  # spares every layer some operators
        return torch.bucketize(t.to(like.device), self._floats("edges"), right=True)

    def _edges(self) -> list[float]:
        edges = self._buffer("edges")
        version = 0 if edges.is_inference() else edges._version
        if self._listed[0] is not edges or self._listed[1] != version:
            self._listed = edges, version, edges.view(torch.float32).tolist()
        return self._listed[2]


def _rows(values: Tensor, y: Tensor, trailing: list[int]) -> Tensor:
    """Numbers ``[rows]`` or ``[batch, rows]``, shaped to broadcast to `y`."""
    values = values.to(y.dtype)
    if values.dim() == 1:
        return values.view(-1, *trailing)
    values = _repeated(values, y)
    between = [1] * (y.dim() - 2 - len(trailing))
    return values.view(values.shape[0], *between, values.shape[1], *trailing)


def _for_samples(values: Tensor, x: Tensor) -> Tensor:
    if values.dim() == 0:
        return values
    return _repeated(values, x).view(-1, *[1] * (x.dim() - 1))


def _repeated(values: Tensor, x: Tensor) -> Tensor:
    """One row for each sample of `x`, whose batch may hold several parts of each sample."""
    if values.shape[0] == x.shape[0]:
        return values
    if x.shape[0] % values.shape[0]:
        raise RuntimeError(
            f"{values.shape[0]} timesteps for a batch of {x.shape[0]}: expected one a sample"
        )
    return values.repeat_interleave(x.shape[0] // values.shape[0], dim=0)
