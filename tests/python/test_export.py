"""Exports are directories that other libraries load, with the errors that `inspect` reports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from support import cosine, gaussian, nmse, write_safetensors

from arrow_quant_v2 import (
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    OutputError,
    ValidationError,
    export_safetensors,
    open_quantized,
)
from arrow_quant_v2.export import artefact_directory, safetensors_dir

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def quantized(path: Path, output: Path, **settings: Any) -> Path:
    config = DiffusionQuantConfig(modality="image", min_accuracy=0.0, **settings)
    ArrowQuantV2().quantize_diffusion_model(path, output, config)
    return output


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_diffusers_loads_and_samples_the_export(
    unet: Path, unet_artefacts: dict[int, Path], tmp_path: Path, bits: int
) -> None:
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    from zoo.sampling import sample_images

    exported = export_safetensors(unet_artefacts[bits], tmp_path / "exported")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(exported, local_files_only=True)
    tensors = open_quantized(unet_artefacts[bits])
    for name, parameter in pipeline.unet.state_dict().items():
        np.testing.assert_array_equal(parameter.numpy(), np.asarray(tensors[name]))
    images = sample_images(pipeline, count=1, steps=3, seed=0)
    assert np.isfinite(images).all()
    if bits == 8:
        original = sample_images(unet, count=1, steps=3, seed=0)
        assert np.abs(images - original).mean() < 0.02


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_errors_of_the_export_are_those_of_inspect(
    unet: Path, unet_artefacts: dict[int, Path], tmp_path: Path, bits: int
) -> None:
    exported = export_safetensors(unet_artefacts[bits], tmp_path / "exported", dtype="float32")
    source = safetensors.numpy.load_file(unet / WEIGHTS)
    found = safetensors.numpy.load_file(exported / WEIGHTS)
    tensors = open_quantized(unet_artefacts[bits])
    assert set(found) == set(source)
    for name, tensor in tensors.items():
        if tensor.is_quantized:
            assert nmse(source[name], found[name]) == pytest.approx(tensor.nmse, rel=1e-4)
            assert cosine(source[name], found[name]) == pytest.approx(tensor.cosine, abs=1e-6)
        else:
            assert found[name].tobytes() == source[name].tobytes()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16"), (None, None)],
)
def test_the_type_is_the_one_asked_for_or_the_one_it_was(
    tmp_path: Path, dtype: str | None, expected: str | None
) -> None:
    weights = {
        "a.weight": gaussian(32, 128),
        "b.weight": gaussian(32, 128, dtype=np.float16),
        "c.weight": gaussian(32, 128, dtype=ml_dtypes.bfloat16),
        "d.weight": gaussian(32, 128, dtype=ml_dtypes.float8_e4m3fn),
        "d.bias": gaussian(5, dtype=np.float16),
        "ids": np.arange(3, dtype=np.int64),
    }
    path = write_safetensors(tmp_path / "m.safetensors", weights)
    artefact = quantized(path, tmp_path / "q")
    exported = export_safetensors(artefact, tmp_path / "e", dtype=dtype)
    file = exported / "model.safetensors"
    length = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + length])
    found = {name: entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    own = {"a": "F32", "b": "F16", "c": "BF16", "d": "BF16"}
    for letter, source in own.items():
        assert found[f"{letter}.weight"] == (expected or source)
    assert found["d.bias"] == "F16"
    assert found["ids"] == "I64"
    tensors = open_quantized(artefact)
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    for name, value in load_file(file).items():
        values = tensors[name].dequantize() if tensors[name].is_quantized else None
        if values is None:
            assert value.numpy().tobytes() == weights[name].tobytes()
        else:
            reference = torch.from_numpy(values).to(value.dtype)
            assert torch.equal(value, reference)


def test_large_exports_are_sharded_with_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {f"l{i}.weight": gaussian(64, 128, seed=i) for i in range(5)}
    path = write_safetensors(tmp_path / "m.safetensors", weights)
    artefact = quantized(path, tmp_path / "q")
    monkeypatch.setattr(artefact_directory, "_SHARD_BYTES", 70_000)
    monkeypatch.setattr(safetensors_dir, "_BLOCK_WEIGHTS", 1000)  # several blocks a tensor
    exported = export_safetensors(artefact, tmp_path / "e")
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    assert index["metadata"]["total_size"] == 5 * 64 * 128 * 4
    tensors = open_quantized(artefact)
    for name, file in index["weight_map"].items():
        found = safetensors.numpy.load_file(exported / file)[name]
        np.testing.assert_array_equal(found, tensors[name].dequantize())
    again = quantized(exported, tmp_path / "again")  # and our own reader takes the shards
    assert set(open_quantized(again)) == set(weights)


def test_a_transformers_directory_is_exported_as_one(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=128,
        vocab_size=99,
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    text = DiffusionQuantConfig(modality="text", bit_width=8)
    ArrowQuantV2().quantize_diffusion_model(tmp_path / "bert", tmp_path / "q", text)
    exported = export_safetensors(tmp_path / "q", tmp_path / "e")
    loaded = transformers.BertForMaskedLM.from_pretrained(exported)
    tensors = open_quantized(tmp_path / "q")
    for name, parameter in loaded.state_dict().items():
        if name in tensors:
            expected = torch.from_numpy(np.array(np.asarray(tensors[name])))
            assert torch.equal(parameter, expected), name


def test_progress_goes_from_nothing_to_all(unet_artefacts: dict[int, Path], tmp_path: Path) -> None:
    seen: list[float] = []
    export_safetensors(
        unet_artefacts[4],
        tmp_path / "e",
        progress_callback=lambda message, fraction: seen.append(fraction),
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_a_failed_export_leaves_nothing(unet_artefacts: dict[int, Path], tmp_path: Path) -> None:
    def stop(message: str, fraction: float) -> None:
        if fraction > 0.5:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        export_safetensors(unet_artefacts[4], tmp_path / "e", progress_callback=stop)
    assert not list(tmp_path.iterdir())


def test_destinations_in_use_or_inside_are_refused(
    unet_artefacts: dict[int, Path], tmp_path: Path
) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        export_safetensors(unet_artefacts[4], used)
    with pytest.raises(OutputError, match="no folder"):
        export_safetensors(unet_artefacts[4], used / "file")
    with pytest.raises(OutputError, match="cannot be written"):
        export_safetensors(unet_artefacts[4], used / "file" / "below")
    with pytest.raises(ConfigurationError, match="contain each other"):
        export_safetensors(unet_artefacts[4], unet_artefacts[4] / "inside")
    with pytest.raises(ConfigurationError, match="contain each other"):
        export_safetensors(unet_artefacts[4], unet_artefacts[4].parent)
    with pytest.raises(ConfigurationError, match="Invalid dtype"):
        export_safetensors(unet_artefacts[4], tmp_path / "e", dtype="int8")
    assert [p.name for p in tmp_path.iterdir()] == ["used"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (export_safetensors(unet_artefacts[4], empty) / "model_index.json").is_file()


def test_a_damaged_artefact_is_not_exported(
    unet_artefacts: dict[int, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(unet_artefacts[4], copy)
    (copy / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(ValidationError):
        export_safetensors(copy, tmp_path / "e")
    assert not (tmp_path / "e").exists()
