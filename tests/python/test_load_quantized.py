"""Artefacts load as the models they were made from, and those run packed."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from quantized_layers import relative_error  # noqa: E402
from support import small_model, write_safetensors  # noqa: E402

import arrow_quant_v2  # noqa: E402
from arrow_quant_v2 import (  # noqa: E402
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    ModelNotFoundError,
    ShapeMismatchError,
    load_quantized,
    open_quantized,
)
from arrow_quant_v2.torch import PackedWeight, QuantConv2d, QuantLinear  # noqa: E402

nn = torch.nn


def packed_weights(model: Any) -> list[PackedWeight]:
    return [module for module in model.modules() if isinstance(module, PackedWeight)]


def shape_of(unet: Any) -> tuple[int, int, int]:
    size = unet.config.sample_size
    return unet.config.in_channels, size, size


def inputs(unet: Any, batch: int = 2) -> Any:
    return torch.randn(batch, *shape_of(unet), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_pipeline_runs_as_its_float_twin(unet_artefacts: dict[int, Path], bits: int) -> None:
    packed = load_quantized(unet_artefacts[bits]).unet
    floats = load_quantized(unet_artefacts[bits], compute="float").unet
    assert not packed_weights(floats)
    x = inputs(packed)
    with torch.no_grad():
        for t in (0, torch.tensor([10, 900])):
            assert relative_error(packed(x, t).sample, floats(x, t).sample) <= 1e-5


def test_every_planned_layer_is_packed_and_takes_the_bytes_of_the_artefact(
    unet_artefacts: dict[int, Path],
) -> None:
    artefact = open_quantized(unet_artefacts[4])
    model = load_quantized(unet_artefacts[4]).unet
    weights = packed_weights(model)
    assert len(weights) == sum(tensor.is_quantized for tensor in artefact.values())
    stored = sum(tensor.nbytes for tensor in artefact.values() if tensor.is_quantized)
    held = sum(buffer.nbytes for weight in weights for buffer in weight.buffers())
    assert held <= 1.15 * stored
    assert any(isinstance(module, QuantConv2d) for module in model.modules())
    assert any(isinstance(module, QuantLinear) for module in model.modules())


def test_the_pipeline_samples(unet: Path, unet_artefacts: dict[int, Path]) -> None:
    from zoo.sampling import sample_images

    original = sample_images(unet, count=1, steps=3, seed=0)
    for settings in ({}, {"compute": "int8"}):
        images = sample_images(
            load_quantized(unet_artefacts[8], **settings), count=1, steps=3, seed=0
        )
        assert np.abs(images - original).mean() < 0.03


def test_the_evaluation_sees_the_loss_of_the_restored_weights(
    unet_artefacts: dict[int, Path],
) -> None:
    from zoo.evaluate.images import UNetSubject
    from zoo.evaluate.subject import Effort, Setting

    setting = Setting(Effort.smoke())
    packed, floats = (
        UNetSubject(load_quantized(unet_artefacts[4], compute=compute)).loss(setting)
        for compute in ("auto", "float")
    )
    np.testing.assert_allclose(packed.values, floats.values, rtol=1e-4)


@pytest.mark.parametrize("compute", ["packed", "int8"])
def test_int8_activations_stay_close(unet_artefacts: dict[int, Path], compute: str) -> None:
    floats = load_quantized(unet_artefacts[8], compute="float").unet
    int8 = load_quantized(unet_artefacts[8], activation="dynamic", compute=compute).unet
    x = inputs(int8)
    with torch.no_grad():
        assert 1e-4 < relative_error(int8(x, 500).sample, floats(x, 500).sample) < 0.05


def test_types_copies_pickles_and_state_dicts(unet_artefacts: dict[int, Path]) -> None:
    model = load_quantized(unet_artefacts[4]).unet
    x = inputs(model)
    with torch.inference_mode():
        expected = model(x, 5).sample
        assert torch.equal(copy.deepcopy(model)(x, 5).sample, expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x, 5).sample, expected)
        again = load_quantized(unet_artefacts[4]).unet
        for parameter in again.parameters():
            parameter.zero_()
        for weight in packed_weights(again):
            weight.codes.zero_()
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(x, 5).sample, expected)
        half = load_quantized(unet_artefacts[4], dtype=torch.bfloat16).unet
        assert half.dtype == torch.bfloat16
        assert relative_error(half(x.to(torch.bfloat16), 5).sample, expected) < 0.05
        with torch.autocast("cpu", torch.bfloat16):
            assert relative_error(model(x, 5).sample, expected) < 0.05
        assert torch.equal(
            half.to(torch.float32).to(torch.bfloat16).conv_in.weight, half.conv_in.weight
        )


def test_a_block_is_traced_whole(unet_artefacts: dict[int, Path]) -> None:
    block = load_quantized(unet_artefacts[4]).unet.mid_block
    channels = block.resnets[0].conv1.in_channels
    x = torch.randn(2, channels, 8, 8)
    embedding = torch.randn(2, block.resnets[0].time_emb_proj.in_features)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert relative_error(compiled(x, embedding), block(x, embedding)) < 1e-6


def test_a_transformers_model_loads(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        vocab_size=99,
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    settings = DiffusionQuantConfig(modality="text", bit_width=4, min_accuracy=0.0)
    ArrowQuantV2().quantize_diffusion_model(tmp_path / "bert", tmp_path / "q", settings)
    packed = load_quantized(tmp_path / "q")
    floats = load_quantized(tmp_path / "q", compute="float")
    assert isinstance(packed, transformers.BertForMaskedLM)
    assert packed.cls.predictions.decoder.weight is packed.bert.embeddings.word_embeddings.weight
    ids = torch.randint(0, 99, (3, 11))
    with torch.no_grad():
        found, expected = packed(ids).logits, floats(ids).logits
    assert relative_error(found, expected) <= 1e-5
    assert packed_weights(packed)


def test_a_module_of_ones_own_is_fitted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(96, 64), nn.GELU(), nn.TransformerEncoderLayer(64, 2, 128, batch_first=True)
    ).eval()
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    path = write_safetensors(tmp_path / "m.safetensors", weights)
    settings = DiffusionQuantConfig(modality="image", bit_width=8, min_accuracy=0.0)
    ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "q", settings)
    x = torch.randn(2, 5, 96)
    with torch.no_grad():
        original = module(x)
        with torch.device("meta"):
            empty = nn.Sequential(
                nn.Linear(96, 64),
                nn.GELU(),
                nn.TransformerEncoderLayer(64, 2, 128, batch_first=True),
            ).eval()
        loaded = load_quantized(tmp_path / "q", module=empty)
        assert loaded is empty
        assert relative_error(loaded(x), original) < 0.02
    with pytest.raises(ConfigurationError, match="load_quantized"):
        load_quantized(tmp_path / "q")


def test_the_wrong_module_is_refused(tmp_path: Path) -> None:
    artefact = tmp_path / "q"
    settings = DiffusionQuantConfig(modality="image", min_accuracy=0.0)
    ArrowQuantV2().quantize_diffusion_model(small_model(tmp_path / "m"), artefact, settings)
    with pytest.raises(ShapeMismatchError, match="tensors that the model has not"):
        load_quantized(artefact, module=nn.Linear(2, 2))
    layer = nn.ModuleDict(
        {"mid": nn.ModuleDict({"attn": nn.ModuleDict({"to_q": nn.Linear(3, 3)})})}
    )
    with pytest.raises(ShapeMismatchError):
        load_quantized(artefact, module=layer)


def test_arguments_that_contradict_each_other_are_refused(unet_artefacts: dict[int, Path]) -> None:
    path = unet_artefacts[4]
    for settings, message in (
        ({"compute": "fast"}, "Invalid compute"),
        ({"activation": "int8"}, "Invalid activation"),
        ({"activation": "none", "compute": "int8"}, "activation is 'none'"),
        ({"activation": "dynamic", "compute": "float"}, "no int8 activations"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            load_quantized(path, **settings)
    with pytest.raises(ModelNotFoundError):
        load_quantized(path.parent / "nothing-here")


def test_importing_the_package_leaves_torch_alone() -> None:
    program = "import sys, arrow_quant_v2; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert arrow_quant_v2.torch.timestep is not None
