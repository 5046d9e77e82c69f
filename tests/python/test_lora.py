"""LoRA on packed layers: the product of the adapter is added beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from loaded_families import Family, distance  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from arrow_quant_v2 import (  # noqa: E402
    ArrowQuantV2,
    ConfigurationError,
)
from arrow_quant_v2.torch import QuantConv2d, QuantLinear  # noqa: E402

nn = torch.nn
RANK = 4
PIPELINES = ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux")


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    folder = tmp_path_factory.mktemp("families")
    return {name: Family.make(name, folder) for name in (*PIPELINES, "bert")}


@pytest.fixture(params=PIPELINES)
def family(request: pytest.FixtureRequest, families: dict[str, Family]) -> Family:
    return families[request.param]


def factors(module: Any, seed: int) -> Iterator[tuple[str, Any, Any]]:
    """Names of layers of a denoiser with the two factors of an adapter for each."""
    draw = torch.Generator().manual_seed(seed)

    def factor(*shape: int) -> Any:
        fan = int(np.prod(shape[1:]))
        return torch.randn(*shape, generator=draw) / fan**0.5

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and ("to_" in name or "ff" in name):
            yield name, factor(RANK, layer.in_features), factor(layer.out_features, RANK)
        elif isinstance(layer, nn.Conv2d) and "conv1" in name:
            down = factor(RANK, layer.in_channels, *layer.kernel_size)
            yield name, down, factor(layer.out_channels, RANK, 1, 1)


def adapter(module: Any, prefix: str, path: Path, seed: int = 0) -> Path:
    """A file with the names that diffusers and PEFT write."""
    tensors = {}
    for name, down, up in factors(module, seed):
        tensors[f"{prefix}.{name}.lora_A.weight"] = down
        tensors[f"{prefix}.{name}.lora_B.weight"] = up
    save_file(tensors, path)
    return path


def kohya_adapter(module: Any, path: Path) -> Path:
    """A file with the names that the scripts of kohya write; alpha is half of the rank."""
    tensors = {}
    for name, down, up in factors(module, 0):
        layer = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{layer}.lora_down.weight"] = down
        tensors[f"{layer}.lora_up.weight"] = up
        tensors[f"{layer}.alpha"] = torch.tensor(RANK / 2)
    save_file(tensors, path)
    return path


def test_an_adapter_changes_the_output_as_in_the_float_pipeline(
    family: Family, tmp_path: Path
) -> None:
    floats, packed = family.original(), family.quantized()
    part = family.denoiser
    file = adapter(getattr(floats, part), part, tmp_path / "a.safetensors")
    before, plain = family.run(floats), family.run(packed)
    for pipeline in (floats, packed):
        pipeline.load_lora_weights(file, adapter_name="a")
    adapted = family.run(packed)
    expected = family.run(floats)
    assert distance(before, expected) > 10 * distance(before, plain), "the adapter does something"
    assert distance(adapted, expected) < 3 * distance(before, plain)
    packed.disable_lora()
    assert np.array_equal(family.run(packed), plain)
    packed.enable_lora()
    assert np.array_equal(family.run(packed), adapted)
    packed.unload_lora_weights()
    assert np.array_equal(family.run(packed), plain)


def test_several_adapters_have_weights_of_their_own(family: Family, tmp_path: Path) -> None:
    floats, packed = family.original(), family.quantized()
    part = family.denoiser
    before, plain = family.run(floats), family.run(packed)
    files = {
        name: adapter(getattr(floats, part), part, tmp_path / f"{name}.safetensors", seed)
        for seed, name in enumerate(("a", "b"))
    }
    for name, file in files.items():
        floats.load_lora_weights(file, adapter_name=name)
        packed.load_lora_weights(file, adapter_name=name)
    outputs = []
    for weights in ([1.0, 0.0], [0.0, 1.0], [0.5, -0.25]):
        for pipeline in (floats, packed):
            pipeline.set_adapters(["a", "b"], weights)
        outputs.append(family.run(packed))
        assert distance(outputs[-1], family.run(floats)) < 3 * distance(before, plain)
    assert distance(outputs[0], outputs[1]) > 10 * distance(before, plain)
    packed.delete_adapters("a")
    packed.set_adapters("b")
    assert distance(family.run(packed), outputs[1]) < 1e-4


def test_convolutions_and_linear_layers_are_wrapped(
    families: dict[str, Family], tmp_path: Path
) -> None:
    packed = families["stable_diffusion"].quantized()
    packed.load_lora_weights(adapter(packed.unet, "unet", tmp_path / "a.safetensors"))
    wrapped = [
        layer for layer in packed.unet.modules() if isinstance(layer, peft.tuners.lora.LoraLayer)
    ]
    bases = {type(layer.base_layer) for layer in wrapped}
    assert {QuantConv2d, QuantLinear} <= bases
    products = {type(layer.lora_A["default_0"]) for layer in wrapped}
    assert products == {nn.Conv2d, nn.Linear}


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
def test_names_of_kohya_are_read(families: dict[str, Family], name: str, tmp_path: Path) -> None:
    family = families[name]
    floats, packed = family.original(), family.quantized()
    before, plain = family.run(floats), family.run(packed)
    file = kohya_adapter(floats.unet, tmp_path / "kohya.safetensors")
    for pipeline in (floats, packed):
        pipeline.load_lora_weights(file)
    expected = family.run(floats)
    assert distance(before, expected) > 5 * distance(before, plain)
    assert distance(family.run(packed), expected) < 3 * distance(before, plain)


@pytest.mark.parametrize("activation", ["none", "dynamic"])
def test_fusing_is_refused_and_changes_nothing(
    family: Family, activation: str, tmp_path: Path
) -> None:
    packed = family.quantized(activation=activation)
    part = family.denoiser
    plain = family.run(packed)
    packed.load_lora_weights(adapter(getattr(packed, part), part, tmp_path / "a.safetensors"))
    adapted = family.run(packed)
    with pytest.raises(ConfigurationError, match=r"cannot be changed.*fuse_lora") as refused:
        packed.fuse_lora()
    assert "without fusing" in str(refused.value)
    assert np.array_equal(family.run(packed), adapted)
    packed.unload_lora_weights()
    assert np.array_equal(family.run(packed), plain)


def test_restored_weights_can_be_fused(families: dict[str, Family], tmp_path: Path) -> None:
    family = families["stable_diffusion"]
    floats = family.quantized(compute="float")
    floats.load_lora_weights(adapter(floats.unet, "unet", tmp_path / "a.safetensors"))
    adapted = family.run(floats)
    floats.fuse_lora()
    assert distance(family.run(floats), adapted) < 1e-4


def test_a_file_quantized_in_base_mode_loads_again(
    families: dict[str, Family], tmp_path: Path
) -> None:
    family = families["stable_diffusion"]
    packed = family.quantized()
    file = adapter(packed.unet, "unet", tmp_path / "a.safetensors")
    plain = family.run(packed)
    packed.load_lora_weights(file, adapter_name="floats")
    expected = family.run(packed)
    packed.unload_lora_weights()
    tensors = ArrowQuantV2(mode="base").quantize(file, bit_width=8)
    packed.load_lora_weights(
        {name: torch.from_numpy(tensor.dequantize()) for name, tensor in tensors.items()}
    )
    found = family.run(packed)
    assert 0 < distance(found, expected) < 0.05 * distance(plain, expected)


def ids() -> Any:
    return torch.arange(3, 15).view(2, 6)


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(ids()).logits


@pytest.mark.parametrize("targets", [["query", "value", "dense"], "all-linear"])
def test_an_adapter_of_peft_on_a_text_model(
    families: dict[str, Family], targets: Any, tmp_path: Path
) -> None:
    floats = families["bert"].original()
    packed = families["bert"].quantized()
    before, plain = logits(floats), logits(packed)
    settings = peft.LoraConfig(r=RANK, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(floats, settings)
    adapted.save_pretrained(tmp_path / "adapter")
    found = peft.PeftModel.from_pretrained(packed, tmp_path / "adapter")
    error = (before - plain).abs().mean()
    expected = logits(adapted)
    assert (expected - before).abs().mean() > 10 * error
    assert (logits(found) - expected).abs().mean() < 3 * error
    with found.disable_adapter():
        assert torch.equal(logits(found), plain)
    with pytest.raises(ConfigurationError, match="merge_adapter"):
        found.merge_adapter()
    assert torch.equal(logits(found.unload()), plain)


def test_an_adapter_of_a_packed_model_learns(families: dict[str, Family], tmp_path: Path) -> None:
    settings = peft.LoraConfig(r=RANK, target_modules=["query"], init_lora_weights=False)
    gradients = []
    for model in (families["bert"].original(), families["bert"].quantized()):
        torch.manual_seed(0)
        adapted = peft.get_peft_model(model, settings)
        adapted(ids(), labels=ids()).loss.backward()
        learning = [p for p in adapted.parameters() if p.requires_grad]
        assert all(parameter.grad is not None for parameter in learning)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in learning]))
    expected, found = gradients
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_a_new_adapter_of_a_packed_model_is_saved_and_read_again(
    families: dict[str, Family], tmp_path: Path
) -> None:
    family = families["stable_diffusion"]
    packed = family.quantized()
    settings = peft.LoraConfig(r=RANK, target_modules=["to_q", "conv1"], init_lora_weights=False)
    packed.unet.add_adapter(settings, adapter_name="mine")
    expected = family.run(packed)
    packed.unet.save_lora_adapter(tmp_path / "mine", adapter_name="mine")
    again = family.quantized()
    (file,) = (tmp_path / "mine").iterdir()
    again.unet.load_lora_adapter(
        tmp_path / "mine", prefix=None, adapter_name="mine", weight_name=file.name
    )
    assert np.array_equal(family.run(again), expected)
