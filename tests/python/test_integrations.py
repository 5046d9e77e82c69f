"""diffusers and transformers load, make and save packed models through their own calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from quantized_layers import relative_error  # noqa: E402

import arrow_quant_v2.integrations.diffusers as in_diffusers  # noqa: E402
import arrow_quant_v2.integrations.transformers as in_transformers  # noqa: E402
from arrow_quant_v2 import (  # noqa: E402
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    export_packed,
    load_quantized,
    open_quantized,
)
from arrow_quant_v2.torch import PackedWeight  # noqa: E402


def packed_weights(model: Any) -> dict[str, PackedWeight]:
    return {n: m for n, m in model.named_modules() if isinstance(m, PackedWeight)}


def same_weights(model: Any, other: Any) -> None:
    found, expected = model.state_dict(), other.state_dict()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture(scope="module")
def exported(unet_artefacts: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_packed(unet_artefacts[4], tmp_path_factory.mktemp("packed") / "unet")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        vocab_size=99,
    )
    transformers.BertForMaskedLM(config).save_pretrained(folder / "float")
    settings = DiffusionQuantConfig(modality="text", bit_width=4, min_accuracy=0.0)
    ArrowQuantV2().quantize_diffusion_model(folder / "float", folder / "artefact", settings)
    export_packed(folder / "artefact", folder / "packed")
    return folder


def test_a_pipeline_loads_from_its_export(exported: Path, unet_artefacts: dict[int, Path]) -> None:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(exported, local_files_only=True)
    same_weights(pipeline.unet, load_quantized(unet_artefacts[4]).unet)
    assert packed_weights(pipeline.unet)
    images = pipeline(batch_size=1, num_inference_steps=2, output_type="np").images
    assert images.shape[0] == 1


def test_diffusers_saves_what_it_loaded(exported: Path, tmp_path: Path) -> None:
    unet = diffusers.UNet2DModel.from_pretrained(exported / "unet", local_files_only=True)
    unet.save_pretrained(tmp_path / "again")
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "again", local_files_only=True)
    same_weights(again, unet)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_diffusers_quantizes_while_it_loads(unet: Path, tmp_path: Path, dtype: Any) -> None:
    config = in_diffusers.ArrowQuantConfig(bits=8, quantization={"group_size": 64})
    model = diffusers.UNet2DModel.from_pretrained(
        unet / "unet", quantization_config=config, torch_dtype=dtype, local_files_only=True
    )
    settings = DiffusionQuantConfig(bit_width=8, group_size=64, min_accuracy=0.0)
    ArrowQuantV2().quantize_diffusion_model(unet, tmp_path / "q", settings)
    artefact = open_quantized(tmp_path / "q")
    quantized = {name for name, tensor in artefact.items() if tensor.is_quantized}
    assert set(packed_weights(model)) == quantized
    # The library turns weights into the wanted type before it hands them over.
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    for name, weight in packed_weights(model).items():
        expected = torch.from_numpy(artefact[name].dequantize())
        assert relative_error(weight.dequantize(torch.float32), expected) < tolerance
    assert model.conv_in.weight.dtype == dtype
    model.save_pretrained(tmp_path / "saved")
    again = diffusers.UNet2DModel.from_pretrained(
        tmp_path / "saved", torch_dtype=dtype, local_files_only=True
    )
    same_weights(again, model)


def test_a_pipeline_configuration_reaches_the_component(unet: Path) -> None:
    config = diffusers.PipelineQuantizationConfig(
        quant_mapping={"unet": in_diffusers.ArrowQuantConfig(bits=4)}
    )
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        unet, quantization_config=config, local_files_only=True
    )
    assert {weight.fmt.bit_width for weight in packed_weights(pipeline.unet).values()} == {4}


def test_int8_activations_can_be_asked_for(unet: Path) -> None:
    config = in_diffusers.ArrowQuantConfig(bits=8, activation="dynamic")
    model = diffusers.UNet2DModel.from_pretrained(
        unet / "unet", quantization_config=config, local_files_only=True
    )
    assert "activation=dynamic" in repr(model)
    with pytest.raises(ConfigurationError, match="Invalid activation"):
        in_diffusers.ArrowQuantConfig(activation="int4")
    with pytest.raises(ConfigurationError, match="Invalid bit_width"):
        in_diffusers.ArrowQuantConfig(bits=3)


def test_transformers_loads_the_export_and_saves_it(bert: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForMaskedLM.from_pretrained(bert / "packed")
    expected = load_quantized(bert / "artefact")
    same_weights(model, expected)
    ids = torch.randint(0, 99, (2, 7))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected(ids).logits)
    model.save_pretrained(tmp_path / "again")
    same_weights(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "again"), model)


def test_transformers_quantizes_on_load(bert: Path, tmp_path: Path) -> None:
    config = in_transformers.ArrowQuantConfig(bits=4)
    model = transformers.AutoModelForMaskedLM.from_pretrained(
        bert / "float", quantization_config=config
    )
    expected = load_quantized(bert / "artefact")
    assert set(packed_weights(model)) == set(packed_weights(expected))
    ids = torch.randint(0, 99, (2, 7))
    with torch.no_grad():
        assert relative_error(model(ids).logits, expected(ids).logits) < 1e-5
    model.save_pretrained(tmp_path / "saved")
    same_weights(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "saved"), model)


@pytest.mark.parametrize(
    ("library", "call"),
    [
        ("transformers", "AutoModelForMaskedLM.from_pretrained"),
        ("diffusers", "UNet2DModel.from_pretrained"),
    ],
)
def test_without_the_plug_in_loading_fails(
    bert: Path, exported: Path, library: str, call: str
) -> None:
    folder = bert / "packed" if library == "transformers" else exported / "unet"
    program = f"import {library}; {library}.{call}({str(folder)!r})"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert run.returncode != 0
    message = run.stderr.decode()
    assert "arrow_quant" in message


def test_a_newer_format_is_refused(exported: Path, tmp_path: Path) -> None:
    config = json.loads((exported / "unet" / "config.json").read_text())["quantization_config"]
    with pytest.raises(ConfigurationError, match="format version 2"):
        in_diffusers.ArrowQuantConfig(**{**config, "format_version": 2})
