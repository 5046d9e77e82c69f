"""The buffers of packed weights, by the names that packed layers and packed exports give them.

``codes`` and ``params`` are uint8 as stored; ``row_scales`` are fp16 bits as int16; ``chunks`` is
int32 ``[n, 3]``: first row, binary exponent of the tensor scale, offset unit; ``equalization`` is
float32 bits as int32. Nothing is a floating-point type, so no loader and no change of type ever
rounds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._native import core
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.tensors.tensor import QuantizedTensor, TimeGroup

__all__ = [
    "FORMAT_VERSION",
    "QUANT_METHOD",
    "WeightFormat",
    "format_of",
    "time_arrays",
    "weight_arrays",
]

#: What ``quantization_config`` in config.json says of a model with packed weights.
QUANT_METHOD = "arrow_quant"
FORMAT_VERSION = 1

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class WeightFormat:
    """The format of a packed weight, without its numbers: enough to make its buffers.

    Attributes
    ----------
    shape
        Shape of the weight.
    bit_width, group_size, param_encoding
        As in the artefact.
    chunks
        Number of chunks that it is stored in.
    equalized
        Number of equalization scales (one per input channel); 0 without equalization.
    float_inputs
        Whether 8 bits are too few for the inputs.
    row_dimensions
        How many dimensions make the rows; left out of the JSON form where it is 1.
    """

    shape: tuple[int, ...]
    bit_width: int
    group_size: int
    param_encoding: str
    chunks: int = 1
    equalized: int = 0
    float_inputs: bool = False
    row_dimensions: int = 1

    @property
    def rows(self) -> int:
        """Rows of the matrix that is packed."""
        return math.prod(self.shape[: self.row_dimensions])

    @property
    def cols(self) -> int:
        """Columns of the matrix that is packed."""
        return math.prod(self.shape[self.row_dimensions :])

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
        return -(-self.cols // (self.group_size // core.SUB_GROUPS))

    @property
    def has_int8_form(self) -> bool:
        """Whether the weight is an int8 matrix with one scale per row."""
        return self.param_encoding != "fp16"

    @property
    def buffers(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Element type (by its numpy name) and shape of each buffer."""
        scaled = self.rows if self.has_int8_form else 0
        found: dict[str, tuple[str, tuple[int, ...]]] = {
            "codes": ("uint8", (self.rows, self.row_bytes)),
            "params": ("uint8", (self.rows, self.param_bytes)),
            "row_scales": ("int16", (scaled,)),
            "chunks": ("int32", (self.chunks, 3)),
        }
        if self.equalized:
            found["equalization"] = ("int32", (self.equalized,))
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        fields = {**asdict(self), "shape": list(self.shape)}
        if self.row_dimensions == 1:
            del fields["row_dimensions"]
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> WeightFormat:
        """Read `fields`, which :meth:`to_dict` wrote.

        Raises
        ------
        ConfigurationError
            A field is missing, unknown, or no number that the format has.
        """
        try:
            found = cls(**{**fields, "shape": tuple(int(size) for size in fields["shape"])})
            core.check_spec(found.bit_width, found.group_size, found.param_encoding)
            valid = min(found.chunks, found.equalized + 1, *found.shape) > 0
            valid = valid and found.row_dimensions in range(1, len(found.shape) + 1)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"packed weight: invalid description: {error}") from error
        if not valid:
            raise ConfigurationError(f"packed weight: no such format: {dict(fields)}")
        return found


def format_of(tensor: QuantizedTensor) -> WeightFormat:
    """The format of a quantized tensor of an artefact."""
    assert tensor.bit_width is not None
    assert tensor.group_size is not None
    assert tensor.param_encoding is not None
    factors = tensor.equalization
    return WeightFormat(
        tuple(tensor.shape),
        tensor.bit_width,
        tensor.group_size,
        tensor.param_encoding,
        len(tensor.chunks),
        0 if factors is None else len(factors),
        tensor.float_inputs,
        tensor.row_dimensions,
    )


def weight_arrays(tensor: QuantizedTensor) -> Arrays:
    """The buffers of a quantized tensor; views of its memory where it is stored in one chunk."""
    table = [[c.row_begin, _exponent(c.tensor_scale), c.offset_unit] for c in tensor.chunks]
    arrays: Arrays = {
        "codes": tensor.codes,
        "params": tensor.params,
        "row_scales": _row_scale_bits(tensor),
        "chunks": np.array(table, np.int32).reshape(-1, 3),
    }
    if tensor.equalization is not None:
        arrays["equalization"] = tensor.equalization.view(np.int32)
    return arrays


def time_arrays(groups: Sequence[TimeGroup]) -> Arrays:
    """The buffers of the time groups of a layer, float32 bits as int32.

    ``edges`` between groups: a time between two groups belongs to the nearer one; ``scales`` and
    ``zeros`` of static int8 inputs; ``output_scale`` and ``output_bias`` ``[groups, rows]``. What
    no group has is left out.
    """
    arrays = {"edges": _bits([(a.end + b.begin) / 2 for a, b in pairwise(groups)])}
    scales = [group.activation_scale for group in groups]
    zeros = [group.activation_zero for group in groups]
    if all(scales):
        arrays["scales"] = _bits(scales)
    if all(scales) and any(zeros):
        arrays["zeros"] = _bits(zeros)
    for name in ("output_scale", "output_bias"):
        rows = [getattr(group, name) for group in groups]
        if all(row is not None for row in rows):
            arrays[name] = _bits(np.stack(rows))
    return arrays


def _row_scale_bits(tensor: QuantizedTensor) -> npt.NDArray[np.int16]:
    if tensor.param_encoding == "fp16":
        return np.empty(0, np.int16)
    parts = [chunk.row_scale_bits.reshape(-1).view(np.int16) for chunk in tensor.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _exponent(power_of_two: float) -> int:
    return math.frexp(power_of_two)[1] - 1


def _bits(values: Any) -> npt.NDArray[np.int32]:
    return np.ascontiguousarray(values, np.float32).view(np.int32)
