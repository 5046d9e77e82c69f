"""Reading artefacts: the mapping, kept tensors, damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from support import gaussian, write_safetensors

from arrow_quant_v2 import (
    ArrowQuantError,
    ArrowQuantV2,
    DiffusionQuantConfig,
    QuantizedModel,
    ValidationError,
    open_quantized,
)


def test_an_artefact_is_a_mapping_in_source_order(
    unet: Path, unet_artefacts: dict[int, Path]
) -> None:
    model = open_quantized(unet_artefacts[4])
    source = safetensors.numpy.load_file(unet / "unet" / "diffusion_pytorch_model.safetensors")
    assert isinstance(model, QuantizedModel)
    assert set(model) == set(source)
    assert len(model) == len(source)
    assert "conv_in.weight" in model
    assert "absent" not in model
    with pytest.raises(KeyError):
        model["absent"]
    for name, tensor in model.items():
        assert tensor.name == name
        assert tensor.shape == source[name].shape
        assert tensor.source_dtype == "F32"
        if not tensor.is_quantized:
            assert np.asarray(tensor).tobytes() == source[name].tobytes()
    assert list(model.components) == ["unet"]
    assert model.components["unet"].name == "unet"
    assert model.metadata["modality"] == "image"
    assert model.metadata["time_aware_quant"]["enabled"] is False
    assert model.metadata["calibration"]["kind"] == "none"
    assert model.manifest["report"]["bit_width"] == 4
    assert str(unet_artefacts[4]) in repr(model)
    model.verify()


def test_stored_sizes_are_known_without_reading(unet_artefacts: dict[int, Path]) -> None:
    component = open_quantized(unet_artefacts[2]).components["unet"]
    sizes = component.stored_bytes
    for name, tensor in component.items():
        assert sizes[name] == tensor.nbytes


def test_several_components_prefix_their_names(tmp_path: Path) -> None:
    model = tmp_path / "pipeline"
    model.mkdir()
    (model / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],'
        ' "vae": ["diffusers", "AutoencoderKL"]}'
    )
    for name, cls in {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}.items():
        (model / name).mkdir()
        (model / name / "config.json").write_text(f'{{"_class_name": "{cls}"}}')
        write_safetensors(
            model / name / "diffusion_pytorch_model.safetensors",
            {"mid.weight": gaussian(64, 128, seed=len(name))},
        )
    config = DiffusionQuantConfig(components=["unet", "vae"])
    ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "both", config)
    both = open_quantized(tmp_path / "both")
    assert set(both) == {"unet/mid.weight", "vae/mid.weight"}
    assert both["vae/mid.weight"].name == "mid.weight"
    ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "one")
    assert set(open_quantized(tmp_path / "one")) == {"mid.weight"}
    kept = tmp_path / "one" / "vae" / "diffusion_pytorch_model.safetensors"
    assert kept.read_bytes() == (model / "vae" / kept.name).read_bytes()


def test_a_tensor_outlives_its_model(unet_artefacts: dict[int, Path]) -> None:
    tensor = open_quantized(unet_artefacts[4])["mid_block.attentions.0.to_q.weight"]
    assert tensor.dequantize().shape == (96, 96)


@pytest.mark.parametrize("share", [0.001, 0.25, 0.5, 0.75, 0.999])
def test_a_flipped_bit_never_goes_unnoticed(
    unet_artefacts: dict[int, Path], tmp_path: Path, share: float
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(unet_artefacts[2], copy)
    path = copy / "unet" / "weights.parquet"
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 0x10
    path.write_bytes(data)

    def read_all() -> None:
        model = open_quantized(copy)
        for tensor in model.values():
            np.asarray(tensor)
        model.verify()

    with pytest.raises(ArrowQuantError):
        read_all()


def test_missing_truncated_and_edited_files_are_damage(
    unet_artefacts: dict[int, Path], tmp_path: Path
) -> None:
    def damaged(name: str) -> Path:
        copy = tmp_path / name
        shutil.copytree(unet_artefacts[2], copy)
        return copy

    gone = damaged("gone")
    (gone / "unet" / "weights.parquet").unlink()
    with pytest.raises(ArrowQuantError):
        open_quantized(gone)
    short = damaged("short")
    path = short / "unet" / "weights.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValidationError):
        open_quantized(short)
    edited = damaged("edited")
    manifest = edited / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"image"', '"audio"'))
    with pytest.raises(ValidationError):
        open_quantized(edited)
    config = damaged("config")
    (config / "unet" / "config.json").write_text("{}")
    with pytest.raises(ValidationError):
        open_quantized(config).verify()
