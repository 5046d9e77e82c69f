"""Every old layout decodes to exactly what its description says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from old_layout_files import (
    SHAPE_32,
    SHAPE_64,
    Row,
    pack_int2,
    pack_int2_msb,
    spatial,
    time_groups,
    write_float_table,
    write_quantized_table,
    write_tensor_file,
)
from support import gaussian

from arrow_quant_v2 import open_quantized
from arrow_quant_v2.artefact.old_layouts import OldModel, OldTensor
from arrow_quant_v2.errors import ConfigurationError, MetadataError

Array = npt.NDArray[Any]


def opened(path: Path, int2_order: str = "lsb") -> OldModel:
    model = open_quantized(path, int2_order)
    assert isinstance(model, OldModel)
    return model


def integers(*shape: int, low: int = 0, high: int = 256, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(low, high, shape)


def scales_of(count: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).uniform(0.001, 0.1, count).astype(np.float32)


def exact(found: Array, expected: Array) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape_type", [SHAPE_32, SHAPE_64], ids=["int32", "int64"])
@pytest.mark.parametrize("compression", ["zstd", "snappy", "none"])
@pytest.mark.parametrize("dictionary", [True, False], ids=["dictionary", "plain"])
def test_layout_a_keeps_every_type_bit_by_bit(
    tmp_path: Path, shape_type: pa.DataType, compression: str, dictionary: bool
) -> None:
    arrays: dict[str, Array] = {
        "torch.float32": gaussian(5, 3),
        "torch.float16": gaussian(4, 2, 2, seed=1, dtype=np.float16),
        "torch.bfloat16": gaussian(7, seed=2, dtype=ml_dtypes.bfloat16),
        "float16": gaussian(2, 2, seed=3, dtype=np.float16),
        "torch.int64": np.arange(-3, 4, dtype=np.int64),
        "torch.int32": np.arange(6, dtype=np.int32).reshape(2, 3),
        "torch.int8": np.array([-128, 127], np.int8),
        "torch.uint8": np.array([0, 255], np.uint8),
        "torch.bool": np.array([True, False, True]),
    }
    rows = [
        Row(f"w.{dtype}", array.shape, array.tobytes(), dtype) for dtype, array in arrays.items()
    ]
    rows += [
        Row("scalar", (), np.float32(2.5).tobytes()),
        Row("empty", (0, 4), b""),
        Row("again", (5, 3), arrays["torch.float32"].tobytes()),
    ]
    write_float_table(
        tmp_path / "weights.parquet",
        rows,
        shape_type=shape_type,
        compression=compression,
        use_dictionary=dictionary,
    )
    model = opened(tmp_path)
    assert model.layout.startswith("A ")
    assert list(model) == [row.name for row in rows]
    for dtype, array in arrays.items():
        tensor = model[f"w.{dtype}"]
        assert not tensor.is_quantized
        exact(tensor.dequantize("source"), array)
    exact(model["scalar"].dequantize(), np.float32(2.5).reshape(()))
    assert model["empty"].dequantize().shape == (0, 4)
    exact(model["again"].dequantize(), arrays["torch.float32"])


@pytest.mark.parametrize("dtype", ["torch.bfloat16", "torch.float16", "float16"])
def test_layout_a_trusts_the_bytes_where_half_precision_rows_hold_float32(
    tmp_path: Path, dtype: str
) -> None:
    weights = gaussian(6, 5)
    write_float_table(
        tmp_path / "weights.parquet",
        [Row("w", (6, 5), weights.tobytes(), dtype), Row("b", (2,), b"\0\0\0\0", dtype)],
    )
    model = opened(tmp_path)
    assert model["w"].source_dtype == "F32"
    exact(model["w"].dequantize("source"), weights)
    assert model["b"].source_dtype in ("BF16", "F16")


def test_rows_are_read_in_any_order_over_row_groups_of_ten(tmp_path: Path) -> None:
    arrays = {f"layer.{i}.weight": gaussian(i + 1, 7, seed=i) for i in range(34)}
    rows = [Row(name, array.shape, array.tobytes()) for name, array in arrays.items()]
    write_float_table(tmp_path / "weights.parquet", rows)
    model = opened(tmp_path)
    for i in np.random.default_rng(0).permutation(34):
        name = f"layer.{i}.weight"
        exact(model[name].dequantize(), arrays[name])


def test_a_value_that_spans_many_small_pages_of_a_row_group_is_whole(tmp_path: Path) -> None:
    arrays = {f"w{i}": gaussian(40, 50, seed=i) for i in range(25)}
    rows = [Row(name, array.shape, array.tobytes()) for name, array in arrays.items()]
    write_float_table(
        tmp_path / "weights.parquet",
        rows,
        row_group_size=100,
        data_page_size=1000,
        write_batch_size=1,
        use_dictionary=False,
        data_page_version="2.0",
        write_page_checksum=True,
    )
    model = opened(tmp_path)
    for name, array in reversed(arrays.items()):
        exact(model[name].dequantize(), array)


def test_the_packing_test_vector_of_layout_b_is_the_byte_1e() -> None:
    assert pack_int2(np.array([0, 1, -1, -2])) == b"\x1e"


@pytest.mark.parametrize("order", ["lsb", "msb"])
def test_layout_b_unpacks_int2_in_both_bit_orders(tmp_path: Path, order: str) -> None:
    write_quantized_table(
        tmp_path / "weights.parquet",
        [
            Row("vector", (4,), b"\x1e", quant_type="int2", scales=[1.0], zero_points=[0.0]),
            Row("short", (2, 3), b"\x1e\xaa", quant_type="int2", scales=[0.5], zero_points=[1.0]),
        ],
    )
    model = opened(tmp_path, order)
    q = [0, 1, -1, -2] if order == "lsb" else [-2, -1, 1, 0]
    vector = model["vector"]
    assert isinstance(vector, OldTensor)
    exact(vector.unpack(), np.array(q, np.int8))
    assert vector.codes.tobytes() == b"\x1e"
    assert vector.bit_width == 2
    exact(vector.dequantize(), np.array(q, np.float32))
    # The last byte is 10 10 10 10 in bits: u = 2, q = 0 in either order.
    expected = (np.array([*q, 0, 0], np.float32) - 1) * np.float32(0.5)
    exact(model["short"].dequantize(), expected.reshape(2, 3))


def test_a_file_packed_from_the_high_bits_is_right_with_msb_and_reversed_with_lsb(
    tmp_path: Path,
) -> None:
    q = integers(9, 5, low=-2, high=2)
    row = Row("w", (9, 5), pack_int2_msb(q), quant_type="int2", scales=[0.5])
    write_quantized_table(tmp_path / "weights.parquet", [row])
    exact(opened(tmp_path, "msb")["w"].dequantize(), q.astype(np.float32) * np.float32(0.5))
    padded = np.append(q.reshape(-1), [0, 0, 0]).reshape(-1, 4)[:, ::-1].reshape(-1)[:45]
    exact(opened(tmp_path)["w"].unpack(), padded.reshape(9, 5).astype(np.int8))


@pytest.mark.parametrize("quant_type", ["int8", "int2"])
@pytest.mark.parametrize(
    ("granularity", "axis", "group_size"),
    [
        ("tensor", -1, 0),
        ("axis 0", 0, 0),
        ("axis 1", 1, 0),
        ("groups of 16", -1, 16),
        ("groups of 7", 0, 7),
    ],
)
@pytest.mark.parametrize("shape", [(6, 10), (4, 3, 3, 5)])
def test_layout_b_dequantizes_as_described(
    tmp_path: Path,
    quant_type: str,
    granularity: str,
    axis: int,
    group_size: int,
    shape: tuple[int, ...],
) -> None:
    low, high = (-128, 128) if quant_type == "int8" else (-2, 2)
    q = integers(*shape, low=low, high=high)
    n = q.size
    index = np.zeros(shape, np.int64)
    if group_size:
        index = (np.arange(n) // group_size).reshape(shape)
    elif axis >= 0:
        index = np.indices(shape)[axis]
    scales = scales_of(int(index.max()) + 1)
    zero_points = np.round(scales_of(scales.size, seed=2) * 50)
    data = q.astype(np.int8).tobytes() if quant_type == "int8" else pack_int2(q)
    row = Row(
        "w",
        shape,
        data,
        quant_type=quant_type,
        scales=scales,
        zero_points=zero_points,
        quant_axis=axis,
        group_size=group_size,
    )
    write_quantized_table(tmp_path / "weights.parquet", [row])
    model = opened(tmp_path)
    tensor = model["w"]
    assert isinstance(tensor, OldTensor)
    assert model.layout.startswith("B ")
    assert tensor.granularity == granularity
    expected = (q.astype(np.float32) - zero_points[index]) * scales[index]
    exact(tensor.dequantize(), expected)
    exact(tensor.dequantize("float16"), expected.astype(np.float16))
    exact(np.asarray(tensor), expected)
    exact(tensor.unpack(), q.astype(np.int8))
    exact(tensor.scales, scales)
    exact(tensor.zero_points, zero_points)


def test_layout_b_without_a_group_size_column_is_per_tensor_or_per_channel(tmp_path: Path) -> None:
    q = integers(3, 4, low=-128, high=128)
    rows = [
        Row("t", (3, 4), q.astype(np.int8).tobytes(), quant_type="int8", scales=[0.25]),
        Row(
            "c",
            (3, 4),
            q.astype(np.int8).tobytes(),
            quant_type="int8",
            scales=[0.25, 0.5, 1.0],
            quant_axis=0,
        ),
    ]
    write_quantized_table(tmp_path / "weights.parquet", rows, with_group_size=False)
    model = opened(tmp_path)
    exact(model["t"].dequantize(), q.astype(np.float32) * np.float32(0.25))
    steps = np.array([[0.25], [0.5], [1.0]], np.float32)
    exact(model["c"].dequantize(), q.astype(np.float32) * steps)


def test_layout_b_floats_take_their_width_from_the_bytes(tmp_path: Path) -> None:
    full, half = gaussian(3, 4), gaussian(3, 4, seed=1, dtype=np.float16)
    brain = gaussian(3, 4, seed=2, dtype=ml_dtypes.bfloat16)
    rows = [
        Row("fp32", (3, 4), full.tobytes(), quant_type="fp32"),
        Row("fp16", (3, 4), half.tobytes(), quant_type="fp16"),
        Row("fp16 in 4 bytes", (3, 4), full.tobytes(), "torch.float16", quant_type="fp16"),
        Row("fp32 in 2 bytes", (3, 4), half.tobytes(), quant_type="fp32"),
        Row("none", (3, 4), brain.tobytes(), "torch.bfloat16", quant_type="none"),
        Row("null", (3,), np.arange(3).tobytes(), "torch.int64", quant_type=None),
    ]
    write_quantized_table(tmp_path / "weights.parquet", rows)
    model = opened(tmp_path)
    for name, expected in [
        ("fp32", full),
        ("fp16", half),
        ("fp16 in 4 bytes", full),
        ("fp32 in 2 bytes", half),
        ("none", brain),
        ("null", np.arange(3)),
    ]:
        assert not model[name].is_quantized
        exact(model[name].dequantize("source"), expected)


def test_layout_b_in_several_files_is_one_model(tmp_path: Path) -> None:
    for i in range(3):
        rows = [Row(f"w{i}", (2,), b"\x01\xff", quant_type="int8", scales=[2.0])]
        write_quantized_table(tmp_path / f"weights-{i}.parquet", rows)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.json").write_text("{}")
    model = opened(tmp_path)
    assert list(model) == ["w0", "w1", "w2"]
    assert [str(path) for path in model.other_files] == ["tokenizer/vocab.json"]
    exact(model["w2"].dequantize(), np.array([2, -2], np.float32))


@pytest.mark.parametrize("quant_type", ["int2", "int4", "int8"])
@pytest.mark.parametrize("diffusion", [False, True], ids=["C", "D"])
def test_one_byte_per_value_and_one_scale_is_per_tensor(
    tmp_path: Path, quant_type: str, diffusion: bool
) -> None:
    q = integers(5, 6)
    row = Row(
        "block.0/attn:q.weight",
        (5, 6),
        q.astype(np.uint8).tobytes(),
        quant_type=quant_type,
        scales=[0.03],
        zero_points=[127.5],
    )
    path = write_tensor_file(tmp_path, row, diffusion=diffusion)
    assert path.name == "block_0_attn_q_weight.parquet"
    model = opened(tmp_path)
    assert model.layout.startswith("D " if diffusion else "C ")
    tensor = model["block.0/attn:q.weight"]
    assert tensor.bit_width == int(quant_type[3:])
    exact(tensor.unpack(), q.astype(np.uint8))
    expected = (q.astype(np.float32) - np.float32(127.5)) * np.float32(0.03)
    exact(tensor.dequantize(), expected)


@pytest.mark.parametrize("groups", [1, 4, 7, 40])
def test_d1_and_d2_scales_belong_to_stretches_of_the_flattened_tensor(
    tmp_path: Path, groups: int
) -> None:
    q = integers(6, 5)
    scales, zero_points = scales_of(groups), scales_of(groups, seed=3) * 100
    row = Row(
        "w",
        (6, 5),
        q.astype(np.uint8).tobytes(),
        quant_type="int8",
        scales=scales,
        zero_points=zero_points,
        time_aware=time_groups(groups),
        modality="image",
    )
    write_tensor_file(tmp_path, row, diffusion=True)
    used = min(groups, q.size)
    block = -(-q.size // used)
    index = np.minimum(np.arange(q.size) // block, used - 1).reshape(q.shape)
    expected = (q.astype(np.float32) - zero_points[index]) * scales[index]
    exact(opened(tmp_path)["w"].dequantize(), expected)


@pytest.mark.parametrize(("shape", "group_size"), [((6, 4, 3), 2), ((7, 5), 3), ((4, 2), 1)])
@pytest.mark.parametrize(
    ("diffusion", "equalized"),
    [(False, False), (True, False), (True, True)],
    ids=["C", "D3", "D3-equalized"],
)
def test_d3_and_c_scales_belong_to_groups_of_rows(
    tmp_path: Path, shape: tuple[int, ...], group_size: int, diffusion: bool, equalized: bool
) -> None:
    q = integers(*shape)
    group = np.arange(shape[0]) // group_size
    scales = scales_of(int(group.max()) + 1)
    zero_points = scales_of(scales.size, seed=5) * 10
    factors = scales_of(shape[0], seed=6) * 20 if equalized else np.ones(shape[0], np.float32)
    row = Row(
        "w",
        shape,
        q.astype(np.uint8).tobytes(),
        quant_type="int4",
        scales=scales,
        zero_points=zero_points,
        group_size=group_size,
        spatial=spatial([float(f) for f in factors] if equalized else ()),
        activation={"mean": [0.5], "std": [1.0], "min": [None], "max": [2.0]},
    )
    write_tensor_file(tmp_path, row, diffusion=diffusion)
    columns = (slice(None), *[None] * (len(shape) - 1))
    expected = (q.astype(np.float32) - zero_points[group][columns]) * scales[group][columns]
    exact(opened(tmp_path)["w"].dequantize(), expected * factors[columns])


def test_a_list_of_thousands_of_scales_is_read_whole(tmp_path: Path) -> None:
    q = integers(5000, 3)
    scales, zero_points = scales_of(5000), scales_of(5000, seed=4)
    data = q.astype(np.uint8).tobytes()
    row = Row("w", (5000, 3), data, quant_type="int8", scales=scales, zero_points=zero_points)
    row.group_size = 1
    write_tensor_file(tmp_path, row, data_page_size=1000)
    expected = (q.astype(np.float32) - zero_points[:, None]) * scales[:, None]
    exact(opened(tmp_path)["w"].dequantize(), expected)


def test_a_scale_per_row_without_a_group_size_is_per_channel(tmp_path: Path) -> None:
    q = integers(3, 8)
    row = Row("w", (3, 8), q.astype(np.uint8).tobytes(), quant_type="int8", scales=[1, 2, 3])
    write_tensor_file(tmp_path, row)
    expected = q.astype(np.float32) * np.array([[1], [2], [3]], np.float32)
    exact(opened(tmp_path)["w"].dequantize(), expected)


def test_where_both_parameters_are_set_the_number_of_scales_decides(tmp_path: Path) -> None:
    q = integers(6, 4)
    shared = {"quant_type": "int8", "group_size": 2, "spatial": spatial()}
    data = q.astype(np.uint8).tobytes()
    for name, count in [("time", 5), ("rows", 3)]:
        row = Row(name, (6, 4), data, scales=scales_of(count), time_aware=time_groups(5), **shared)
        write_tensor_file(tmp_path, row, diffusion=True)
    model = opened(tmp_path)
    time = scales_of(5)[np.minimum(np.arange(24) // 5, 4)].reshape(6, 4)
    exact(model["time"].dequantize(), q.astype(np.float32) * time)
    rows = scales_of(3)[np.arange(6) // 2][:, None]
    exact(model["rows"].dequantize(), q.astype(np.float32) * rows)


def test_parameters_that_are_not_enabled_are_as_good_as_absent(tmp_path: Path) -> None:
    q = integers(4, 4)
    row = Row("w", (4, 4), q.astype(np.uint8).tobytes(), quant_type="int8", scales=[1, 2])
    row.group_size = 2
    row.time_aware = {"enabled": False, "num_time_groups": 2}
    row.spatial = {"enabled": False, "equalization_scales": [9, 9, 9, 9]}
    write_tensor_file(tmp_path, row, diffusion=True)
    expected = q.astype(np.float32) * np.array([[1], [1], [2], [2]], np.float32)
    exact(opened(tmp_path)["w"].dequantize(), expected)


@pytest.mark.parametrize("diffusion", [False, True], ids=["C", "D4"])
def test_d4_rows_labelled_int_may_hold_raw_float32(tmp_path: Path, diffusion: bool) -> None:
    weights = gaussian(3, 5)
    row = Row("w", (3, 5), weights.tobytes(), quant_type="int4")
    write_tensor_file(tmp_path, row, diffusion=diffusion)
    tensor = opened(tmp_path)["w"]
    assert not tensor.is_quantized
    exact(tensor.dequantize(), weights)


@pytest.mark.parametrize("diffusion", [False, True], ids=["C", "D4"])
def test_d4_absent_weights_are_an_error_that_names_the_tensor(
    tmp_path: Path, diffusion: bool
) -> None:
    write_tensor_file(tmp_path, Row("there", (1,), b"\0\0\0\0"), diffusion=diffusion)
    path = write_tensor_file(
        tmp_path, Row("block.to_q.weight", (3, 5), b"", quant_type="int8"), diffusion=diffusion
    )
    with pytest.raises(MetadataError, match="weights are absent") as caught:
        open_quantized(tmp_path)
    assert caught.value.tensor == "block.to_q.weight"
    assert caught.value.path == str(path)


def test_d5_rows_without_quantization_are_inline_or_in_a_companion(tmp_path: Path) -> None:
    inline, beside = gaussian(3, 5), gaussian(4, 4, seed=1)
    write_tensor_file(tmp_path, Row("inline", (3, 5), inline.tobytes(), "float32"), diffusion=True)
    write_tensor_file(tmp_path, Row("out.proj", (4, 4), b"", "float32"), diffusion=True)
    (tmp_path / "out_proj.bin").write_bytes(beside.tobytes())
    model = opened(tmp_path)
    exact(model["inline"].dequantize(), inline)
    exact(model["out.proj"].dequantize(), beside)
    alone = opened(tmp_path / "out_proj.parquet")
    exact(alone["out.proj"].dequantize(), beside)


def test_a_zero_point_that_is_nan_or_null_is_none(tmp_path: Path) -> None:
    q = integers(2, 4)
    row = Row("w", (2, 4), q.astype(np.uint8).tobytes(), quant_type="int8", scales=[0.5, 0.25])
    row.zero_points = [float("nan"), None]
    row.group_size = 1
    write_tensor_file(tmp_path, row)
    tensor = opened(tmp_path)["w"]
    exact(tensor.dequantize(), q.astype(np.float32) * np.array([[0.5], [0.25]], np.float32))
    exact(tensor.zero_points, np.zeros(2, np.float32))


def test_the_forms_of_the_current_format_are_refused_with_what_to_do(tmp_path: Path) -> None:
    rows = [Row("w", (2,), b"\x01\xff", quant_type="int8", scales=[2.0])]
    write_quantized_table(tmp_path / "weights.parquet", rows)
    tensor = opened(tmp_path)["w"]
    for use in (lambda: tensor.chunks, lambda: tensor.params, tensor.as_int8):
        with pytest.raises(ConfigurationError, match="quantize the model again"):
            use()
    with pytest.raises(ConfigurationError, match="Must be 'lsb' or 'msb'"):
        open_quantized(tmp_path, "middle")


def test_dequantize_writes_into_the_array_it_is_given(tmp_path: Path) -> None:
    rows = [Row("w", (2,), b"\x01\xff", quant_type="int8", scales=[2.0])]
    write_quantized_table(tmp_path / "weights.parquet", rows)
    for kind in (np.float32, np.float16):
        out = np.zeros(2, kind)
        assert opened(tmp_path)["w"].dequantize(kind, out=out) is out
        exact(out, np.array([2, -2], kind))
