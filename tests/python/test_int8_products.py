"""Int8 products: exact integers inside, both scales outside, whatever the layer."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from quantized_layers import FORMATS, LAYERS, pair, relative_error  # noqa: E402

from arrow_quant_v2 import TimeGroup  # noqa: E402
from arrow_quant_v2.torch import Execution  # noqa: E402
from arrow_quant_v2.torch.layers.clock import Clock, timestep  # noqa: E402
from arrow_quant_v2.torch.layers.time_parameters import TimeParameters  # noqa: E402
from arrow_quant_v2.torch.ops import int8  # noqa: E402

nn = torch.nn

#: Results must not depend on how many threads share the work.
pytestmark = pytest.mark.usefixtures("torch_threads")

#: Layers that have an int8 product, and formats that have an int8 form.
KINDS = [kind for kind in LAYERS if "transposed" not in kind and "reflect" not in kind]
INT8_FORMATS = [(bits, encoding) for bits, encoding in FORMATS if encoding != "fp16"]


@pytest.fixture(autouse=True)
def same_numbers_every_time() -> None:
    torch.manual_seed(0)


def rounded(x: Any, dims: tuple[int, ...], scale: Any = None) -> Any:
    """The input as int8 activations stand for it, in float64."""
    if scale is None:
        scale = x.abs().amax(dim=dims, keepdim=True) / 127
    return (x / scale).round().clamp(-127, 127).double() * scale.double()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bits", "encoding"), INT8_FORMATS)
def test_the_only_error_is_the_rounding_of_the_input(
    kind: str, bits: int, encoding: str, keep: bool
) -> None:
    layer, x = LAYERS[kind]()
    packed, twin = pair(layer, bits, encoding, Execution("dynamic", keep))
    dims = (-1,) if isinstance(layer, nn.Linear) else tuple(range(1, x.dim()))
    expected = twin.double()(rounded(x, dims))
    assert relative_error(packed(x), expected) < 1e-6
    half = x.to(torch.bfloat16)
    expected = twin(rounded(half.float(), dims))
    assert relative_error(packed(half), expected) < 1e-2


def test_samples_do_not_influence_each_other() -> None:
    conv, _ = pair(nn.Conv2d(6, 8, 3), execution=Execution("dynamic", True))
    x = torch.randn(3, 6, 9, 9) * torch.tensor([1.0, 100.0, 1e-3]).view(3, 1, 1, 1)
    together = conv(x)
    for i in range(3):
        assert torch.equal(conv(x[i : i + 1]), together[i : i + 1])


def test_all_zero_tokens_give_the_bias() -> None:
    linear, _ = pair(nn.Linear(64, 8), execution=Execution("dynamic", True))
    assert torch.equal(linear(torch.zeros(2, 64)), linear.bias.expand(2, 8))


def test_fp16_parameters_have_no_int8_form_and_stay_weight_only() -> None:
    linear, twin = pair(nn.Linear(64, 8), 4, "fp16", Execution("dynamic", True))
    assert linear.activation == "none"
    x = torch.randn(2, 64)
    assert relative_error(linear(x), twin(x)) < 1e-6


def group(begin: float, end: float, scale: float, gain: Any = None, zero: float = 0.0) -> TimeGroup:
    return TimeGroup(begin, end, scale, zero, gain, None if gain is None else gain * 0.5)


def static_linear(groups: list[TimeGroup]) -> tuple[Any, Any]:
    packed, twin = pair(nn.Linear(64, 8, bias=False), execution=Execution("static", True))
    packed.time_parameters = TimeParameters.from_groups(groups, Clock())
    return packed, twin.double()


def test_static_scales_follow_the_diffusion_time() -> None:
    packed, twin = static_linear([group(0, 400, 0.01), group(600, 1000, 0.05)])
    x = torch.randn(4, 3, 64)
    for t, scale in ((0, 0.01), (499.9, 0.01), (500, 0.05), (999, 0.05), (5000, 0.05)):
        with timestep(t):
            expected = twin(rounded(x, (-1,), torch.tensor(scale)))
            assert relative_error(packed(x), expected) < 1e-6


def test_each_sample_of_a_batch_may_be_at_its_own_time() -> None:
    packed, twin = static_linear([group(0, 500, 0.01), group(500, 1000, 0.05)])
    x = torch.randn(4, 3, 64)
    scale = torch.tensor([0.05, 0.05, 0.01, 0.01]).view(4, 1, 1)
    with timestep(torch.tensor([900.0, 10.0])):  # two samples, two parts of each
        found = packed(x)
    assert relative_error(found, twin(rounded(x, (-1,), scale))) < 1e-6
    with timestep(torch.tensor([1.0, 2.0, 3.0])), pytest.raises(RuntimeError, match="one a sample"):
        packed(x)


def test_output_corrections_follow_the_diffusion_time() -> None:
    gains = torch.linspace(0.5, 2.0, 8).numpy()
    packed, twin = static_linear([group(0, 500, 0.02, gains), group(500, 1000, 0.02, 2 * gains)])
    x = torch.randn(2, 64)
    plain = twin(rounded(x, (-1,), torch.tensor(0.02)))
    gain = torch.from_numpy(gains).double()
    with timestep(600):
        assert relative_error(packed(x), plain * 2 * gain + gain) < 1e-6
    with timestep(torch.tensor([600.0, 100.0])):
        factor = torch.tensor([[2.0], [1.0]]).double() * gain
        assert relative_error(packed(x), plain * factor + factor / 2) < 1e-6


@pytest.mark.parametrize("kind", ["linear", "conv2d", "conv2d reflect", "conv2d transposed"])
@pytest.mark.parametrize("activation", ["none", "dynamic"])
def test_biases_of_a_time_are_those_of_the_layer_and_more(kind: str, activation: str) -> None:
    layer, x = LAYERS[kind]()
    packed, _ = pair(layer, execution=Execution(activation, True))
    plain = packed(x)
    rows = layer.bias.numel()
    biases = torch.randn(2, rows)
    groups = [TimeGroup(500 * i, 500 * i + 500, 0, 0, None, biases[i].numpy()) for i in (0, 1)]
    packed.time_parameters = TimeParameters.from_groups(groups, Clock())
    shape = (-1, *[1] * (x.dim() - 2)) if "conv" in kind else (-1,)
    for t, number in ((10, 0), (900, 1), (torch.full((len(x),), 900.0), 1)):
        with timestep(t):
            assert relative_error(packed(x), plain + biases[number].view(shape)) < 1e-6
    with timestep(torch.tensor([10.0] + [900.0] * (len(x) - 1))):
        found = packed(x)
    assert relative_error(found[0], plain[0] + biases[0].view(shape)) < 1e-6
    assert relative_error(found[1], plain[1] + biases[1].view(shape)) < 1e-6


def test_one_time_for_all_samples_is_one_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, twin = static_linear([group(0, 500, 0.01), group(500, 1000, 0.05)])
    monkeypatch.setattr(int8, "linear", None)  # the engine takes products with one scale
    x = torch.randn(4, 3, 64)
    with timestep(torch.full((4,), 700)):
        expected = twin(rounded(x, (-1,), torch.tensor(0.05)))
        assert relative_error(packed(x), expected) < 1e-6


def test_static_scales_without_a_time_are_an_error() -> None:
    packed, _ = static_linear([group(0, 500, 0.01), group(500, 1000, 0.05)])
    with pytest.raises(ValueError, match="which is not known"):
        packed(torch.randn(2, 64))


def test_codes_with_a_zero_point_stand_for_what_they_say() -> None:
    packed, twin = static_linear([group(0, 1000, 0.02, zero=-100.0)])
    x = torch.rand(4, 64) * 6 - 0.5  # a range that symmetric codes of this scale would cut off
    code = ((x / 0.02).round() - 100).clamp(-128, 127)
    with timestep(3):
        assert relative_error(packed(x), twin((code + 100).double() * 0.02)) < 1e-6


def test_groups_without_scales_correct_outputs_and_leave_inputs_as_they_are() -> None:
    packed, twin = static_linear([group(0, 1000, 0.0, torch.ones(8).numpy())])
    assert packed.activation == "none"
    assert packed.lacks_scales
    x = torch.randn(4, 64)
    with timestep(3):
        assert relative_error(packed(x), twin(x.double()) + 0.5) < 1e-6


def test_one_static_scale_for_all_times_needs_no_time() -> None:
    packed, twin = static_linear([group(0, 1000, 0.02)])
    assert packed.activation == "static"
    assert not packed.lacks_scales
    x = torch.randn(4, 64)
    assert relative_error(packed(x), twin(rounded(x, (-1,), torch.tensor(0.02)))) < 1e-6


def test_edges_that_change_are_seen() -> None:
    packed, twin = static_linear([group(0, 400, 0.01), group(600, 1000, 0.05)])
    x = torch.randn(2, 64)
    expected = [twin(rounded(x, (-1,), torch.tensor(scale))) for scale in (0.01, 0.05)]
    time = packed.time_parameters
    with timestep(450):
        assert relative_error(packed(x), expected[0]) < 1e-6
        time.edges.copy_(torch.tensor([100.0]).view(torch.int32))
        assert relative_error(packed(x), expected[1]) < 1e-6
        time.edges = torch.tensor([700.0]).view(torch.int32)
        assert relative_error(packed(x), expected[0]) < 1e-6
