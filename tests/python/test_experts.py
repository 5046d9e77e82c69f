"""Stacked experts, one tensor ``[experts, out, in]``, are as exact as the experts one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from format_reference import decode_file
from safetensors.numpy import load_file, save_file

from arrow_quant_v2 import (
    ArrowQuantV2,
    DiffusionQuantConfig,
    ModelPlan,
    export_safetensors,
    open_quantized,
)

Weights = dict[str, npt.NDArray[np.float32]]

EXPERTS = 4


def stacks(out: int = 96, inner: int = 160) -> Weights:
    """Experts whose outputs differ in size, as those of trained models do."""
    rng = np.random.default_rng(0)
    shapes = {"gate_up_proj": (EXPERTS, 2 * inner, out), "down_proj": (EXPERTS, out, inner)}
    return {
        f"layers.0.mlp.experts.{name}": (
            rng.standard_normal(shape) * np.exp(rng.standard_normal((*shape[:2], 1)))
        ).astype(np.float32)
        for name, shape in shapes.items()
    }


def one_by_one(weights: Weights) -> Weights:
    return {
        f"{name.replace('experts', f'experts.{number}')}.weight": weight
        for name, stack in weights.items()
        for number, weight in enumerate(stack)
    }


def config(bits: int, **settings: Any) -> DiffusionQuantConfig:
    return DiffusionQuantConfig(
        bit_width=bits, group_size=32, modality="text", calibration_samples=0, **settings
    )


def quantized(weights: Weights, folder: Path, bits: int) -> Path:
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    ArrowQuantV2().quantize_model(folder / "model.safetensors", folder / "out", config(bits))
    return folder / "out"


def restored(path: Path) -> Weights:
    return {name: t.dequantize() for name, t in open_quantized(path).components[""].items()}


def nmse(weights: Weights, found: Weights) -> float:
    pairs = [(weights[name], found[name]) for name in weights]
    return sum(float(((a - b) ** 2).sum()) for a, b in pairs) / sum(
        float((a**2).sum()) for a, _ in pairs
    )


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_error_of_a_stack_is_that_of_its_experts_one_by_one(tmp_path: Path, bits: int) -> None:
    weights = stacks()
    separate = one_by_one(weights)
    stacked_error = nmse(weights, restored(quantized(weights, tmp_path / "stacked", bits)))
    separate_error = nmse(separate, restored(quantized(separate, tmp_path / "separate", bits)))
    assert stacked_error == pytest.approx(separate_error, rel=0.01)
    if bits == 8:
        assert stacked_error < 1e-4


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_stack_is_read_in_its_own_shape_and_as_the_format_says(tmp_path: Path, bits: int) -> None:
    weights = stacks()
    out = quantized(weights, tmp_path / "model", bits)
    by_page = decode_file(out / "weights.parquet")
    for name, tensor in open_quantized(out).components[""].items():
        rows = weights[name].shape[0] * weights[name].shape[1]
        assert tensor.row_dimensions == 2
        assert tensor.shape == weights[name].shape
        assert tensor.codes.shape[0] == rows
        assert tensor.unpack().shape == weights[name].shape
        assert np.array_equal(tensor.dequantize(), by_page[name])
        if tensor.param_encoding != "fp16":
            matrix, scales = tensor.as_int8()
            assert matrix.shape == (rows, weights[name].shape[2])
            again = (matrix * scales[:, None]).reshape(tensor.shape)
            assert np.allclose(again, by_page[name], rtol=1e-6)


def test_a_stack_is_exported_in_its_own_shape_and_passes_validation(tmp_path: Path) -> None:
    out = quantized(stacks(), tmp_path / "model", 8)
    assert ArrowQuantV2().validate_quality(tmp_path / "model" / "model.safetensors", out)["passed"]
    export_safetensors(out, tmp_path / "floats")
    (file,) = (tmp_path / "floats").glob("*.safetensors")
    exported = load_file(file)
    for name, values in restored(out).items():
        assert np.array_equal(exported[name], values)


def planned(folder: Path) -> ModelPlan:
    return ArrowQuantV2().plan(folder, config(8))


def test_the_plan_says_which_stacks_have_their_inputs_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "mlp.experts.gate_up_proj": rng.standard_normal((4, 96, 320), np.float32),
        "mlp.experts.down_proj": rng.standard_normal((4, 160, 96), np.float32),
    }
    save_file(weights, tmp_path / "model.safetensors")
    for tensor in planned(tmp_path / "model.safetensors").tensors:
        assert (tensor.role, tensor.row_dimensions) == ("weights of experts, inputs first", 1)


torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def mixture(folder: Path, name: str, **settings: Any) -> Any:
    """A small model with stacked experts, saved with the names and shapes of its modules."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32,
        "num_experts_per_tok": 2, "tie_word_embeddings": False, **settings,
    }  # fmt: skip
    settings_of = getattr(transformers, f"{name}Config")(**sizes)
    model = getattr(transformers, f"{name}ForCausalLM")(settings_of).eval()
    model.save_pretrained(folder, save_original_format=False)
    return model


def qwen(folder: Path) -> Any:
    return mixture(folder, "Qwen3Moe", num_experts=4, moe_intermediate_size=48)


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.arange(24).view(2, 12)).logits


def relative_error(found: Any, expected: Any) -> float:
    return float((found - expected).norm() / expected.norm())


def test_the_modules_of_a_class_tell_its_stacks(tmp_path: Path) -> None:
    qwen(tmp_path / "qwen")
    found = {t.name: t for t in planned(tmp_path / "qwen").tensors}
    tensor = found["model.layers.1.mlp.experts.gate_up_proj"]
    assert (tensor.role, tensor.known_from) == ("weights of experts", "class")
    assert tensor.row_dimensions == 2
    assert tensor.planned_bytes == 4 * 96 * (64 + 2)


def test_a_class_with_transposed_experts_says_so(tmp_path: Path) -> None:
    mixture(tmp_path / "gpt", "GptOss", num_local_experts=4)
    found = {t.name: t for t in planned(tmp_path / "gpt").tensors}
    tensor = found["model.layers.1.mlp.experts.down_proj"]
    assert (tensor.role, tensor.known_from) == ("weights of experts, inputs first", "class")
    assert tensor.row_dimensions == 1
    assert found["model.layers.1.mlp.experts.down_proj_bias"].bit_width is None


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_loaded_mixture_keeps_its_experts_packed(tmp_path: Path, bits: int) -> None:
    from arrow_quant_v2 import load_quantized
    from arrow_quant_v2.torch.layers import PackedExperts

    original = qwen(tmp_path / "model")
    ArrowQuantV2().quantize_model(tmp_path / "model", tmp_path / "out", config(bits))
    packed = load_quantized(tmp_path / "out")
    floats = load_quantized(tmp_path / "out", compute="float")
    experts = [part for part in packed.modules() if isinstance(part, PackedExperts)]
    assert len(experts) == 4
    expected = logits(floats)
    assert relative_error(logits(packed), expected) < 1e-5
    assert relative_error(expected, logits(original)) < {8: 0.02, 4: 0.3, 2: 1.0}[bits]
    for implementation in ("batched_mm", "grouped_mm"):
        packed.set_experts_implementation(implementation)
        assert relative_error(logits(packed), expected) < 1e-5, implementation


def test_a_mixture_with_packed_experts_says_that_it_cannot_be_saved(tmp_path: Path) -> None:
    from arrow_quant_v2 import ConfigurationError, load_quantized

    qwen(tmp_path / "model")
    ArrowQuantV2().quantize_model(tmp_path / "model", tmp_path / "out", config(8))
    with pytest.raises(ConfigurationError, match="stacked experts"):
        load_quantized(tmp_path / "out").save_pretrained(tmp_path / "saved")


def test_only_experts_that_tokens_are_sent_to_are_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from arrow_quant_v2 import load_quantized
    from arrow_quant_v2.torch.layers import PackedExperts

    qwen(tmp_path / "model")
    ArrowQuantV2().quantize_model(tmp_path / "model", tmp_path / "out", config(4))
    packed = load_quantized(tmp_path / "out")
    sizes: list[torch.Size] = []
    restore = PackedExperts._expert
    monkeypatch.setattr(
        PackedExperts,
        "_expert",
        lambda self, number: sizes.append(self.shape) or restore(self, number),
    )
    monkeypatch.setattr(PackedExperts, "dequantize", lambda self, dtype=None: pytest.fail("all"))
    with torch.no_grad():
        packed(torch.tensor([[3]]))
    assert len(sizes) == 2 * 2 * 2  # layers, projections, experts of one token


def test_experts_in_several_chunks_are_restored_one_by_one() -> None:
    """A chunk has a power of two and an offset unit of its own."""
    from arrow_quant_v2.tensors.weight_format import WeightFormat
    from arrow_quant_v2.torch.layers import PackedExperts

    rng = np.random.default_rng(0)
    fmt = WeightFormat((5, 6, 64), 4, 32, "two_level", chunks=3, row_dimensions=2)
    buffers = {
        "codes": torch.from_numpy(rng.integers(0, 256, (30, 32), dtype=np.uint8)),
        "params": torch.from_numpy(rng.integers(0, 256, (30, 8), dtype=np.uint8)),
        "row_scales": torch.from_numpy(rng.uniform(1, 2, 30).astype(np.float16).view(np.int16)),
        "chunks": torch.tensor([[0, -3, 1], [7, -5, 4], [20, 2, 7]], dtype=torch.int32),
    }
    experts = PackedExperts(fmt, buffers)
    whole = experts.dequantize()
    assert whole.shape == (5, 6, 64)
    for number in range(5):
        assert torch.equal(experts[number], whole[number])
    assert torch.equal(experts[-1], whole[-1])
    ids = torch.tensor([4, 0, 4, 2])
    assert torch.equal(experts[ids], whole[ids])
    assert torch.equal(experts[1:3], whole[1:3])
    assert torch.equal(experts.transpose(1, 2), whole.transpose(1, 2))
    assert torch.equal(
        torch.bmm(torch.ones(5, 2, 6), experts), torch.bmm(torch.ones(5, 2, 6), whole)
    )
    with pytest.raises(IndexError, match="expert 5 of 5"):
        experts[5]


def test_layers_of_other_shapes_are_described_as_before() -> None:
    from arrow_quant_v2.tensors.weight_format import WeightFormat

    assert "row_dimensions" not in json.dumps(WeightFormat((4, 8), 8, 8, "row").to_dict())
    stack = WeightFormat((2, 4, 8), 8, 8, "row", row_dimensions=2)
    assert WeightFormat.from_dict(stack.to_dict()) == stack
