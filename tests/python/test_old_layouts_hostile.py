"""Malformed models in the old layouts are refused with file, tensor and numbers; never a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from old_layout_files import (
    Row,
    spatial,
    time_groups,
    write_float_table,
    write_quantized_table,
    write_tensor_file,
)
from support import gaussian

from arrow_quant_v2 import ArrowQuantV2, open_quantized
from arrow_quant_v2.errors import (
    ArrowQuantError,
    MetadataError,
    ModelNotFoundError,
    ShapeMismatchError,
)

FLOATS = b"\0" * 48  # twelve
BYTES = bytes(range(12))
NAN, INFINITY = float("nan"), float("inf")


def refused(
    kind: type[ArrowQuantError], words: str, path: Path, tensor: str | None = "w"
) -> ArrowQuantError:
    """Opening `path` and reading all of it raises `kind` with `words`, and names the tensor."""
    with pytest.raises(kind, match=words) as caught:
        open_quantized(path).verify()
    assert type(caught.value) is kind
    if tensor is not None:
        assert caught.value.tensor == tensor
    assert caught.value.path.startswith(str(path))
    return caught.value


@pytest.mark.parametrize(
    ("kind", "words", "row"),
    [
        (ShapeMismatchError, "num_params says 13", Row("w", (3, 4), FLOATS, num_params=13)),
        (ShapeMismatchError, "num_params says -12", Row("w", (3, 4), FLOATS, num_params=-12)),
        (ShapeMismatchError, "expected 48, found 47", Row("w", (3, 4), FLOATS[:47])),
        (ShapeMismatchError, "expected 48, found 52", Row("w", (3, 4), FLOATS + b"\0" * 4)),
        (ShapeMismatchError, "expected 48, found 24", Row("w", (3, 4), FLOATS[:24])),
        (ShapeMismatchError, "expected 96, found 48", Row("w", (3, 4), FLOATS, "torch.int64")),
        (ShapeMismatchError, "expected 0, found 48", Row("w", (0, 4), FLOATS)),
        (MetadataError, "weights are absent", Row("w", (3, 4), b"")),
        (MetadataError, "weights are absent", Row("w", (3, 4), None)),
        (MetadataError, "dtype 'torch.complex64'", Row("w", (3, 4), FLOATS, "torch.complex64")),
        (MetadataError, "dtype ''", Row("w", (3, 4), FLOATS, None)),
    ],
)
def test_sizes_of_layout_a_must_agree(
    tmp_path: Path, kind: type[ArrowQuantError], words: str, row: Row
) -> None:
    write_float_table(tmp_path / "weights.parquet", [Row("first", (1,), b"\0" * 4), row])
    refused(kind, words, tmp_path)


@pytest.mark.parametrize(
    ("words", "row"),
    [
        ("a shape that no tensor has", Row("w", (-3, 4), FLOATS)),
        ("a shape that no tensor has", Row("w", (1,) * 9, b"\0" * 4)),
        ("a shape that no tensor has", Row("w", (1,), FLOATS, raw={"shape": [None, 3]})),
        ("a shape that no tensor has", Row("w", (2**31 - 1, 2**31 - 1, 4), FLOATS, num_params=4)),
        ("a shape that no tensor has", Row("w", (0, 2**31 - 1, 2**31 - 1, 4), b"", num_params=0)),
        ("without a layer_name", Row(None, (3, 4), FLOATS)),
        ("without a layer_name", Row("", (3, 4), FLOATS)),
        ("UTF-8 text of at most", Row("w" * 4097, (3, 4), FLOATS)),
        ("UTF-8 text of at most", Row("w\0", (3, 4), FLOATS)),
        ("a second tensor of this name", Row("first", (1,), b"\0" * 4)),
    ],
)
def test_names_and_shapes_that_no_tensor_has_are_refused(
    tmp_path: Path, words: str, row: Row
) -> None:
    write_float_table(tmp_path / "weights.parquet", [Row("first", (1,), b"\0" * 4), row])
    refused(MetadataError, words, tmp_path, None)


def test_a_null_shape_is_that_of_a_scalar_and_has_to_fit(tmp_path: Path) -> None:
    write_float_table(tmp_path / "weights.parquet", [Row("w", None, FLOATS, num_params=12)])
    refused(ShapeMismatchError, "the shape has 1 elements, num_params says 12", tmp_path)


@pytest.mark.parametrize(
    ("kind", "words", "changes"),
    [
        (ShapeMismatchError, "scales: expected 3, found 2", {"scales": [1, 2], "quant_axis": 0}),
        (ShapeMismatchError, "scales: expected 1, found 0", {"scales": []}),
        (ShapeMismatchError, "scales: expected 3, found 1", {"group_size": 5}),
        (ShapeMismatchError, "zero points: expected 1, found 2", {"zero_points": [1, 2]}),
        (ShapeMismatchError, "bytes of int8 data: expected 12", {"data": BYTES[:11]}),
        (ShapeMismatchError, "bytes of int2 data: expected 3", {"quant_type": "int2"}),
        (MetadataError, "weights are absent", {"data": b""}),
        (MetadataError, "quant_axis is 2 for a shape of 2", {"quant_axis": 2}),
        (MetadataError, "quant_axis is -2", {"quant_axis": -2}),
        (MetadataError, "group_size is -1", {"group_size": -1}),
        (MetadataError, "quant_type 'int3' is not known", {"quant_type": "int3"}),
        (MetadataError, "a scale is no finite number", {"scales": [NAN]}),
        (MetadataError, "a scale is no finite number", {"scales": [INFINITY]}),
        (MetadataError, "a zero point is infinite", {"zero_points": [-INFINITY]}),
        (MetadataError, "no whole float32 numbers", {"raw": {"scales": b"\0\0\0"}}),
    ],
)
def test_parameters_of_layout_b_must_fit(
    tmp_path: Path, kind: type[ArrowQuantError], words: str, changes: dict[str, Any]
) -> None:
    row = Row("w", (3, 4), BYTES, quant_type="int8", scales=[1.0])
    for name, value in changes.items():
        setattr(row, name, value)
    write_quantized_table(tmp_path / "weights.parquet", [row])
    refused(kind, words, tmp_path)


@pytest.mark.parametrize(
    ("kind", "words", "changes"),
    [
        (ShapeMismatchError, "expected 2, found 3", {"scales": [1, 2, 3], "group_size": 2}),
        (ShapeMismatchError, "found 2", {"scales": [1, 2]}),
        (ShapeMismatchError, "zero points: expected 1, found 2", {"zero_points": [1, 2]}),
        (ShapeMismatchError, "one per weight: expected 12, found 3", {"data": BYTES[:3]}),
        (MetadataError, "integer weights without scales", {"scales": []}),
        (MetadataError, "quant_type 'int5' is not known", {"quant_type": "int5"}),
        (MetadataError, "a scale is no finite number", {"scales": [None]}),
        (MetadataError, "expected a number 'num_time_groups'", {"time_aware": {}}),
        (MetadataError, "expected an object", {"time_aware": "[]"}),
        (MetadataError, "JSON", {"spatial": '{"a": 1, "a": 2}'}),
        (MetadataError, "JSON", {"spatial": "[" * 100}),
        (MetadataError, "expected a list", {"spatial": {"equalization_scales": 1}}),
        (MetadataError, "no finite number", {"spatial": spatial([1.0, None, 1.0])}),
        (MetadataError, "no finite number", {"spatial": '{"equalization_scales": [1e39]}'}),
        (ShapeMismatchError, "equalization_scales: expected 3", {"spatial": spatial([1.0])}),
        (
            MetadataError,
            "more scales or zero points than weights",
            {"scales": [1.0] * 70000, "time_aware": time_groups(1)},
        ),
    ],
)
def test_parameters_of_layouts_c_and_d_must_fit(
    tmp_path: Path, kind: type[ArrowQuantError], words: str, changes: dict[str, Any]
) -> None:
    row = Row("w", (3, 4), BYTES, quant_type="int8", scales=[1.0])
    for name, value in changes.items():
        setattr(row, name, value)
    write_tensor_file(tmp_path, row, diffusion=True)
    refused(kind, words, tmp_path, None if words in ("JSON", "expected an object") else "w")


def test_a_companion_of_the_wrong_size_or_none_is_named(tmp_path: Path) -> None:
    path = write_tensor_file(tmp_path, Row("w", (3, 4), b""), diffusion=True)
    error = refused(MetadataError, "weights are absent", tmp_path)
    assert error.path == str(path)
    (tmp_path / "w.bin").write_bytes(FLOATS[:-1])
    error = refused(ShapeMismatchError, "expected 48, found 47", tmp_path)
    assert error.path == str(tmp_path / "w.bin")
    (tmp_path / "w.bin").unlink()
    os.mkfifo(tmp_path / "w.bin")
    refused(MetadataError, "found a FIFO", tmp_path, None)


def test_a_file_of_one_tensor_has_one_row(tmp_path: Path) -> None:
    path = write_tensor_file(tmp_path, Row("w", (12,), BYTES, quant_type="int8", scales=[1.0]))
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table]), path)
    refused(MetadataError, "expected one row, found 2", tmp_path, None)
    pq.write_table(table.slice(0, 0), path)
    refused(MetadataError, "expected one row, found 0", tmp_path, None)


def test_layouts_do_not_mix(tmp_path: Path) -> None:
    row = Row("w", (12,), BYTES, quant_type="int8", scales=[1.0])
    write_tensor_file(tmp_path, row)
    row.name = "x"
    write_tensor_file(tmp_path, row, diffusion=True)
    refused(MetadataError, r"layout D .* layout C", tmp_path, None)


def test_a_model_without_rows_is_refused(tmp_path: Path) -> None:
    write_float_table(tmp_path / "weights.parquet", [])
    refused(MetadataError, "no tensors", tmp_path, None)


@pytest.mark.parametrize("column", ["shape", "dtype", "data", "num_params", "scales"])
def test_a_missing_column_or_one_of_another_type_is_named(tmp_path: Path, column: str) -> None:
    path = tmp_path / "weights.parquet"
    row = Row("w", (12,), BYTES, quant_type="int8", scales=[1.0])
    write_quantized_table(path, [row])
    table = pq.read_table(path)
    pq.write_table(table.drop_columns([column]), path)
    refused(MetadataError, f"no column '{column}'", tmp_path, None)
    place = table.schema.get_field_index(column)
    for values in (pa.array([1.5]), pa.array([[["a"]]]), pa.array([{"x": 1, "y": 2}])):
        pq.write_table(table.set_column(place, column, values), path)
        refused(MetadataError, f"column '{column}'", tmp_path, None)


def test_parquet_files_of_something_else_are_no_model(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "data.parquet")
    with pytest.raises(ModelNotFoundError, match="not an artefact"):
        open_quantized(tmp_path)
    with pytest.raises(ModelNotFoundError, match="no column 'layer_name'"):
        ArrowQuantV2().plan(tmp_path)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "too short for a Parquet file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"<html>" * 10, "HTML"),
        (b"PAR1" + b"\0" * 100, "does not end with 'PAR1'"),
        (b"PAR1" + b"\xff" * 8 + b"PAR1", "longer than the file"),
        (b"PAR1" + b"\x19\x99\x99" * 30 + b"\x5a\0\0\0PAR1", "."),
    ],
)
def test_what_is_no_parquet_file_is_called_what_it_is(
    tmp_path: Path, start: bytes, words: str
) -> None:
    (tmp_path / "weights.parquet").write_bytes(start)
    refused(MetadataError, words, tmp_path, None)


def _table_a(folder: Path) -> Path:
    rows = [Row(f"w{i}", (3, 4), gaussian(3, 4, seed=i).tobytes()) for i in range(3)]
    return write_float_table(folder / "weights.parquet", rows, write_page_checksum=True)


def _file_d(folder: Path) -> Path:
    row = Row("w", (3, 4), BYTES, quant_type="int4", scales=[1.0, 2.0], zero_points=[0.0, NAN])
    row.group_size, row.spatial, row.time_aware = 2, spatial([1.0, 2.0, 3.0]), time_groups(3)
    return write_tensor_file(folder, row, diffusion=True, write_page_checksum=True)


@pytest.mark.parametrize("make", [_table_a, _file_d])
def test_a_file_that_is_cut_anywhere_is_refused(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 29):
        path.write_bytes(whole[:length])
        refused(MetadataError, ".", tmp_path, None)


@pytest.mark.parametrize("make", [_table_a, _file_d])
def test_a_damaged_byte_anywhere_is_refused_or_changes_nothing_that_is_read(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path)
    whole = path.read_bytes()
    expected = {name: np.asarray(t).tobytes() for name, t in open_quantized(path).items()}
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    silent = 0
    for place in range(0, len(whole), 23):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = {name: np.asarray(t).tobytes() for name, t in open_quantized(path).items()}
        except ArrowQuantError:
            continue
        # Pages have checksums; the old layouts have none for the footer.
        silent += found != expected and place < footer
    assert silent == 0


_GROWTH = """
import resource, sys
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, open_quantized
from arrow_quant_v2.errors import ArrowQuantError
def mebibytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = mebibytes()
"""


def grown(code: str, *arguments: Path) -> list[str]:
    """The lines that `code` prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _GROWTH + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_small_file_cannot_make_us_allocate_much(tmp_path: Path) -> None:
    row = Row("w", (3, 4), BYTES, quant_type="int8", scales=[1.0])
    much = b"a" * (96 << 20)
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    paths = []
    for column in ("data", "scales"):
        row.raw = {column: much}
        paths.append(write_quantized_table(tmp_path / f"{column}.parquet", [row], **options))
    row.raw = {}
    path = write_tensor_file(tmp_path, row)
    table = pq.read_table(path)
    many = pa.repeat(pa.scalar(1.0, pa.float32()), 10_000_000)
    lists = pa.ListArray.from_arrays([0, 10_000_000], many)
    place = table.schema.get_field_index("scales")
    pq.write_table(table.set_column(place, "scales", lists), path, compression="zstd")
    paths.append(path)
    assert all(path.stat().st_size < 1 << 20 for path in paths)
    code = """
for path in sys.argv[1:]:
    try:
        open_quantized(path)
    except ArrowQuantError as error:
        print(type(error).__name__)
print(mebibytes() - before)
"""
    *outcomes, growth = grown(code, *paths)
    assert outcomes == ["MetadataError"] * len(paths)
    assert int(growth) < 90


def test_a_file_that_changes_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    path = _table_a(tmp_path)
    model = open_quantized(tmp_path)
    rows = [Row(f"w{i}", (3, 4), gaussian(3, 4, seed=9).tobytes()) for i in range(3)]
    write_float_table(path, rows)
    os.utime(path, ns=(1, 1))
    with pytest.raises(MetadataError, match="changed since"):
        model["w0"].dequantize()


def test_memory_stays_with_one_row_group_while_a_large_model_is_quantized(tmp_path: Path) -> None:
    weight = gaussian(512, 4096)
    rows = [Row(f"blocks.{i}.to_q.weight", weight.shape, weight.tobytes()) for i in range(12)]
    path = tmp_path / "old" / "weights.parquet"
    write_float_table(path, rows, row_group_size=2, use_dictionary=False, write_statistics=False)
    assert path.stat().st_size > 90_000_000
    code = """
config = DiffusionQuantConfig(bit_width=8, method="rtn", modality="image", max_memory_mb=64)
ArrowQuantV2().quantize_diffusion_model(sys.argv[1], sys.argv[2], config)
print(mebibytes() - before)
"""
    (growth,) = grown(code, path.parent, tmp_path / "new")
    # A page of two tensors, compressed and not, beside the 64 MiB that were granted.
    assert int(growth) < 64 + 2 * 16 + 16
