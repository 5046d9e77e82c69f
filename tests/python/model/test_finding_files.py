"""Weights are found wherever people's folders have them, and copies for others are left out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import gaussian, write_safetensors

from arrow_quant_v2 import (
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    ModelNotFoundError,
    open_quantized,
)
from arrow_quant_v2.model import resolve

CONFIG = DiffusionQuantConfig(modality="image", calibration_samples=0, min_accuracy=0.0)
NAME = "mid.to_q.weight"
OTHER = "mid.to_k.weight"


def weights(seed: int = 1, dtype: Any = np.float32) -> dict[str, Any]:
    return {
        NAME: gaussian(64, 128, seed=seed, dtype=dtype),
        OTHER: gaussian(64, 128, seed=seed + 100, dtype=dtype),
    }


def component(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    return folder


def text_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    return folder


def sharded(folder: Path, stem: str, variant: str, *, old: bool = False) -> None:
    """Two shards and their index, named as diffusers and transformers name variants."""
    dot = f".{variant}" if variant else ""
    names = []
    for number, (name, array) in enumerate(weights(7).items(), 1):
        part = f"-{number:05d}-of-00002"
        file = f"{stem}{part}{dot}.safetensors" if old else f"{stem}{dot}{part}.safetensors"
        write_safetensors(folder / file, {name: array})
        names.append((name, file))
    index = {"metadata": {"total_size": 2 * 64 * 128 * 4}, "weight_map": dict(names)}
    (folder / f"{stem}.safetensors.index{dot}.json").write_text(json.dumps(index))


def plain(folder: Path) -> None:
    write_safetensors(component(folder) / "diffusion_pytorch_model.safetensors", weights(7))


def fp16(folder: Path) -> None:
    write_safetensors(component(folder) / "diffusion_pytorch_model.fp16.safetensors", weights(7))


def bf16_of_transformers(folder: Path) -> None:
    write_safetensors(text_model(folder) / "model.bf16.safetensors", weights(7))


def both_precisions(folder: Path) -> None:
    fp16(folder)
    write_safetensors(
        folder / "diffusion_pytorch_model.fp16.safetensors", weights(1, dtype=np.float16)
    )
    plain(folder)


def averages_beside(folder: Path) -> None:
    plain(folder)
    write_safetensors(folder / "diffusion_pytorch_model.non_ema.safetensors", weights(2))


def sharded_variant(folder: Path) -> None:
    sharded(component(folder), "diffusion_pytorch_model", "fp16")


def sharded_variant_of_old_name(folder: Path) -> None:
    sharded(component(folder), "diffusion_pytorch_model", "fp16", old=True)


def sharded_text_variant(folder: Path) -> None:
    sharded(text_model(folder), "model", "fp16")


def shards_beside_one_file(folder: Path) -> None:
    sharded(component(folder), "diffusion_pytorch_model", "")
    write_safetensors(folder / "consolidated.safetensors", weights(2))


def unusual_name(folder: Path) -> None:
    write_safetensors(component(folder) / "unet_step_2000.safetensors", weights(7))


def copies_for_other_programs(folder: Path) -> None:
    plain(folder)
    for name in ("model.onnx", "model.onnx_data", "openvino_model.bin", "flax_model.msgpack"):
        (folder / name).write_bytes(b"foreign" * 100)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"foreign" * 100)
    (folder / "openvino_model.xml").write_text("<net/>")
    (folder / "optimizer.bin").write_bytes(b"foreign")


LAYOUTS = [
    plain,
    fp16,
    bf16_of_transformers,
    both_precisions,
    averages_beside,
    sharded_variant,
    sharded_variant_of_old_name,
    sharded_text_variant,
    shards_beside_one_file,
    unusual_name,
    copies_for_other_programs,
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_the_weights_are_found_quantized_and_compared(
    layout: Callable[[Path], None], tmp_path: Path
) -> None:
    layout(tmp_path / "m")
    quantizer = ArrowQuantV2()
    plan = quantizer.plan(tmp_path / "m", CONFIG)
    assert {tensor.name for tensor in plan.tensors} == {NAME, OTHER}
    with pytest.warns() if resolve(tmp_path / "m").notes else _no_warnings():
        quantizer.quantize_diffusion_model(tmp_path / "m", tmp_path / "out", CONFIG)
    found = open_quantized(tmp_path / "out")[NAME]
    error = np.abs(found.dequantize() - gaussian(64, 128, seed=7)).mean()
    assert error < 0.2, "these are other weights"
    assert quantizer.validate_quality(tmp_path / "m", tmp_path / "out")["passed"]
    files = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert not any(path.endswith((".onnx", ".onnx_data", ".bin", ".msgpack")) for path in files)
    assert not any("safetensors" in name for name in files)


def _no_warnings() -> Any:
    import contextlib

    return contextlib.nullcontext()


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    copies_for_other_programs(tmp_path / "m")
    (note,) = ArrowQuantV2().plan(tmp_path / "m", CONFIG).warnings
    assert note.startswith("left out, since no component reads them: flax_model.msgpack, ")
    assert "and 2 more" in note
    assert len(resolve(tmp_path / "m").foreign) == 7


def test_a_variant_can_be_asked_for_and_others_are_named(tmp_path: Path) -> None:
    both_precisions(tmp_path / "m")
    chosen = resolve(tmp_path / "m").components[0].weights
    asked = resolve(tmp_path / "m", variant="fp16").components[0].weights
    assert chosen is not None
    assert asked is not None
    assert (chosen.variant, asked.variant) == ("", "fp16")
    with pytest.raises(ModelNotFoundError, match=r"variant 'bf16', found '', 'fp16'"):
        resolve(tmp_path / "m", variant="bf16")


def test_a_missing_shard_of_a_variant_is_named(tmp_path: Path) -> None:
    sharded_variant(tmp_path / "m")
    (tmp_path / "m" / "diffusion_pytorch_model.fp16-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"missing shards: .*00002-of-00002") as caught:
        ArrowQuantV2().plan(tmp_path / "m", CONFIG)
    assert caught.value.exit_code == 3


def pipeline(root: Path, beside: bool = False) -> Path:
    root.mkdir(parents=True)
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    (root / "model_index.json").write_text(json.dumps(index))
    if beside:
        plain(root)
        (root / "scheduler_config.json").write_text('{"_class_name": "DDPMScheduler"}')
    else:
        plain(root / "unet")
        (root / "scheduler").mkdir()
        (root / "scheduler" / "scheduler_config.json").write_text("{}")
    return root


def test_weights_beside_model_index_become_a_component(tmp_path: Path) -> None:
    root = pipeline(tmp_path / "m", beside=True)
    result = ArrowQuantV2().quantize_diffusion_model(root, tmp_path / "out", CONFIG)
    assert result["components"] == ["unet"]
    files = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")}
    assert {"unet/config.json", "unet/weights.parquet", "scheduler/scheduler_config.json"} <= files
    assert "config.json" not in files
    assert ArrowQuantV2().validate_quality(root, tmp_path / "out")["passed"]


def test_a_pipeline_once_more_in_one_file_is_left_out_and_named(tmp_path: Path) -> None:
    root = pipeline(tmp_path / "m")
    write_safetensors(root / "all-in-one.safetensors", weights())
    with pytest.warns(UserWarning, match=r"left out.*all-in-one\.safetensors"):
        ArrowQuantV2().quantize_diffusion_model(root, tmp_path / "out", CONFIG)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_symlinked_component_is_read_where_it_leads(tmp_path: Path) -> None:
    root = pipeline(tmp_path / "m")
    (root / "unet").rename(tmp_path / "elsewhere")
    (root / "unet").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "model.onnx").write_bytes(b"x")  # so that a stand-in is made
    for path in (root, root / "unet"):
        plan = ArrowQuantV2().plan(path, CONFIG)
        assert [t.name for t in plan.tensors] == [NAME, OTHER]


def test_a_snapshot_of_a_hub_cache_is_a_folder_of_links(tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--tiny-unet"
    snapshot = repository / "snapshots" / ("0" * 40)
    fp16(tmp_path / "plain")
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted((tmp_path / "plain").iterdir())):
        blob = repository / "blobs" / f"{number:040x}"
        file.rename(blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    assert resolve(snapshot).name == "tiny-unet"
    with pytest.warns(UserWarning, match="variant fp16"):
        ArrowQuantV2().quantize_diffusion_model(snapshot, tmp_path / "out", CONFIG)
    assert set(open_quantized(tmp_path / "out")) == {NAME, OTHER}


def test_components_that_are_missing_are_named_and_the_plan_promises_nothing(
    tmp_path: Path,
) -> None:
    root = pipeline(tmp_path / "m")
    index = json.loads((root / "model_index.json").read_text())
    index |= {"vae": ["diffusers", "AutoencoderKL"], "safety_checker": [None, None]}
    (root / "model_index.json").write_text(json.dumps(index))
    assert resolve(root).missing == ("vae",)
    config = DiffusionQuantConfig(modality="image", calibration_samples=4)
    for path in (root, root / "unet"):
        plan = ArrowQuantV2().plan(path, config)
        assert plan.calibration == "none"
        assert plan.calibration_reason.endswith("components that are not there: vae")


@pytest.mark.parametrize(
    "text",
    [
        '{"_class_name": "UNet2DModel", "sigma_max": Infinity}',
        '{"_class_name": "UNet2DModel", "low": -Infinity, "rate": [NaN, 1.0]}',
        '{"_class_name": "UNet2DModel", "note": "NaN, \\"Infinity\\" and -Infinity"}',
    ],
)
def test_numbers_that_python_writes_into_json_are_accepted(text: str, tmp_path: Path) -> None:
    plain(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(text)
    ArrowQuantV2().quantize_diffusion_model(
        tmp_path / "m", tmp_path / "out", DiffusionQuantConfig(min_accuracy=0.0)
    )
    assert (tmp_path / "out" / "config.json").read_text() == text


def test_several_files_that_could_be_the_weights_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_safetensors(component(tmp_path / "m") / f"{name}.safetensors", weights())
    with pytest.raises(ModelNotFoundError, match=r"several weight files: a\.safetensors, b\."):
        ArrowQuantV2().plan(tmp_path / "m", CONFIG)


def test_an_output_inside_the_model_is_refused_for_every_layout(tmp_path: Path) -> None:
    fp16(tmp_path / "m")
    with pytest.raises(ConfigurationError, match="overlap"):
        ArrowQuantV2().quantize_diffusion_model(tmp_path / "m", tmp_path / "m" / "out", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_errors_speak_of_the_file_of_the_user(tmp_path: Path) -> None:
    fp16(tmp_path / "m")
    path = tmp_path / "m" / "diffusion_pytorch_model.fp16.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(Exception, match="data_offsets end at") as caught:
        ArrowQuantV2().plan(tmp_path / "m", CONFIG)
    assert str(caught.value).startswith(f"{path}: ")
