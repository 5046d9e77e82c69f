"""Packed tensors in Python: what they are, and the ways back to numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._native import core
from arrow_quant_v2.errors import ConfigurationError, ShapeMismatchError
from arrow_quant_v2.tensors.dtypes import FLOAT_NAMES, float_dtype, numpy_dtype

__all__ = ["QuantizedTensor", "TimeGroup"]


@dataclass(frozen=True)
class TimeGroup:
    """Parameters for activations in a span of diffusion time.

    Attributes
    ----------
    begin, end
        Timesteps from `begin` up to, but not including, `end`. Groups do not overlap. A timestep
        outside all groups belongs to the nearest.
    activation_scale, activation_zero
        For static int8 activations: ``code = round(x / scale) + zero``. Symmetric if zero is 0.
        Scale 0 means that there are none.
    output_scale, output_bias
        Per row: the output of the layer is multiplied by the scale, then the bias is added. None
        means 1 and 0.
    """

    begin: float
    end: float
    activation_scale: float
    activation_zero: float
    output_scale: npt.NDArray[np.float32] | None
    output_bias: npt.NDArray[np.float32] | None


class QuantizedTensor:
    """One tensor of an artefact, or one array quantized in memory.

    A weight of any rank is a matrix: its first dimension by the product of the others. Stacked
    experts ``[experts, out, in]`` have two dimensions of rows (:attr:`row_dimensions`). The integer
    codes are packed, element 0 in the lowest bits, each row padded to a whole byte;
    ``docs/reference/format.md`` says how a code becomes a weight. Tensors that are not quantized
    (``encoding == "copy"``) hold their source bytes.

    Examples
    --------
    >>> import numpy as np
    >>> from arrow_quant_v2 import ArrowQuantV2
    >>> weights = np.random.default_rng(0).standard_normal((64, 256), dtype=np.float32)
    >>> tensor = ArrowQuantV2(mode="base").quantize(weights, bit_width=4)
    >>> tensor.codes.shape, tensor.dequantize().shape
    ((64, 128), (64, 256))
    """

    def __init__(
        self,
        info: core.TensorInfo,
        load: Callable[[], core.Tensor],
        *,
        shape: tuple[int, ...] | None = None,
        num_threads: int = 0,
        float_inputs: bool = False,
    ) -> None:
        self._info = info
        self._float_inputs = float_inputs
        self._load = load
        self._loaded: core.Tensor | None = None
        self._shape = tuple(info.shape) if shape is None else shape
        self._num_threads = num_threads

    @property
    def _tensor(self) -> core.Tensor:
        """The packed data, read at first use."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def preload(self) -> None:
        """Read the packed data now, and not at first use."""
        _ = self._tensor

    @property
    def name(self) -> str:
        """Name of the tensor in its model; empty for a lone array."""
        return self._info.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self._shape

    @property
    def row_dimensions(self) -> int:
        """How many dimensions make the rows: 2 for stacked experts, else 1."""
        return self._info.row_dimensions

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self._shape)

    @property
    def source_dtype(self) -> str:
        """Element type of the source, by its safetensors name."""
        return self._info.source_dtype

    @property
    def encoding(self) -> str:
        """``"affine"`` for quantized tensors, ``"copy"`` for others."""
        return self._info.encoding

    @property
    def is_quantized(self) -> bool:
        """Whether the tensor holds codes; if not, it holds its source bytes."""
        return self._info.encoding != "copy"

    @property
    def bit_width(self) -> int | None:
        """Bits of a code; None if the tensor is not quantized."""
        return self._info.spec.bit_width if self.is_quantized else None

    @property
    def group_size(self) -> int | None:
        """Weights that share parameters; None if the tensor is not quantized."""
        return self._info.spec.group_size if self.is_quantized else None

    @property
    def param_encoding(self) -> str | None:
        """``"two_level"``, ``"fp16"``, ``"row"``, ``"residual_binary"``; None: not quantized."""
        return self._info.spec.param_encoding if self.is_quantized else None

    @property
    def float_inputs(self) -> bool:
        """Whether calibration found that 8 bits are too few for the inputs of the layer."""
        return self._float_inputs

    @property
    def cosine(self) -> float:
        """Cosine similarity with the source weights."""
        return self._info.cosine

    @property
    def nmse(self) -> float:
        """Squared error over the squared norm of the source weights."""
        return self._info.nmse

    @property
    def output_cosine(self) -> float | None:
        """Cosine similarity of the outputs over held-out inputs; None without calibration."""
        return self._info.output_cosine

    @property
    def output_nmse(self) -> float | None:
        """Squared error of the outputs over their squared norm, on held-out inputs."""
        return self._info.output_nmse

    @property
    def method(self) -> str | None:
        """How the codes were found, such as ``"gptq"``; None if not quantized."""
        return self._info.method or None

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """What the method was chosen from, each with its held-out ``output_nmse``."""
        found: list[dict[str, Any]] = json.loads(self._info.candidates or "[]")
        return found

    @property
    def equalization(self) -> npt.NDArray[np.float32] | None:
        """Equalization scales s of the input channels, or None.

        The codes are those of the columns of the weight times s, so a layer that works on codes
        divides its input by s. :meth:`dequantize` divides by them again.
        """
        if not self.is_quantized or not self._tensor.chunks:
            return None
        factors = self._tensor.chunks[0].equalization
        return factors if factors.size else None

    @property
    def time_groups(self) -> tuple[TimeGroup, ...]:
        """Parameters by diffusion time, in order; empty when the tensor has none."""
        if not self.is_quantized:
            return ()
        chunks = [chunk.time_groups for chunk in self._tensor.chunks]
        return tuple(_time_group(parts) for parts in zip(*chunks, strict=True))

    @property
    def mean_output_bias(self) -> npt.NDArray[np.float32] | None:
        """The output biases of the time groups, averaged by length, per row; None without any.

        For code that uses one bias at all times.
        """
        groups = [group for group in self.time_groups if group.output_bias is not None]
        if not groups:
            return None
        lengths = [group.end - group.begin for group in groups]
        biases = np.stack([group.output_bias for group in groups if group.output_bias is not None])
        return np.average(biases, axis=0, weights=lengths).astype(np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and parameters as stored, but for what is stored by time."""
        return sum(
            c.codes.nbytes + c.params.nbytes + c.row_scale_bits.nbytes + c.equalization.nbytes
            for c in self._tensor.chunks
        )

    @property
    def chunks(self) -> list[core.Chunk]:
        """The stored pieces of the tensor: views of codes, parameters and fp16 row scales."""
        return self._tensor.chunks

    @property
    def codes(self) -> npt.NDArray[np.uint8]:
        """Packed codes, uint8 ``[rows, row_bytes]``.

        Of a tensor that is not quantized, the source bytes ``[nbytes]``.

        A read-only view of the tensor's memory unless the tensor is stored in several chunks.
        """
        codes = _joined([chunk.codes for chunk in self._tensor.chunks], self.is_quantized)
        return codes if self.is_quantized else codes.reshape(-1)

    @property
    def params(self) -> npt.NDArray[np.uint8]:
        """Parameters of the groups, uint8 ``[rows, bytes]``; empty if not quantized."""
        return _joined([chunk.params for chunk in self._tensor.chunks])

    @property
    def row_scales(self) -> npt.NDArray[np.float32] | None:
        """Scale of each row with the tensor's power of two in it; None without row scales."""
        if not self.is_quantized or self.param_encoding == "fp16":
            return None
        scales = [
            chunk.row_scale_bits.reshape(-1).view(np.float16).astype(np.float32)
            * np.float32(chunk.tensor_scale)
            for chunk in self._tensor.chunks
        ]
        return np.concatenate(scales) if scales else np.empty(0, np.float32)

    @property
    def packed(self) -> core.Tensor:
        """The tensor as the engine has it."""
        return self._tensor

    def unpack(self) -> npt.NDArray[np.uint8] | npt.NDArray[np.int8]:
        """Integer codes in the shape of the weight, one byte each.

        Signed for ``row`` parameters, unsigned otherwise.
        """
        self._require_codes("unpack")
        out = np.empty(self.size, np.uint8)
        self._tensor.unpack(out)
        shaped = out.reshape(self._shape)
        return shaped.view(np.int8) if self.param_encoding == "row" else shaped

    def dequantize(
        self, dtype: Any = "float32", *, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Reconstruct the weight.

        Parameters
        ----------
        dtype
            ``"float32"``, ``"float16"``, ``"bfloat16"``, ``"float64"``, or ``"source"`` for the
            element type that the tensor had. Kept tensors that are not floating point always come
            back in their own type.
        out
            Array to write into: C-contiguous, of the tensor's shape and of type `dtype`.

        Raises
        ------
        ShapeMismatchError
            `out` does not fit.
        """
        target = self._target(dtype)
        if out is not None:
            self._check_out(out, target)
        if not self.is_quantized:
            values = self._kept().astype(target, copy=False)
        elif out is not None and target == np.float32:
            self._tensor.dequantize(out.reshape(-1), self._num_threads)
            return out
        else:
            floats = np.empty(self.size, np.float32)
            self._tensor.dequantize(floats, self._num_threads)
            values = floats.reshape(self._shape).astype(target, copy=False)
        if out is None:
            return values
        out[...] = values
        return out

    def as_int8(self) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        """The int8 matrix ``v`` ``[rows, columns]`` and row scales ``s`` of ``w = s * v``.

        With :attr:`equalization`, ``w`` is the weight with its columns multiplied by these scales.

        Raises
        ------
        ConfigurationError
            The tensor has ``fp16`` parameters, or is not quantized.
        """
        self._require_codes("as_int8")
        rows = math.prod(self._info.shape[: self.row_dimensions])
        matrix = np.empty(self.size, np.int8)
        scales = np.empty(rows, np.float32)
        self._tensor.expand_int8(matrix, scales)
        return matrix.reshape(rows, -1 if rows else 0), scales

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Float32 for quantized tensors, the source values for others."""
        if copy is False and self.is_quantized:
            raise ValueError("a quantized tensor has to be dequantized, which makes a copy")
        values = self.dequantize() if self.is_quantized else self._kept()
        return values if dtype is None else values.astype(dtype, copy=False)

    def __len__(self) -> int:
        if not self._shape:
            raise TypeError("len() of a tensor without dimensions")
        return self._shape[0]

    def __repr__(self) -> str:
        kind = (
            f"INT{self.bit_width}, group_size={self.group_size}, {self.param_encoding}"
            if self.is_quantized
            else f"kept as {self.source_dtype}"
        )
        return f"QuantizedTensor({self.name!r}, shape={self._shape}, {kind})"

    def _target(self, dtype: Any) -> np.dtype[Any]:
        source = numpy_dtype(self.source_dtype)
        floating = self.source_dtype in FLOAT_NAMES
        if not self.is_quantized and not floating:
            return source if source is not None else np.dtype(np.uint8)
        if isinstance(dtype, str) and dtype == "source" and source is not None:
            return source
        return float_dtype(dtype)

    def _check_out(self, out: npt.NDArray[Any], target: np.dtype[Any]) -> None:
        if out.shape == self._shape and out.dtype == target and out.flags.c_contiguous:
            if not out.flags.writeable:
                raise ShapeMismatchError(f"{self._label}: 'out' is read-only", tensor=self.name)
            return
        raise ShapeMismatchError(
            f"{self._label}: expected a C-contiguous 'out' of {target} {self._shape}, "
            f"found {out.dtype} {out.shape}",
            tensor=self.name,
        )

    def _kept(self) -> npt.NDArray[Any]:
        """Source values, if not quantized; raw bytes for types narrower than a byte."""
        codes = self.codes
        dtype = numpy_dtype(self.source_dtype)
        return codes if dtype is None else codes.view(dtype).reshape(self._shape)

    def _require_codes(self, method: str) -> None:
        if not self.is_quantized:
            raise ConfigurationError(
                f"{self._label}: {method}() needs codes, but this tensor is kept as "
                f"{self.source_dtype}",
                tensor=self.name,
                hint="Use dequantize() or numpy.asarray(tensor).",
            )

    @property
    def _label(self) -> str:
        return f"tensor '{self.name}'" if self.name else "array"


def _time_group(parts: Sequence[core.TimeGroup]) -> TimeGroup:
    """One group of a tensor from those of its chunks, which have the rows between them."""

    def rows(values: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32] | None:
        joined = np.concatenate(values)
        return joined if joined.size else None

    first = parts[0]
    return TimeGroup(
        first.begin,
        first.end,
        first.activation_scale,
        first.activation_zero,
        rows([part.output_scale for part in parts]),
        rows([part.output_bias for part in parts]),
    )


def _joined(parts: list[npt.NDArray[np.uint8]], matrix: bool = True) -> npt.NDArray[np.uint8]:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return np.empty((0, 0), np.uint8)
    return np.concatenate(parts, axis=0 if matrix else 1)
