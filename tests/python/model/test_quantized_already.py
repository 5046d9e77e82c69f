"""Weights that are quantized already: scaled 8-bit floats are restored, the rest is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support import arrow_quant, gaussian, write_safetensors

from arrow_quant_v2 import ArrowQuantV2, ConfigurationError, DiffusionQuantConfig, open_quantized
from arrow_quant_v2.model import resolve

F8 = ml_dtypes.float8_e4m3fn
CONFIG = DiffusionQuantConfig(modality="image", calibration_samples=0, min_accuracy=0.0)


def scaled(
    shape: tuple[int, ...], scale: Any, kind: Any = F8, seed: int = 1
) -> tuple[Any, np.ndarray[Any, Any]]:
    """8-bit numbers, and the weights that they and their scales stand for."""
    stored = (gaussian(*shape, seed=seed) * 30).astype(kind)
    values = stored.astype(np.float32)
    factors = np.asarray(scale, np.float32)
    for axis, size in enumerate(shape[: factors.ndim]):
        if factors.shape[axis] not in (1, size):
            even = -(-size // factors.shape[axis])
            block = 128 if -(-size // 128) == factors.shape[axis] else even
            factors = np.repeat(factors, block, axis).take(range(size), axis)
    while factors.ndim and factors.ndim < len(shape):
        factors = factors[..., None]
    return stored, values * factors


def rows(count: int, *more: int) -> Any:
    return np.exp(gaussian(count, *more, seed=9)) / 100


SCALED = {
    "comfy-one": ("a.weight", (192, 64), ".scale_weight", np.float32(0.0021)),
    "comfy-one-in-a-list": ("a.weight", (192, 64), ".scale_weight", np.float32([0.0021])),
    "rows": ("a.weight", (192, 64), ".weight_scale", rows(192, 1)),
    "rows-flat": ("a.weight", (192, 64), ".weight_scale", rows(192)),
    "one": ("a.weight", (192, 64), ".weight_scale", np.float32(0.01)),
    "blocks": ("a.weight", (512, 384), ".weight_scale_inv", rows(4, 3)),
    "blocks-cut-short": ("a.weight", (448, 320), ".weight_scale_inv", rows(4, 3)),
    "groups-of-inputs": ("a.weight", (64, 256), ".weight_scale", rows(64, 2)),
    "experts": ("experts.up_proj", (4, 256, 128), "_scale_inv", rows(4, 2, 1)),
    "a-scale-of-each-expert": ("experts.up_proj", (4, 96, 128), "_scale", rows(4, 1, 1)),
    "convolution": ("a.weight", (64, 32, 3, 3), ".scale_weight", np.float32(0.5)),
    "bfloat16-scale": ("a.weight", (192, 64), ".weight_scale", rows(192, 1).astype("bfloat16")),
}


def keep(name: str) -> DiffusionQuantConfig:
    """Settings that keep one tensor as it is."""
    return DiffusionQuantConfig(
        modality="image", calibration_samples=0, layer_rules={name: "keep"}, min_accuracy=0.0
    )


def file_of(tmp_path: Path, case: str, kind: Any = F8) -> tuple[Path, str, Any]:
    name, shape, ending, scale = SCALED[case]
    stored, values = scaled(shape, np.asarray(scale), kind)
    key = name.removesuffix(".weight") + ending
    tensors = {
        name: stored,
        key: np.asarray(scale),
        "b.weight": gaussian(64, 64),
        "scaled_fp8": np.zeros(2, kind),
        "a.scale_input": np.float32(1.0),
        "a.input_scale": np.float32(1.0),
    }
    return write_safetensors(tmp_path / "m.safetensors", tensors), name, values


@pytest.mark.parametrize("kind", [F8, ml_dtypes.float8_e5m2], ids=["e4m3", "e5m2"])
@pytest.mark.parametrize("case", SCALED)
def test_scales_are_multiplied_in_and_gone(case: str, kind: Any, tmp_path: Path) -> None:
    path, name, values = file_of(tmp_path, case, kind)
    plan = ArrowQuantV2().plan(path, CONFIG)
    assert [tensor.name for tensor in plan.tensors] == [name, "b.weight"]
    with pytest.warns(UserWarning, match="1 scaled 8-bit weights are multiplied by their scales"):
        ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "out", keep(name))
    kept = open_quantized(tmp_path / "out")
    assert set(kept) == {name, "b.weight"}
    found = np.asarray(kept[name]).astype(np.float32)
    np.testing.assert_allclose(found, values, rtol=2**-8)
    with pytest.warns(UserWarning, match="scales"):
        ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "packed", CONFIG)
    packed = open_quantized(tmp_path / "packed")[name]
    restored = packed.dequantize().reshape(values.shape)
    assert ((restored - values) ** 2).sum() / (values**2).sum() < 0.05
    assert ArrowQuantV2().validate_quality(path, tmp_path / "packed")["passed"]


def test_a_folder_loses_the_setting_that_said_how_it_was_scaled(tmp_path: Path) -> None:
    stored, values = scaled((256, 128), rows(2, 1))
    root = tmp_path / "m"
    write_safetensors(
        root / "model.safetensors",
        {"model.a.weight": stored, "model.a.weight_scale_inv": rows(2, 1)},
    )
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    config = {"architectures": ["DreamModel"], "quantization_config": settings}
    (root / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="scaled"):
        ArrowQuantV2().quantize_diffusion_model(root, tmp_path / "out", CONFIG)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    run = arrow_quant("export", tmp_path / "out", tmp_path / "floats", "--format", "safetensors")
    assert run.code == 0, run.err
    from safetensors import safe_open

    with safe_open(tmp_path / "floats" / "model.safetensors", framework="np") as file:
        assert set(file.keys()) == {"model.a.weight"}
    assert values.shape == (256, 128)


def test_plain_8_bit_floats_stay_as_they_are(tmp_path: Path) -> None:
    stored, _ = scaled((64, 64), 1.0)
    path = write_safetensors(
        tmp_path / "m.safetensors", {"a.weight": stored, "scaled_fp8": np.zeros(0, F8)}
    )
    plan = ArrowQuantV2().plan(path, CONFIG)
    assert [(t.name, t.source_dtype) for t in plan.tensors] == [("a.weight", "F8_E4M3")]
    assert not resolve(path).components[0].scales


def u32(*shape: int) -> Any:
    return np.zeros(shape, np.int32)


FLOATS = {"norm.weight": gaussian(64), "proj.weight": gaussian(64, 64)}
QUANTIZED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "gptq": (
        {"a.qweight": u32(8, 64), "a.qzeros": u32(1, 8), "a.scales": gaussian(1, 64)},
        {},
        "GPTQ",
    ),
    "awq": (
        {"a.qweight": u32(64, 8), "a.qzeros": u32(1, 8), "a.scales": gaussian(1, 64)},
        {},
        "AWQ",
    ),
    "mlx": (
        {"a.weight": u32(64, 8), "a.scales": gaussian(64, 2), "a.biases": gaussian(64, 2)},
        {},
        "MLX",
    ),
    "bitsandbytes-4": (
        {"a.weight": np.zeros((2048, 1), np.uint8), "a.weight.absmax": gaussian(64)},
        {},
        "bitsandbytes",
    ),
    "bitsandbytes-8": (
        {"a.weight": np.zeros((64, 64), np.int8), "a.SCB": gaussian(64)},
        {},
        "bitsandbytes",
    ),
    "torchao": (
        {"a.weight": np.zeros((64, 64), np.int8), "a.weight_scale": gaussian(64, 1)},
        {},
        "torchao or compressed-tensors",
    ),
    "compressed-tensors": (
        {"a.weight_packed": u32(64, 8), "a.weight_scale": gaussian(64, 1)},
        {},
        "compressed-tensors",
    ),
    "nunchaku": (
        {"a.qweight": np.zeros((64, 32), np.int8), "a.wscales": gaussian(1, 64)},
        {},
        "nunchaku",
    ),
    "quanto": ({"a.weight._data": np.zeros((64, 64), np.int8)}, {}, "optimum-quanto"),
    "config-of-transformers": (
        {"model.a.weight": gaussian(64, 64)},
        {"quantization_config": {"quant_method": "hqq"}},
        "hqq",
    ),
    "config-without-a-method": (
        {"model.a.weight": gaussian(64, 64)},
        {"quantization_config": {"bits": 4}},
        "config.json",
    ),
}


@pytest.mark.parametrize("case", QUANTIZED)
def test_other_quantized_weights_are_refused_by_name_before_any_work(
    case: str, tmp_path: Path
) -> None:
    tensors, config, who = QUANTIZED[case]
    root = tmp_path / "m"
    write_safetensors(root / "model.safetensors", {**FLOATS, **tensors})
    (root / "config.json").write_text(json.dumps({"architectures": ["DreamModel"], **config}))
    for call in (
        lambda: ArrowQuantV2().plan(root, CONFIG),
        lambda: ArrowQuantV2().quantize_diffusion_model(root, tmp_path / "out", CONFIG),
    ):
        with pytest.raises(ConfigurationError, match="already quantized with") as caught:
            call()
        assert who in str(caught.value)
        assert "original weights" in caught.value.hint
    assert not (tmp_path / "out").exists()
    run = arrow_quant("plan", root)
    assert run.code == 2
    assert "already quantized with" in run.err


def test_base_mode_keeps_quantized_weights_as_they_are(tmp_path: Path) -> None:
    tensors, _, _ = QUANTIZED["mlx"]
    path = write_safetensors(tmp_path / "m.safetensors", tensors)
    found = ArrowQuantV2(mode="base").quantize(path)
    assert not any(tensor.is_quantized for tensor in found.values())
    np.testing.assert_array_equal(np.asarray(found["a.scales"]), tensors["a.scales"])


def test_a_gguf_file_is_told_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "flux-q4.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ConfigurationError, match="already quantized with GGUF"):
        ArrowQuantV2().plan(path, CONFIG)


def test_a_quantized_text_encoder_that_nobody_quantizes_is_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "m"
    write_safetensors(root / "unet" / "diffusion_pytorch_model.safetensors", FLOATS)
    (root / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    tensors, _, _ = QUANTIZED["bitsandbytes-8"]
    write_safetensors(root / "text_encoder" / "model.safetensors", tensors)
    (root / "text_encoder" / "config.json").write_text('{"architectures": ["T5EncoderModel"]}')
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "T5EncoderModel"],
    }
    (root / "model_index.json").write_text(json.dumps(index))
    assert ArrowQuantV2().plan(root, CONFIG).components == ("unet",)
    wanted = DiffusionQuantConfig(modality="image", components=("text_encoder",))
    with pytest.raises(ConfigurationError, match="bitsandbytes"):
        ArrowQuantV2().plan(root, wanted)


@pytest.mark.parametrize(
    "names",
    [
        ("to_q.base_layer.weight", "to_q.lora_A.default_0.weight", "to_q.lora_B.default_0.weight"),
        ("base_model.model.q.base_layer.weight", "base_model.model.q.lora_A.weight"),
    ],
)
def test_weights_with_an_adapter_inside_are_refused(names: Any, tmp_path: Path) -> None:
    path = write_safetensors(
        tmp_path / "m.safetensors", {**FLOATS, **{name: gaussian(64, 64) for name in names}}
    )
    with pytest.raises(ConfigurationError, match="carry an adapter") as caught:
        ArrowQuantV2().plan(path, CONFIG)
    assert "Fuse and unload the adapter first" in caught.value.hint


ADAPTERS = {
    "diffusers": ("unet.to_q.lora_A.weight", "unet.to_q.lora_B.weight"),
    "diffusers-old": ("unet.to_q.lora.down.weight", "unet.to_q.lora.up.weight"),
    "kohya": ("lora_unet_mid_to_q.lora_down.weight", "lora_unet_mid_to_q.lora_up.weight"),
    "peft": ("base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"),
    "lycoris": ("lora_unet_mid.hada_w1_a", "lora_unet_mid.hada_w1_b", "lora_unet_mid.alpha"),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_file_of_an_adapter_alone_is_told_for_what_it_is(kind: str, tmp_path: Path) -> None:
    tensors = {name: gaussian(16, 320) for name in ADAPTERS[kind]}
    path = write_safetensors(tmp_path / "lora.safetensors", tensors)
    with pytest.raises(ConfigurationError, match=r"this is an adapter \(LoRA\), not a model"):
        ArrowQuantV2().plan(path, CONFIG)
    plain = DiffusionQuantConfig(modality="image", min_accuracy=0.0)
    result = ArrowQuantV2(mode="base").quantize_model(path, tmp_path / "out", plain)
    assert result["bit_width"] == 4
    assert set(ArrowQuantV2(mode="base").quantize(path)) == set(tensors)
