"""Element types: the names of the safetensors format and the numpy types that hold them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from arrow_quant_v2.errors import ConfigurationError

__all__ = ["FLOAT_NAMES", "float_dtype", "numpy_dtype", "safetensors_name"]

_NUMPY: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "I16": np.int16,
        "U16": np.uint16,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "I32": np.int32,
        "U32": np.uint32,
        "F32": np.float32,
        "C64": np.complex64,
        "F64": np.float64,
        "I64": np.int64,
        "U64": np.uint64,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
        "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    }.items()
}

_NAMES = {dtype: name for name, dtype in _NUMPY.items()}

#: Types that can be quantized, as safetensors names.
FLOAT_NAMES = frozenset(
    {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
)

_FLOAT_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
}


def numpy_dtype(name: str) -> np.dtype[Any] | None:
    """The numpy type of the safetensors type `name`; None for types narrower than a byte."""
    return _NUMPY.get(name)


def safetensors_name(dtype: np.dtype[Any]) -> str | None:
    """The safetensors name of a numpy type, in any byte order; None when there is none."""
    return _NAMES.get(dtype.newbyteorder("="))


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """The numpy type that `dtype` asks for: a name such as ``"bfloat16"``, or a numpy type.

    Raises
    ------
    ConfigurationError
        It is not one of float64, float32, float16 and bfloat16.
    """
    name = dtype if isinstance(dtype, str) else _dtype_name(dtype)
    if name not in _FLOAT_DTYPES:
        raise ConfigurationError(
            f"Invalid dtype: {dtype!r}. Must be 'float32', 'float16', 'bfloat16', or 'float64'."
        )
    return _NUMPY[_FLOAT_DTYPES[name]]


def _dtype_name(dtype: Any) -> str:
    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        return str(dtype).removeprefix("torch.")
