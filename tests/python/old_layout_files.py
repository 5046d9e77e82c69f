"""Writes models in the old Parquet layouts, value by value from their description.

Nothing here uses the package: what it reads is checked against these bytes and formulas.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Array = npt.NDArray[Any]

SHAPE_32 = pa.list_(pa.int32())
SHAPE_64 = pa.list_(pa.int64())


def float_bytes(values: Sequence[float] | Array) -> bytes:
    """Float32, little endian, one after the other."""
    return b"".join(struct.pack("<f", value) for value in values)


def pack_int2(q: Array) -> bytes:
    """Four integers of -2..1 to a byte as u = q + 2, element 0 in bits 0-1, padded with u = 2."""
    u = [int(value) + 2 for value in q.reshape(-1)]
    u += [2] * (-len(u) % 4)
    return bytes(u[i] | u[i + 1] << 2 | u[i + 2] << 4 | u[i + 3] << 6 for i in range(0, len(u), 4))


def pack_int2_msb(q: Array) -> bytes:
    """The same with element 0 in bits 6-7."""
    u = [int(value) + 2 for value in q.reshape(-1)]
    u += [2] * (-len(u) % 4)
    return bytes(u[i] << 6 | u[i + 1] << 4 | u[i + 2] << 2 | u[i + 3] for i in range(0, len(u), 4))


@dataclass
class Row:
    """One tensor; what a layout does not have is left out when it is written."""

    name: str | None
    shape: Sequence[int] | None
    data: bytes | None
    dtype: str | None = "torch.float32"
    num_params: int | None = -1  # -1: the product of the shape
    quant_type: str | None = "none"
    scales: Sequence[float | None] = ()
    zero_points: Sequence[float | None] = ()
    quant_axis: int | None = -1
    group_size: int | None = 0
    modality: str | None = None
    time_aware: Any = None
    spatial: Any = None
    activation: Any = None
    raw: dict[str, Any] = field(default_factory=dict)  # values to write as they are

    def base(self) -> dict[str, Any]:
        count = self.num_params
        if count == -1:
            count = int(np.prod(self.shape or (), dtype=np.int64))
        return {
            "layer_name": self.name,
            "shape": None if self.shape is None else list(self.shape),
            "dtype": self.dtype,
            "data": self.data,
            "num_params": count,
        }


def write_float_table(
    path: Path,
    rows: Sequence[Row],
    *,
    shape_type: pa.DataType = SHAPE_32,
    compression: str = "zstd",
    **options: Any,
) -> Path:
    """Layout A."""
    schema = pa.schema(
        [
            ("layer_name", pa.utf8()),
            ("shape", shape_type),
            ("dtype", pa.utf8()),
            ("data", pa.binary()),
            ("num_params", pa.int64()),
        ]
    )
    return _write(path, [row.base() | row.raw for row in rows], schema, compression, **options)


def write_quantized_table(
    path: Path,
    rows: Sequence[Row],
    *,
    shape_type: pa.DataType = SHAPE_32,
    with_group_size: bool = True,
    compression: str = "snappy",
    **options: Any,
) -> Path:
    """Layout B."""
    columns = [
        ("layer_name", pa.utf8()),
        ("shape", shape_type),
        ("dtype", pa.utf8()),
        ("data", pa.binary()),
        ("num_params", pa.int64()),
        ("quant_type", pa.utf8()),
        ("scales", pa.binary()),
        ("zero_points", pa.binary()),
        ("quant_axis", pa.int32()),
    ]
    if with_group_size:
        columns.append(("group_size", pa.int32()))
    records = []
    for row in rows:
        record = row.base() | {
            "quant_type": row.quant_type,
            "scales": float_bytes(row.scales),
            "zero_points": float_bytes(row.zero_points),
            "quant_axis": row.quant_axis,
            "group_size": row.group_size,
        }
        records.append(record | row.raw)
    return _write(path, records, pa.schema(columns), compression, **options)


def tensor_file_name(name: str) -> str:
    """The file of a tensor in layouts C and D."""
    for character in '/\\:*?"<>|.':
        name = name.replace(character, "_")
    return f"{name}.parquet"


def write_tensor_file(
    folder: Path, row: Row, *, diffusion: bool = False, compression: str = "zstd", **options: Any
) -> Path:
    """Layout C, or D with `diffusion`: one file in `folder`."""
    columns = [
        ("layer_name", pa.utf8()),
        ("shape", pa.list_(pa.uint64())),
        ("dtype", pa.utf8()),
        ("data", pa.large_binary()),
        ("num_params", pa.uint64()),
        ("quant_type", pa.utf8()),
        ("scales", pa.list_(pa.float32())),
        ("zero_points", pa.list_(pa.float32())),
        ("quant_axis", pa.uint64()),
        ("group_size", pa.uint64()),
    ]
    record = row.base() | {
        "quant_type": row.quant_type,
        "scales": list(row.scales),
        "zero_points": list(row.zero_points),
        "quant_axis": None if row.quant_axis == -1 else row.quant_axis,
        "group_size": row.group_size or None,
    }
    if diffusion:
        columns += [("is_diffusion_model", pa.bool_()), ("modality", pa.utf8())]
        record |= {"is_diffusion_model": True, "modality": row.modality}
        for column, value in [
            ("time_aware_quant_json", row.time_aware),
            ("spatial_quant_json", row.spatial),
            ("activation_stats_json", row.activation),
        ]:
            if value is not None:
                columns.append((column, pa.utf8()))
                record[column] = value if isinstance(value, str) else json.dumps(value)
    assert row.name is not None
    path = folder / tensor_file_name(row.name)
    return _write(path, [record | row.raw], pa.schema(columns), compression, **options)


def _write(
    path: Path, records: list[dict[str, Any]], schema: pa.Schema, compression: str, **options: Any
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(records, schema=schema)
    pq.write_table(table, path, compression=compression, **{"row_group_size": 10, **options})
    return path


def time_groups(count: int) -> dict[str, Any]:
    """The time-aware JSON of layout D for `count` groups."""
    return {
        "enabled": True,
        "num_time_groups": count,
        "time_group_params": [
            {
                "time_range": [i * 1000 // count, (i + 1) * 1000 // count],
                "scale": 0.1,
                "zero_point": 0.0,
                "group_size": 64,
            }
            for i in range(count)
        ],
    }


def spatial(scales: Sequence[float | None] = ()) -> dict[str, Any]:
    """The spatial JSON of layout D."""
    return {
        "enabled": True,
        "channel_equalization": bool(scales),
        "activation_smoothing": False,
        "equalization_scales": list(scales),
    }
