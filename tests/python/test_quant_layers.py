"""Packed layers compute what the ordinary layer does with the restored weight."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from quantized_layers import FORMATS, LAYERS, pair, quantized, relative_error  # noqa: E402

from arrow_quant_v2.torch import (  # noqa: E402
    Execution,
    PackedWeight,
    QuantEmbedding,
    QuantLinear,
    WeightFormat,
)
from arrow_quant_v2.torch.layers.quant_layers import quantized_layer  # noqa: E402
from arrow_quant_v2.torch.ops import cpu, library  # noqa: E402
from arrow_quant_v2.torch.ops.decode import Packed, decode, int8_values  # noqa: E402

nn = torch.nn

#: Results must not depend on how many threads share the work.
pytestmark = pytest.mark.usefixtures("torch_threads")


@pytest.fixture(autouse=True)
def same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("bits", "encoding"), FORMATS)
def test_a_layer_agrees_with_its_float_twin(kind: str, bits: int, encoding: str) -> None:
    layer, x = LAYERS[kind]()
    packed, twin = pair(layer, bits, encoding)
    with torch.no_grad():
        assert relative_error(packed(x), twin(x)) < 1e-6
        half = packed(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert relative_error(half, twin(x)) < 2e-2


@pytest.mark.parametrize(("bits", "encoding"), FORMATS)
@pytest.mark.parametrize("shape", [(5, 33), (64, 256), (3, 1), (7, 145)])
def test_plain_torch_decodes_what_the_engine_decodes(
    bits: int, encoding: str, shape: tuple[int, int]
) -> None:
    tensor = quantized(torch.randn(shape), bits, encoding, group=64)
    weight = PackedWeight.from_tensor(tensor)
    packed = Packed(*weight.arguments())
    expected = torch.from_numpy(tensor.dequantize())
    assert torch.equal(weight.dequantize(), expected)
    assert relative_error(decode(packed, torch.float32), expected) < 1e-6
    if encoding != "fp16":
        values, _ = tensor.as_int8()
        assert torch.equal(int8_values(packed), torch.from_numpy(values))
        assert torch.equal(library.expand_int8(*weight.arguments()), torch.from_numpy(values))


def test_a_weight_of_several_chunks_is_one_weight() -> None:
    first, second = (quantized(torch.randn(6, 96) * s) for s in (1.0, 300.0))
    a, b = (PackedWeight.from_tensor(t) for t in (first, second))
    table = torch.cat([a.chunks, b.chunks])
    table[1, 0] = 6
    assert table[0, 1] != table[1, 1], "the chunks must differ in scale for this test to see it"
    joined = {
        name: torch.cat([getattr(a, name), getattr(b, name)])
        for name in ("codes", "params", "row_scales")
    }
    fmt = WeightFormat((12, 96), 4, 32, "two_level", chunks=2)
    weight = PackedWeight(fmt, {**joined, "chunks": table})
    expected = torch.cat([a.dequantize(), b.dequantize()])
    assert torch.equal(weight.dequantize(), expected)
    assert relative_error(decode(Packed(*weight.arguments()), torch.float32), expected) < 1e-6
    rows = torch.tensor([11, 0, 6, 5])
    assert relative_error(QuantEmbedding(weight)(rows), expected[rows]) < 1e-6


@pytest.mark.parametrize(("bits", "encoding"), FORMATS)
def test_an_embedding_unpacks_the_rows_it_looks_up(bits: int, encoding: str) -> None:
    layer = nn.Embedding(50, 72)
    packed, twin = pair(layer, bits, encoding)
    ids = torch.randint(0, 50, (3, 4))
    assert relative_error(packed(ids), twin(ids)) < 1e-6
    assert packed(ids[:0]).shape == (0, 4, 72)
    with pytest.raises(TypeError, match="integer ids"):
        packed(ids.float())


@pytest.mark.parametrize("activation", ["none", "dynamic"])
@pytest.mark.parametrize("x", [torch.zeros(0, 75), torch.zeros(2, 0, 75), torch.ones(75)])
def test_empty_inputs_and_single_vectors_are_fine(activation: str, x: Any) -> None:
    packed, twin = pair(nn.Linear(75, 40), execution=Execution(activation))
    found = packed(x)
    assert found.shape == twin(x).shape
    assert found.numel() == 0 or relative_error(found, twin(x)) < 2e-2


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_spoils_its_own_token_and_no_other(bad: float, keep: bool) -> None:
    for activation in ("none", "dynamic"):
        packed, _ = pair(nn.Linear(75, 40), execution=Execution(activation, keep))
        x = torch.randn(4, 75)
        clean = packed(x)
        x[2, 3] = bad
        found = packed(x)
        assert not found[2].isfinite().any()
        keeps = [0, 1, 3]
        assert torch.equal(found[keeps], clean[keeps])


def test_inputs_that_do_not_fit_are_refused_with_what_was_expected() -> None:
    packed, _ = pair(nn.Linear(75, 40))
    with pytest.raises(TypeError, match="expected floating point"):
        packed(torch.ones(2, 75, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=r"expected input \[\.\.\., 75\], found \(2, 74\)"):
        packed(torch.ones(2, 74))
    with pytest.raises(RuntimeError, match=r"input is on meta, the weight on cpu"):
        packed(torch.ones(2, 75, device="meta"))
    conv, _ = pair(nn.Conv2d(6, 8, 3))
    with pytest.raises(RuntimeError, match=r"expected input \[batch, 6, \*2 sizes\]"):
        conv(torch.ones(2, 5, 9, 9))


def test_an_input_without_batch_or_contiguity_is_taken() -> None:
    conv, twin = pair(nn.Conv2d(6, 8, 3, padding=1))
    image = torch.randn(6, 9, 9)
    assert relative_error(conv(image), twin(image)) < 1e-6
    linear, twin = pair(nn.Linear(75, 40))
    x = torch.randn(75, 9, 2).transpose(0, 2)[:, ::2]
    assert not x.is_contiguous()
    assert relative_error(linear(x), twin(x)) < 1e-6
    dynamic, _ = pair(nn.Linear(75, 40), execution=Execution("dynamic"))
    assert torch.equal(dynamic(x), dynamic(x.contiguous()))


def test_a_layer_survives_copying_pickling_and_state_dicts() -> None:
    packed, _ = pair(nn.Linear(75, 40))
    x = torch.randn(3, 75)
    expected = packed(x)
    assert torch.equal(copy.deepcopy(packed)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(packed))(x), expected)
    other = QuantLinear(
        PackedWeight.empty(packed.weight.fmt, device="cpu"), torch.zeros(40), packed.execution
    )
    assert set(packed.state_dict()) == {
        "bias",
        "weight.codes",
        "weight.params",
        "weight.row_scales",
        "weight.chunks",
    }
    other.load_state_dict(packed.state_dict())
    assert torch.equal(other(x), expected)


def test_what_was_kept_of_a_weight_follows_when_the_weight_changes() -> None:
    first, _ = pair(nn.Linear(64, 64), execution=Execution("dynamic", keep_int8=True))
    second, _ = pair(nn.Linear(64, 64), execution=Execution("dynamic", keep_int8=True))
    x = torch.randn(3, 64)
    assert not torch.equal(first(x), second(x))
    first.load_state_dict(second.state_dict())
    assert torch.equal(first(x), second(x))


def test_a_change_of_type_leaves_the_packed_numbers_alone() -> None:
    packed, _ = pair(nn.Linear(75, 40))
    x = torch.randn(3, 75)
    expected = packed(x)
    there_and_back = copy.deepcopy(packed).to(torch.bfloat16)
    assert there_and_back.weight.dtype == torch.bfloat16
    assert there_and_back.bias.dtype == torch.bfloat16
    there_and_back.bias = packed.bias
    assert torch.equal(there_and_back.float()(x), expected)
    assert packed.weight.dtype == torch.float32


def test_autocast_inference_mode_and_gradients_of_inputs_work() -> None:
    packed, twin = pair(nn.Linear(75, 40))
    x = torch.randn(3, 75)
    with torch.autocast("cpu", torch.bfloat16):
        assert packed(x).dtype == torch.bfloat16
        assert relative_error(packed(x), twin(x)) < 2e-2
    with torch.inference_mode():
        assert relative_error(packed(x), twin(x)) < 1e-6
    x.requires_grad_()
    packed(x).square().sum().backward()
    found, x.grad = x.grad, None
    twin(x).square().sum().backward()
    assert relative_error(found, x.grad) < 1e-5


@pytest.mark.parametrize("activation", ["none", "dynamic"])
def test_a_layer_can_be_exported(activation: str) -> None:
    execution = Execution(activation, keep_int8=True)
    linear, _ = pair(nn.Linear(75, 40), execution=execution)
    conv, _ = pair(nn.Conv2d(6, 8, 3, padding=1), execution=execution)
    for layer, x in ((linear, torch.randn(4, 75)), (conv, torch.randn(2, 6, 9, 9))):
        program = torch.export.export(layer, (x,))
        assert torch.equal(program.module()(x), layer(x))


def test_the_operators_pass_the_checks_of_torch() -> None:
    packed, _ = pair(nn.Linear(64, 40))
    weight, x = packed.weight.arguments(), torch.randn(3, 64)
    torch.library.opcheck(library.dequantize.default, (*weight, torch.float32))
    torch.library.opcheck(library.expand_int8.default, weight)
    torch.library.opcheck(library.linear_weight_only.default, (x, *weight, None))
    torch.library.opcheck(library.linear_int8.default, (x, *weight, None, None, False))
    ids = torch.tensor([1, 2])
    torch.library.opcheck(library.embedding.default, (ids, *weight, torch.float32))
    for shape, layer in (((2, 6, 9, 9), nn.Conv2d(6, 8, 3)), ((2, 6, 9), nn.Conv1d(6, 8, 3))):
        conv, _ = pair(layer)
        dims = len(shape) - 2
        moves = ([1] * dims, [0] * dims, [1] * dims, 1)
        arguments = (*conv.weight.arguments(), conv.kernel_size, None, None, *moves, True)
        torch.library.opcheck(library.conv_int8.default, (torch.randn(shape), *arguments))


def test_a_layer_that_computes_otherwise_has_no_stand_in() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Any) -> Any:
            return 2 * super().forward(x)

    weight = PackedWeight.from_tensor(quantized(torch.randn(8, 32)))
    assert quantized_layer(Doubled(32, 8), weight, Execution()) is None
    assert quantized_layer(nn.Embedding(8, 32, max_norm=1.0), weight, Execution()) is None
    assert quantized_layer(nn.LayerNorm(32), weight, Execution()) is None


def test_torch_functions_take_a_packed_weight_for_a_weight() -> None:
    packed, twin = pair(nn.Linear(75, 40))
    x = torch.randn(3, 75)
    found = nn.functional.linear(x, packed.weight, packed.bias)
    assert relative_error(found, twin(x)) < 1e-6


@pytest.mark.parametrize("activation", ["none", "dynamic"])
@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d", "conv2d strided", "conv3d"])
def test_equalized_weights_meet_divided_inputs(kind: str, activation: str) -> None:
    layer, x = LAYERS[kind]()
    channels = layer.weight.shape[1]
    factors = torch.linspace(0.25, 4.0, channels)
    shaped = factors.view(1, -1, *[1] * (layer.weight.dim() - 2))
    packed, twin = pair(layer, 8, "row", Execution(activation))
    twin.weight.div_(shaped)  # what the codes mean when the input is divided
    fmt = dataclasses.replace(packed.weight.fmt, equalized=channels)
    buffers = {**dict(packed.weight.named_buffers()), "equalization": factors.view(torch.int32)}
    packed.weight = PackedWeight(fmt, buffers)
    assert relative_error(packed.weight.dequantize(), twin.weight) < 1e-6
    assert relative_error(packed(x), twin(x)) < (1e-6 if activation == "none" else 0.02)
    packed.to(torch.bfloat16).float()
    assert torch.equal(packed.weight.factors(torch.float32), factors)


def test_what_is_kept_beside_a_weight_is_counted_and_goes_with_it() -> None:
    packed, _ = pair(nn.Linear(64, 64), execution=Execution("dynamic", keep_int8=True))
    codes = packed.weight.codes
    assert cpu.kept_bytes(codes) == 0
    packed(torch.randn(3, 64))
    assert cpu.kept_bytes(codes) >= 64 * 64
    kept = len(cpu._kept)
    del packed, codes
    assert len(cpu._kept) == kept - 1
