"""Models in the old layouts are planned, quantized, validated, exported and inspected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from old_layout_files import (
    Row,
    pack_int2,
    pack_int2_msb,
    spatial,
    time_groups,
    write_float_table,
    write_quantized_table,
    write_tensor_file,
)
from safetensors.numpy import load_file
from support import arrow_quant, cosine, gaussian, small_model, write_safetensors

from arrow_quant_v2 import (
    ArrowQuantV2,
    DiffusionQuantConfig,
    export_safetensors,
    load_quantized,
    open_quantized,
)
from arrow_quant_v2.artefact.old_layouts import OldModel, OldTensor
from arrow_quant_v2.errors import ConfigurationError, ModelNotFoundError

Array = npt.NDArray[Any]

WEIGHTS: dict[str, Array] = {
    "mid.attn.to_q.weight": gaussian(64, 256, seed=1),
    "mid.attn.to_q.bias": gaussian(64, seed=2),
    "mid.conv.weight": gaussian(32, 24, 3, 3, seed=3),
    "mid.attn.to_v.weight": gaussian(48, 160, seed=4),
}
POSITIONS = np.arange(7, dtype=np.int64)


def affine(array: Array, bits: int, axis: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Unsigned codes, scales and zero points by plain rounding, over all axes but the first."""
    low, high = array.min(axis, keepdims=True), array.max(axis, keepdims=True)
    scale = ((high - low) / (2**bits - 1)).astype(np.float32)
    zero = np.round(-low / scale).astype(np.float32)
    q = np.clip(np.round(array / scale) + zero, 0, 2**bits - 1)
    return q.astype(np.uint8), scale.reshape(-1), zero.reshape(-1)


def write_a(folder: Path) -> None:
    rows = [Row(name, array.shape, array.tobytes()) for name, array in WEIGHTS.items()]
    rows.append(Row("position_ids", (7,), POSITIONS.tobytes(), "torch.int64"))
    write_float_table(folder / "weights.parquet", rows)


def write_b(folder: Path) -> None:
    rows = []
    for i, (name, array) in enumerate(WEIGHTS.items()):
        if array.ndim == 1:
            rows.append(Row(name, array.shape, array.tobytes(), quant_type="fp32"))
            continue
        scale = np.abs(array).reshape(array.shape[0], -1).max(1) / 127
        q = np.round(array / scale.reshape(-1, *[1] * (array.ndim - 1))).astype(np.int8)
        row = Row(name, array.shape, q.tobytes(), quant_type="int8", scales=scale, quant_axis=0)
        if i == 3:  # and one in INT2, in groups of 32
            flat = array.reshape(-1, 32)
            step = np.abs(flat).max(1, keepdims=True) / 1.5
            q = np.clip(np.floor(flat / step), -2, 1).astype(np.int8)
            row = Row(name, array.shape, pack_int2(q), quant_type="int2", scales=step.reshape(-1))
            row.zero_points = [-0.5] * step.size
            row.group_size = 32
        rows.append(row)
    rows.append(Row("position_ids", (7,), POSITIONS.tobytes(), "torch.int64"))
    write_quantized_table(folder / "weights.parquet", rows)


def write_c(folder: Path) -> None:
    for name, array in WEIGHTS.items():
        if array.ndim == 1:
            write_tensor_file(folder, Row(name, array.shape, array.tobytes()))
            continue
        q, scale, zero = affine(array, 8, tuple(range(1, array.ndim)))
        row = Row(name, array.shape, q.tobytes(), quant_type="int8", scales=scale)
        row.zero_points, row.group_size = zero, 1
        write_tensor_file(folder, row)
    row = Row("position_ids", (7,), POSITIONS.tobytes(), "torch.int64")
    write_tensor_file(folder, row)


def write_d(folder: Path) -> None:
    for i, (name, array) in enumerate(WEIGHTS.items()):
        row = Row(name, array.shape, b"", "float32", modality="image")
        if array.ndim == 1:  # D5
            (folder / (name.replace(".", "_") + ".bin")).write_bytes(array.tobytes())
        elif i == 0:  # D2
            q, scale, zero = affine(array.reshape(8, -1), 4, (1,))
            row.data, row.scales, row.zero_points = q.tobytes(), scale, zero
            row.quant_type, row.time_aware = "int4", time_groups(8)
        elif i == 2:  # D3 with equalization
            factors = np.abs(array).reshape(32, -1).max(1).astype(np.float32)
            q, scale, zero = affine(array / factors[:, None, None, None], 8, (1, 2, 3))
            row.data, row.scales, row.zero_points = q.tobytes(), scale, zero
            row.quant_type, row.group_size = "int8", 1
            row.spatial = spatial([float(f) for f in factors])
        else:  # D4
            row.data, row.quant_type = array.tobytes(), "int2"
        write_tensor_file(folder, row, diffusion=True)


WRITERS = {"A": write_a, "B": write_b, "C": write_c, "D": write_d}


@pytest.fixture(params=sorted(WRITERS))
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def old(tmp_path: Path, layout: str) -> Path:
    folder = tmp_path / "old"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "vocab.json").write_text('{"a": 0}')
    metadata = {"modality": "image", "format": "parquet_v2_extended", "source": "somewhere"}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    WRITERS[layout](folder)
    return folder


def dequantized(model: Mapping[str, Any]) -> dict[str, Array]:
    return {name: np.asarray(tensor) for name, tensor in model.items()}


def same(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_an_old_model_is_planned_and_quantized_like_any_other(
    tmp_path: Path, old: Path, layout: str
) -> None:
    source = dequantized(open_quantized(old))
    quantizer = ArrowQuantV2(mode="diffusion")
    plan = quantizer.plan(old)
    assert plan.modality == "image"
    result = quantizer.quantize_diffusion_model(
        old, tmp_path / "new", DiffusionQuantConfig(bit_width=4, group_size=64)
    )
    assert result["modality"] == "image"
    assert ("column" in result["modality_reason"]) == (layout == "D")
    new = open_quantized(tmp_path / "new")
    assert not isinstance(new, OldModel)
    quantized = {name for name, tensor in new.items() if tensor.is_quantized}
    assert quantized == {name for name, array in WEIGHTS.items() if array.ndim > 1}
    for name, array in source.items():
        if name in quantized:
            assert cosine(array, new[name].dequantize()) > 0.99
        else:
            np.testing.assert_array_equal(np.asarray(new[name]), array)
    assert (tmp_path / "new" / "tokenizer" / "vocab.json").read_text() == '{"a": 0}'
    # What the old metadata.json says of the layout is no longer so.
    assert not (tmp_path / "new" / "metadata.json").exists()
    report = quantizer.validate_quality(old, tmp_path / "new")
    assert report["passed"], report["problems"]


def test_the_bytes_of_the_result_depend_on_neither_threads_nor_row_groups(tmp_path: Path) -> None:
    config = DiffusionQuantConfig(bit_width=4, modality="image")
    digests = set()
    for threads, rows in [(1, 10), (2, 1), (2, 100)]:
        folder = tmp_path / f"a{threads}{rows}"
        table = [Row(name, array.shape, array.tobytes()) for name, array in WEIGHTS.items()]
        write_float_table(folder / "weights.parquet", table, row_group_size=rows)
        config.num_threads = threads
        ArrowQuantV2().quantize_diffusion_model(folder, tmp_path / "new", config)
        tensors = open_quantized(tmp_path / "new")
        digests.add(b"".join(tensor.codes.tobytes() for tensor in tensors.values()))
    assert len(digests) == 1


def test_an_old_quantized_model_is_validated_against_its_original(
    tmp_path: Path, old: Path, layout: str
) -> None:
    original = {**WEIGHTS, "position_ids": POSITIONS}
    if layout == "D":
        del original["position_ids"]
    write_safetensors(tmp_path / "original" / "model.safetensors", original)
    report = ArrowQuantV2().validate_quality(tmp_path / "original", old, min_accuracy=0.85)
    assert report["problems"] == []
    assert report["passed"]
    stored = dequantized(open_quantized(old))
    for tensor in report["tensors"]:
        if tensor["name"] in WEIGHTS:
            expected = cosine(WEIGHTS[tensor["name"]], stored[tensor["name"]])
            assert tensor["cosine"] == pytest.approx(expected, abs=1e-6)
    if layout in ("C", "B"):
        assert report["min_cosine_similarity"] < 1


def test_validation_says_what_is_missing_extra_or_different(tmp_path: Path) -> None:
    write_c(tmp_path / "old")
    original = {**WEIGHTS, "position_ids": POSITIONS + 1, "more": gaussian(2)}
    del original["mid.attn.to_v.weight"]
    original["mid.conv.weight"] = original["mid.conv.weight"].reshape(32, 216)
    write_safetensors(tmp_path / "original" / "model.safetensors", original)
    report = ArrowQuantV2().validate_quality(tmp_path / "original", tmp_path / "old")
    assert not report["passed"]
    assert sorted(report["problems"]) == [
        "extra tensor 'mid.attn.to_v.weight'",
        "kept tensor 'position_ids' differs from the original",
        "missing tensor 'more'",
        "tensor 'mid.conv.weight' has another shape or dtype",
    ]


def test_an_old_denoiser_is_validated_against_the_pipeline_it_came_from(tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline"
    small_model(pipeline / "unet")
    small_model(pipeline / "vae")
    (pipeline / "model_index.json").write_text(
        json.dumps({"_class_name": "P", "unet": ["d", "U"], "vae": ["d", "V"]})
    )
    weights = load_file(pipeline / "unet" / "diffusion_pytorch_model.safetensors")
    kinds = {"float32": "torch.float32", "float16": "float16", "int64": "torch.int64"}
    rows = [Row(n, w.shape, w.tobytes(), kinds[w.dtype.name]) for n, w in weights.items()]
    write_float_table(tmp_path / "old" / "weights.parquet", rows)
    report = ArrowQuantV2().validate_quality(pipeline, tmp_path / "old")
    assert report["passed"]
    assert len(report["tensors"]) == len(weights)


def test_an_old_model_is_exported_and_what_was_exported_is_the_same_model(
    tmp_path: Path, old: Path
) -> None:
    export_safetensors(old, tmp_path / "exported")
    found = load_file(tmp_path / "exported" / "model.safetensors")
    same(found, dequantized(open_quantized(old)))
    assert (tmp_path / "exported" / "tokenizer" / "vocab.json").exists()
    half = export_safetensors(old, tmp_path / "half", dtype="float16")
    for name, array in load_file(half / "model.safetensors").items():
        quantized = isinstance(open_quantized(old)[name], OldTensor)
        assert array.dtype == (np.float16 if quantized else found[name].dtype)
    plan = ArrowQuantV2().plan(tmp_path / "exported")  # it still says what it is
    assert plan.modality == "image"


def test_export_unpacks_int2_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    q = np.random.default_rng(0).integers(-2, 2, (8, 16))
    row = Row("w", (8, 16), pack_int2_msb(q), quant_type="int2", scales=[0.5])
    write_quantized_table(tmp_path / "old" / "weights.parquet", [row])
    form = ("--format", "safetensors")
    run = arrow_quant("export", tmp_path / "old", tmp_path / "out", *form, "--int2-order", "msb")
    assert run.code == 0, run.err
    found = load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_array_equal(found["w"], q.astype(np.float32) * np.float32(0.5))
    with pytest.raises(ConfigurationError, match="Must be 'lsb' or 'msb'"):
        export_safetensors(tmp_path / "old", tmp_path / "out2", int2_order="big")


def test_a_pipeline_may_have_an_old_denoiser_beside_components_of_today(tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline"
    small_model(pipeline / "vae")
    write_b(pipeline / "unet")
    (pipeline / "unet" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    (pipeline / "model_index.json").write_text(
        json.dumps({"_class_name": "P", "unet": ["d", "U"], "vae": ["d", "V"]})
    )
    stored = dequantized(open_quantized(pipeline))
    result = ArrowQuantV2().quantize_diffusion_model(pipeline, tmp_path / "new")
    assert result["components"] == ["unet"]
    vae = Path("vae", "diffusion_pytorch_model.safetensors")
    for folder in (tmp_path / "new", export_safetensors(pipeline, tmp_path / "exported")):
        assert (folder / vae).read_bytes() == (pipeline / vae).read_bytes()
    unet = tmp_path / "exported" / "unet" / "diffusion_pytorch_model.safetensors"
    same(load_file(unet), stored)


def test_one_file_is_a_model_too(tmp_path: Path) -> None:
    write_a(tmp_path / "a")
    path = tmp_path / "a" / "weights.parquet"
    stored = dequantized(open_quantized(path))
    same(stored, {**WEIGHTS, "position_ids": POSITIONS})
    config = DiffusionQuantConfig(modality="image")
    ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "new", config)
    assert open_quantized(tmp_path / "new")["mid.conv.weight"].is_quantized
    quantized = ArrowQuantV2(mode="base").quantize(path, bit_width=8)
    assert cosine(WEIGHTS["mid.conv.weight"], quantized["mid.conv.weight"].dequantize()) > 0.999


def test_a_model_with_more_files_than_a_process_may_open_is_read(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    names = [f"blocks.{i}.to_q.weight" for i in range(120)]
    for i, name in enumerate(names):
        q = np.full((4, 4), i, np.uint8)
        write_tensor_file(tmp_path, Row(name, (4, 4), q.tobytes(), quant_type="int8", scales=[1.0]))
    used = len(list(Path("/proc/self/fd").iterdir()))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
        model = open_quantized(tmp_path)
        found = [float(model[name].dequantize()[0, 0]) for name in names]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == list(range(120))


def test_tensors_are_read_by_many_threads_at_once(tmp_path: Path) -> None:
    arrays = {f"w{i}": gaussian(32, 33, seed=i) for i in range(30)}
    rows = [Row(name, array.shape, array.tobytes()) for name, array in arrays.items()]
    write_float_table(tmp_path / "weights.parquet", rows)
    model = open_quantized(tmp_path)
    names = list(np.random.default_rng(0).permutation(list(arrays) * 8))
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda name: np.array_equal(np.asarray(model[name]), arrays[name]), names)
    assert all(found)


def test_an_old_model_runs_in_torch_as_ordinary_layers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    q, scale, zero = affine(WEIGHTS["mid.attn.to_q.weight"], 8, (1,))
    row = Row("weight", (64, 256), q.tobytes(), quant_type="int8", scales=scale)
    row.zero_points, row.group_size = zero, 1
    write_tensor_file(tmp_path, row)
    bias = WEIGHTS["mid.attn.to_q.bias"]
    write_tensor_file(tmp_path, Row("bias", (64,), bias.tobytes()))
    layer = load_quantized(tmp_path, module=torch.nn.Linear(256, 64))
    inputs = gaussian(3, 256, seed=9)
    expected = inputs @ np.asarray(open_quantized(tmp_path)["weight"]).T + bias
    found = layer(torch.from_numpy(inputs)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["A", "D"], indirect=True)
def test_inspect_names_the_layout_and_what_each_tensor_is(old: Path, layout: str) -> None:
    run = arrow_quant("inspect", old)
    assert run.code == 0, run.err
    assert f"{layout} (" in run.out
    assert "not recorded" in run.out
    facts = arrow_quant("inspect", old, "--json").json
    assert facts["layout"].startswith(f"{layout} (")
    assert facts["modality"] == "image"
    bits = {tensor["name"]: tensor["bit_width"] for tensor in facts["tensors"]}
    assert bits["mid.attn.to_q.weight"] == {"A": None, "D": 4}[layout]


def test_plan_validate_and_inspect_of_the_command_take_old_models(tmp_path: Path) -> None:
    write_b(tmp_path / "old")
    write_a(tmp_path / "original")
    run = arrow_quant("plan", tmp_path / "old", "--modality", "image")
    assert run.code == 0, run.err
    run = arrow_quant("validate", tmp_path / "original", tmp_path / "old", "--min-accuracy", "0.8")
    assert run.code == 0, run.err
    run = arrow_quant("inspect", tmp_path / "old", "--metadata", "--json")
    assert run.json[""]["layout"].startswith("B (")


def test_an_artefact_of_this_version_is_no_source_model_and_says_what_to_do(tmp_path: Path) -> None:
    small_model(tmp_path / "model")
    ArrowQuantV2().quantize_diffusion_model(tmp_path / "model", tmp_path / "new")
    with pytest.raises(ModelNotFoundError, match="already quantized by this version") as caught:
        ArrowQuantV2().quantize_diffusion_model(tmp_path / "new", tmp_path / "newer")
    assert "arrow-quant export" in caught.value.hint
