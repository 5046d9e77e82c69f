"""A packed weight as a torch module: its buffers are what the artefact stores."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from arrow_quant_v2.tensors.tensor import QuantizedTensor
from arrow_quant_v2.tensors.weight_format import WeightFormat, format_of, weight_arrays
from arrow_quant_v2.torch.ops import library

__all__ = ["PackedWeight", "WeightFormat", "as_tensor"]


class PackedWeight(nn.Module):
    """The weight of one layer, packed.

    Its buffers are those of :mod:`arrow_quant_v2.tensors.weight_format`.
    """

    codes: Tensor
    params: Tensor
    row_scales: Tensor
    chunks: Tensor
    equalization: Tensor | None

    def __init__(
        self, fmt: WeightFormat, buffers: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.fmt = fmt
        for name in ("codes", "params", "row_scales", "chunks", "equalization"):
            self.register_buffer(name, buffers.get(name))
        # Follows .to(dtype), as the weight of an ordinary layer would.
        self.register_buffer("_dtype", torch.empty(0, dtype=dtype, device="cpu"), persistent=False)

    @classmethod
    def empty(
        cls, fmt: WeightFormat, *, device: Any = "meta", dtype: torch.dtype = torch.float32
    ) -> PackedWeight:
        """Make a weight of the format `fmt` without numbers on `device`, for a loader to fill.

        `dtype` is the type that an ordinary weight would have.
        """
        buffers = {
            name: torch.empty(shape, dtype=getattr(torch, kind), device=device)
            for name, (kind, shape) in fmt.buffers.items()
        }
        return cls(fmt, buffers, dtype)

    @classmethod
    def from_tensor(
        cls, tensor: QuantizedTensor, dtype: torch.dtype = torch.float32
    ) -> PackedWeight:
        """Take over `tensor` of an artefact. Its codes are not copied.

        `dtype` is the type that an ordinary weight would have.
        """
        buffers = {name: as_tensor(array) for name, array in weight_arrays(tensor).items()}
        return cls(format_of(tensor), buffers, dtype)

    @property
    def shape(self) -> torch.Size:
        """Shape of the weight."""
        return torch.Size(self.fmt.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The type that an ordinary weight would have here."""
        found: Any = self._dtype
        return found.dtype

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.codes.device

    def arguments(self) -> tuple[Any, ...]:
        """What the operators want to know about the weight, in their order."""
        f, own = self.fmt, self._buffers  # each layer asks at each call: attributes take longer
        tensors = (own["codes"], own["params"], own["row_scales"], own["chunks"])
        return (*tensors, f.cols, f.bit_width, f.group_size, f.param_encoding)

    def stored(self, dtype: torch.dtype) -> Tensor:
        """The weight that the layer multiplies by, as `dtype`: with equalization scales, if any."""
        matrix: Tensor = library.dequantize(*self.arguments(), dtype)
        return matrix.view(self.shape)

    def factors(self, dtype: torch.dtype) -> Tensor | None:
        """Equalization scales as `dtype`, one per input channel; None without equalization.

        Inputs are divided by them.
        """
        if self.equalization is None:
            return None
        return self.equalization.view(torch.float32).to(dtype)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight of the original inputs, as `dtype`; None takes :attr:`dtype`."""
        weight = self.stored(torch.float32)
        factors = self.factors(torch.float32)
        if factors is not None:
            weight = weight / factors.view(1, -1, *[1] * (weight.dim() - 2))
        return weight.to(dtype or self.dtype)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Code that reaches for ``layer.weight`` gets a restored weight into its torch function."""

        def restored(value: Any) -> Any:
            return value.dequantize() if isinstance(value, PackedWeight) else value

        args, kwargs = tree_map(restored, (tuple(args), dict(kwargs or {})))
        return func(*args, **kwargs)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        f = self.fmt
        group = "" if f.param_encoding == "row" else f", group_size={f.group_size}"
        return f"{tuple(f.shape)}, INT{f.bit_width}, {f.param_encoding}{group}"


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """A tensor on the memory of an array, read-only arrays included: it is ours alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
