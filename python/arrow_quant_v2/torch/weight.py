"""A packed weight as a torch module: its buffers are what the artefact stores."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.tensors import QuantizedTensor
from arrow_quant_v2.torch import ops

__all__ = ["PackedWeight", "WeightFormat", "as_tensor"]


@dataclass(frozen=True)
class WeightFormat:
    """Everything about a packed weight but its numbers: enough to make its buffers.

    Attributes
    ----------
    shape
        Of the weight.
    bit_width, group_size, param_encoding
        As in the artefact.
    chunks
        How many chunks it is stored in.
    equalized
        How many input channels have a factor of their own; 0 without equalization.
    """

    shape: tuple[int, ...]
    bit_width: int
    group_size: int
    param_encoding: str
    chunks: int = 1
    equalized: int = 0

    @property
    def rows(self) -> int:
        """Rows of the matrix that is packed."""
        return self.shape[0]

    @property
    def cols(self) -> int:
        """Columns of the matrix that is packed."""
        return math.prod(self.shape[1:])

    @property
    def row_bytes(self) -> int:
        """Bytes of the codes of a row."""
        return (self.cols * self.bit_width + 7) // 8

    @property
    def param_bytes(self) -> int:
        """Bytes of the parameters of a row."""
        if self.param_encoding == "row":
            return 0
        if self.param_encoding == "fp16":
            return 4 * -(-self.cols // self.group_size)
        return -(-self.cols // (self.group_size // 4))

    @property
    def has_int8_form(self) -> bool:
        """Whether the weight is an int8 matrix with one scale per row."""
        return self.param_encoding != "fp16"

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> WeightFormat:
        """Read what :meth:`to_dict` wrote.

        Raises
        ------
        ConfigurationError
            A field is missing, unknown, or no number that the format has.
        """
        try:
            found = cls(**{**fields, "shape": tuple(int(size) for size in fields["shape"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"packed weight: invalid description: {error}") from error
        encodings = {2: ("two_level", "fp16", "residual_binary"), 4: ("two_level", "fp16")}
        known = encodings.get(found.bit_width, ("row", "fp16") if found.bit_width == 8 else ())
        if found.param_encoding not in known or found.group_size < 8 or not found.shape:
            raise ConfigurationError(f"packed weight: no such format: {dict(fields)}")
        return found


class PackedWeight(nn.Module):
    """The weight of one layer, packed.

    Buffers: ``codes`` and ``params`` (uint8), ``row_scales`` (fp16 bits as int16), ``chunks``
    (first row, binary exponent of the tensor scale, offset unit; int32), and ``equalization``
    (float32 bits as int32, or absent). None is a float, so no change of dtype ever touches them.
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
        self.register_buffer("_dtype", torch.empty(0, dtype=dtype), persistent=False)

    @classmethod
    def empty(
        cls, fmt: WeightFormat, *, device: Any = "meta", dtype: torch.dtype = torch.float32
    ) -> PackedWeight:
        """Make a weight without numbers, for a loader to fill."""
        scaled = fmt.rows if fmt.param_encoding != "fp16" else 0
        buffers = {
            "codes": torch.empty(fmt.rows, fmt.row_bytes, dtype=torch.uint8, device=device),
            "params": torch.empty(fmt.rows, fmt.param_bytes, dtype=torch.uint8, device=device),
            "row_scales": torch.empty(scaled, dtype=torch.int16, device=device),
            "chunks": torch.empty(fmt.chunks, 3, dtype=torch.int32, device=device),
        }
        if fmt.equalized:
            buffers["equalization"] = torch.empty(fmt.equalized, dtype=torch.int32, device=device)
        return cls(fmt, buffers, dtype)

    @classmethod
    def from_tensor(
        cls, tensor: QuantizedTensor, dtype: torch.dtype = torch.float32
    ) -> PackedWeight:
        """Take over a tensor of an artefact; its codes are not copied."""
        factors = tensor.equalization
        fmt = format_of(tensor)
        table = [[c.row_begin, _exponent(c.tensor_scale), c.offset_unit] for c in tensor.chunks]
        buffers = {
            "codes": as_tensor(tensor.codes),
            "params": as_tensor(tensor.params),
            "row_scales": _row_scale_bits(tensor),
            "chunks": torch.tensor(table, dtype=torch.int32).view(-1, 3),
        }
        if factors is not None:
            buffers["equalization"] = torch.from_numpy(factors.view(np.int32).copy())
        return cls(fmt, buffers, dtype)

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
        f = self.fmt
        tensors = (self.codes, self.params, self.row_scales, self.chunks)
        return (*tensors, f.cols, f.bit_width, f.group_size, f.param_encoding)

    def stored(self, dtype: torch.dtype) -> Tensor:
        """The weight as the layer multiplies by it: of equalized inputs, if it is equalized."""
        matrix: Tensor = ops.dequantize(*self.arguments(), dtype)
        return matrix.view(self.shape)

    def factors(self, dtype: torch.dtype) -> Tensor | None:
        """What inputs are divided by, one for each input channel; None without equalization."""
        if self.equalization is None:
            return None
        return self.equalization.view(torch.float32).to(dtype)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight of the original inputs."""
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


def format_of(tensor: QuantizedTensor) -> WeightFormat:
    """The format of a quantized tensor of an artefact."""
    assert tensor.bit_width is not None
    assert tensor.group_size is not None
    assert tensor.param_encoding is not None
    factors = getattr(tensor, "equalization", None)
    return WeightFormat(
        tuple(tensor.shape),
        tensor.bit_width,
        tensor.group_size,
        tensor.param_encoding,
        len(tensor.chunks),
        0 if factors is None else len(factors),
    )


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """A tensor on the memory of an array, read-only arrays included: it is ours alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def _row_scale_bits(tensor: QuantizedTensor) -> Tensor:
    if tensor.param_encoding == "fp16":
        return torch.empty(0, dtype=torch.int16)
    parts = [chunk.row_scale_bits.reshape(-1).view(np.int16) for chunk in tensor.chunks]
    return as_tensor(parts[0] if len(parts) == 1 else np.concatenate(parts or [np.empty(0, "i2")]))


def _exponent(power_of_two: float) -> int:
    return math.frexp(power_of_two)[1] - 1
