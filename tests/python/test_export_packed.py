"""Exports for other runtimes hold exactly the numbers of the artefact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from support import arrow_quant, gaussian, small_model, write_safetensors

from arrow_quant_v2 import (
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    export_int8,
    export_packed,
    open_quantized,
)
from arrow_quant_v2.tensors.weight_format import WeightFormat, weight_arrays

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def restored(tensors: dict[str, Any], name: str) -> Any:
    scale = tensors.get(f"{name}_scale")
    value = tensors[name].astype(np.float32)
    return value if scale is None else value * scale


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_int8_weights_times_their_scales_are_the_weights_of_the_artefact(
    unet_artefacts: dict[int, Path], tmp_path: Path, bits: int
) -> None:
    exported = export_int8(unet_artefacts[bits], tmp_path / "e")
    found = safetensors.numpy.load_file(exported / WEIGHTS)
    tensors = open_quantized(unet_artefacts[bits])
    int8 = 0
    for name, tensor in tensors.items():
        if not tensor.is_quantized:
            assert found[name].tobytes() == tensor.codes.tobytes()
            continue
        np.testing.assert_array_equal(restored(found, name), tensor.dequantize())
        if tensor.param_encoding != "fp16":
            assert found[name].dtype == np.int8
            assert found[f"{name}_scale"].shape == (tensor.shape[0], *[1] * (len(tensor.shape) - 1))
            int8 += 1
    assert int8 > 20


def test_comfyui_gets_linear_layers_with_markers_and_floats_for_the_rest(tmp_path: Path) -> None:
    artefact = tmp_path / "q"
    settings = DiffusionQuantConfig(modality="image", min_accuracy=0.0, group_size=64)
    ArrowQuantV2().quantize_diffusion_model(small_model(tmp_path / "m"), artefact, settings)
    exported = export_int8(artefact, tmp_path / "e", comfyui=True)
    found = safetensors.numpy.load_file(exported / "diffusion_pytorch_model.safetensors")
    marker = json.loads(found["mid.attn.to_q.comfy_quant"].tobytes())
    assert marker == {"format": "int8_tensorwise"}
    assert found["mid.attn.to_q.weight"].dtype == np.int8
    assert found["mid.attn.to_q.weight_scale"].shape == (64, 1)
    assert found["mid.conv.weight"].dtype == np.float32
    assert "mid.conv.comfy_quant" not in found
    tensors = open_quantized(artefact)
    for name in ("mid.attn.to_q.weight", "mid.conv.weight"):
        np.testing.assert_array_equal(restored(found, name), tensors[name].dequantize())


def test_weights_without_an_int8_form_become_floats(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"a.weight": gaussian(32, 128)})
    settings = DiffusionQuantConfig(modality="image", param_encoding="fp16", min_accuracy=0.0)
    ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "q", settings)
    exported = export_int8(tmp_path / "q", tmp_path / "e")
    found = safetensors.numpy.load_file(exported / "model.safetensors")
    assert set(found) == {"a.weight"}
    expected = open_quantized(tmp_path / "q")["a.weight"].dequantize()
    np.testing.assert_array_equal(found["a.weight"], expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed_buffers_are_the_bytes_of_the_artefact(
    unet_artefacts: dict[int, Path], tmp_path: Path, bits: int
) -> None:
    exported = export_packed(unet_artefacts[bits], tmp_path / "e")
    found = safetensors.numpy.load_file(exported / WEIGHTS)
    config = json.loads((exported / "unet" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "arrow_quant"
    tensors = open_quantized(unet_artefacts[bits])
    for name, tensor in tensors.items():
        if tensor.is_quantized:
            fmt = WeightFormat.from_dict(config["layers"][name.removesuffix(".weight")])
            assert fmt.shape == tensor.shape
            for buffer, array in weight_arrays(tensor).items():
                np.testing.assert_array_equal(found[f"{name}.{buffer}"], array)
                assert found[f"{name}.{buffer}"].shape == fmt.buffers[buffer][1]
    size = (exported / WEIGHTS).stat().st_size
    assert size < 1.1 * (unet_artefacts[bits] / "unet" / "weights.parquet").stat().st_size


def test_a_lone_file_cannot_be_exported_packed(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"a.weight": gaussian(32, 128)})
    settings = DiffusionQuantConfig(modality="image", min_accuracy=0.0)
    ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "q", settings)
    with pytest.raises(ConfigurationError, match=r"no config\.json"):
        export_packed(tmp_path / "q", tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("form", ["packed", "int8", "comfyui"])
def test_the_command_exports(unet_artefacts: dict[int, Path], tmp_path: Path, form: str) -> None:
    run = arrow_quant("export", unet_artefacts[8], tmp_path / "e", "--format", form, "--json")
    assert run.code == 0, run.err
    assert run.json["format"] == form
    assert (tmp_path / "e" / WEIGHTS).is_file()
    wrong = arrow_quant(
        "export", unet_artefacts[8], tmp_path / "f", "--format", form, "--dtype", "float16"
    )
    assert wrong.code == 2
    assert "--format safetensors" in wrong.err


def test_torchao_runs_the_int8_export(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    quantization = pytest.importorskip("torchao.quantization")
    path = write_safetensors(tmp_path / "m.safetensors", {"a.weight": gaussian(64, 256)})
    settings = DiffusionQuantConfig(modality="image", bit_width=4, min_accuracy=0.0)
    ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "q", settings)
    exported = export_int8(tmp_path / "q", tmp_path / "e")
    found = safetensors.numpy.load_file(exported / "model.safetensors")
    layer = torch.nn.Linear(256, 64, bias=False)
    int8 = quantization.Int8Tensor(
        torch.from_numpy(found["a.weight"]),
        torch.from_numpy(found["a.weight_scale"]),
        [1, 256],
        torch.float32,
    )
    layer.weight = torch.nn.Parameter(int8, requires_grad=False)
    x = torch.randn(5, 256)
    weight = torch.from_numpy(open_quantized(tmp_path / "q")["a.weight"].dequantize())
    torch.testing.assert_close(layer(x), x @ weight.t(), rtol=1e-5, atol=1e-5)
