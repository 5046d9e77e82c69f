"""A packed weight as a torch module: its buffers are what the artefact stores."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.tensors.tensor import QuantizedTensor
from arrow_quant_v2.tensors.weight_format import WeightFormat, format_of, weight_arrays
from arrow_quant_v2.torch.ops import library

__all__ = ["PackedWeight", "WeightFormat", "as_tensor", "refuse_fusing"]


def refuse_fusing(*unused: Any, **settings: Any) -> Any:
    """Stand in for whatever would write into packed weights.

    Raises
    ------
    ConfigurationError
        Always.
    """
    raise ConfigurationError(
        "packed weights cannot be changed, so nothing can be fused into them (fuse_lora, "
        "merge_adapter, fuse_qkv_projections)",
        hint="Use the adapter without fusing: load_lora_weights and set_adapters add its product "
        "beside the packed layer. To fuse, do it in the float model and quantize that, or load "
        "with compute='float'.",
    )


class _Frozen:
    """``weight.data`` of a packed weight."""

    def __init__(self, weight: PackedWeight) -> None:
        self.shape, self.dtype, self.device = weight.shape, weight.dtype, weight.device

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return refuse_fusing()

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return refuse_fusing()


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

    @property
    def data(self) -> _Frozen:
        """What libraries write into: it tells its shape, type and device, and refuses the rest."""
        return _Frozen(self)

    @data.setter
    def data(self, value: Any) -> None:
        refuse_fusing()

    def dim(self) -> int:
        """Number of dimensions of the weight."""
        return len(self.fmt.shape)

    def size(self, dim: int | None = None) -> Any:
        """Shape of the weight, or its size along one dimension.

        Parameters
        ----------
        dim
            The dimension; None: all of them.
        """
        return self.shape if dim is None else self.shape[dim]

    def forward(self) -> dict[str, Tensor | None]:
        """Give the buffers, which accelerate brings here for the call if it has put them aside."""
        return dict(self._buffers)

    @property
    def is_put_aside(self) -> bool:
        """Whether accelerate decides where the buffers are."""
        return "_hf_hook" in self.__dict__

    def arguments(self) -> tuple[Any, ...]:
        """What the operators want to know about the weight, in their order."""
        f = self.fmt
        # Each layer asks at each call: attributes take longer.
        own = self() if "_hf_hook" in self.__dict__ else self._buffers
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
        found = self()["equalization"] if self.is_put_aside else self.equalization
        return found.view(torch.float32).to(dtype)

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
