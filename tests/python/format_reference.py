"""Decodes an artefact with numpy and pyarrow alone, written from the description of the format.

Independent of the engine on purpose: one value at a time where that is clearest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def decode_file(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Every tensor of a weights.parquet, file or folder: float32, and kept ones as they are."""
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    shapes: dict[str, list[int]] = {}
    for row in pq.read_table(path).to_pylist():
        parts.setdefault(row["name"], []).append(_decode_row(row))
        shapes[row["name"]] = row["shape"]
    return {
        name: np.concatenate([part.reshape(-1) for part in chunks]).reshape(shapes[name])
        for name, chunks in parts.items()
    }


def _decode_row(row: dict[str, Any]) -> npt.NDArray[Any]:
    if row["encoding"] == "copy":
        return np.frombuffer(row["codes"], _DTYPES[row["source_dtype"]])
    cols = int(np.prod(row["shape"][row["axis"] :]))
    codes = unpack(row["codes"], cols, row["bit_width"])
    decode = {
        "two_level": _two_level,
        "fp16": _fp16,
        "row": _row,
        "residual_binary": _residual_binary,
    }[row["param_encoding"]]
    weights = decode(row, codes)
    if row["equalization"] is not None:
        raw = np.frombuffer(row["equalization"], "u1")
        by_byte = len(raw) == row["shape"][row["axis"]]
        exact = np.exp2((raw - 128.0) / 8).astype("f4")
        factors = exact if by_byte else raw.view("<f4")
        weights /= factors.repeat(cols // len(factors))
    return weights


def unpack(data: bytes, cols: int, bits: int) -> npt.NDArray[np.int64]:
    """Unsigned codes [rows, cols]: element 0 in the lowest bits, each row padded to a byte."""
    row_bytes = (cols * bits + 7) // 8
    stream = np.unpackbits(
        np.frombuffer(data, np.uint8).reshape(-1, row_bytes), axis=1, bitorder="little"
    )
    fields = stream[:, : cols * bits].reshape(-1, cols, bits).astype(np.int64)
    return (fields << np.arange(bits)).sum(axis=2)


def _row_scales(row: dict[str, Any]) -> npt.NDArray[np.float64]:
    halves = np.frombuffer(row["row_scales"], "<f2").astype(np.float64)
    return halves[:, None] * row["tensor_scale"]


def _two_level(row: dict[str, Any], codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    rows, cols = codes.shape
    params = np.frombuffer(row["params"], np.uint8).reshape(rows, -1).astype(np.int64)
    v = np.empty_like(codes)
    for r in range(rows):
        for first, last, byte in _sub_groups(cols, row["group_size"] // 4, params[r]):
            q, z = (byte & 15) + 1, (byte >> 4) - 8
            centred = codes[r, first:last] - 2 ** (row["bit_width"] - 1)
            v[r, first:last] = np.clip(q * centred + row["offset_unit"] * z, -127, 127)
    return (_row_scales(row) * v).astype(np.float32)


def _residual_binary(row: dict[str, Any], codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    rows, cols = codes.shape
    params = np.frombuffer(row["params"], np.uint8).reshape(rows, -1).astype(np.int64)
    v = np.empty_like(codes)
    for r in range(rows):
        for first, last, byte in _sub_groups(cols, row["group_size"] // 4, params[r]):
            part = codes[r, first:last]
            b1, b2 = np.where(part & 1, 1, -1), np.where(part & 2, 1, -1)
            v[r, first:last] = ((byte & 15) + 1) * b1 + (byte >> 4) * b2
    return (_row_scales(row) * v).astype(np.float32)


def _sub_groups(
    cols: int, size: int, params: npt.NDArray[np.int64]
) -> Iterator[tuple[int, int, int]]:
    for number, first in enumerate(range(0, cols, size)):
        yield first, min(first + size, cols), int(params[number])


def _fp16(row: dict[str, Any], codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    rows, cols = codes.shape
    pairs = np.frombuffer(row["params"], "<f2").astype(np.float64).reshape(rows, -1, 2)
    group = np.arange(cols) // row["group_size"]
    scale, offset = pairs[:, group, 0], pairs[:, group, 1]
    return (row["tensor_scale"] * (scale * codes + offset)).astype(np.float32)


def _row(row: dict[str, Any], codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    signed = codes.astype(np.uint8).view(np.int8)
    return (_row_scales(row) * signed).astype(np.float32)
