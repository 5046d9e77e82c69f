"""Learned rounding: codes and scales move by descent, the format and everything else stay."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrated_unet import collect
from safetensors.numpy import load_file
from safetensors.torch import save_file
from support import ZOO_UNET, small_model
from tiny_models import dit_pipeline
from torch import nn

from arrow_quant_v2 import (
    ArrowQuantV2,
    CalibrationStatistics,
    ConfigurationError,
    DiffusionQuantConfig,
    QuantizationResult,
    load_quantized,
    open_quantized,
)
from arrow_quant_v2 import torch as arrow_torch
from arrow_quant_v2.config.settings import LEARNING
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.plan.model_plan import plan_model
from arrow_quant_v2.quantize import learned as learned_rounding
from arrow_quant_v2.torch import Batch, calibrate
from arrow_quant_v2.torch.compare.minibatches import distances, gathered, predict
from arrow_quant_v2.torch.learn.rounding import Learner, learn
from arrow_quant_v2.torch.learn.trainable_weight import SoftWeight
from arrow_quant_v2.torch.record.session import Session

pytestmark = pytest.mark.filterwarnings("ignore:one calibration run gave fewer")

ZOO_MODELS = ZOO_UNET.parent
FORMATS = [("two_level", 2), ("two_level", 4), ("fp16", 2), ("fp16", 4), ("residual_binary", 2)]

#: Few steps that still move codes.
SHORT = replace(LEARNING, iterations=20, judged_every=5, freedom=0.45, position_rate=0.005)


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dit_pipeline(tmp_path_factory.mktemp("models") / "dit")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned_rounding, "LEARNING", SHORT)


@dataclass(frozen=True)
class Made:
    """One model by the method that learning starts from, and learned."""

    auto: Path
    learned: Path
    start: QuantizationResult
    result: QuantizationResult
    seen: list[tuple[str, float]]


@pytest.fixture(scope="module")
def made(dit: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    seen: list[tuple[str, float]] = []
    start = quantized(dit, folder / "auto", method="auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned_rounding, "LEARNING", SHORT)
        result = ArrowQuantV2().quantize_diffusion_model(
            dit, folder / "learned", settings(), lambda *step: seen.append(step)
        )
    return Made(folder / "auto", folder / "learned", start, result, seen)


def settings(**values: object) -> DiffusionQuantConfig:
    given = {"bit_width": 2, "method": "learned", "calibration_samples": 10, "min_accuracy": 0.0}
    return DiffusionQuantConfig(**(given | values))


def quantized(model: StrPath, output: Path, **values: object) -> QuantizationResult:
    return ArrowQuantV2().quantize_diffusion_model(model, output, settings(**values))


def record(artefact: Path) -> dict[str, object]:
    found: dict[str, object] = open_quantized(artefact).metadata["learned_rounding"]
    return found


@pytest.mark.parametrize(("encoding", "bits"), FORMATS)
@pytest.mark.parametrize("shape", [(8, 100), (5, 3, 3, 3), (16, 256)])
def test_what_learns_is_what_is_stored(encoding: str, bits: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weight = 0.05 * rng.standard_normal(shape, dtype=np.float32)
    tensor = ArrowQuantV2(mode="base").quantize(
        weight, bit_width=bits, group_size=64, param_encoding=encoding
    )
    soft = SoftWeight(tensor, torch.from_numpy(weight), freedom=0.3)
    np.testing.assert_array_equal(soft().detach().numpy(), tensor.dequantize())
    assert soft.changed() == 0.0
    codes, params, _ = soft.stored()
    np.testing.assert_array_equal(codes, tensor.codes.reshape(-1))
    np.testing.assert_array_equal(params, tensor.params.reshape(-1))
    # Moved at random, the stored numbers still restore to what the model ran with.
    with torch.no_grad():
        soft.position += torch.randn(soft.position.shape)
        soft.scale *= 1 + 0.1 * torch.rand(soft.scale.shape)
        if soft.shift is not None:
            soft.shift += 0.1 * torch.randn(soft.shift.shape)
        soft.confine()
    assert soft.changed() > 0.1
    learned = tensor.packed.learned(*soft.stored(), "[]")
    restored = np.empty(weight.size, np.float32)
    learned.dequantize(restored, 0)
    np.testing.assert_allclose(restored, soft().detach().numpy().reshape(-1), rtol=2e-6, atol=1e-8)
    assert learned.info.method == "learned"


@pytest.mark.parametrize(("encoding", "bits"), FORMATS)
def test_descent_on_positions_lowers_an_output_error(encoding: str, bits: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(32, 128)
    inputs = torch.randn(256, 128) @ torch.randn(128, 128)
    tensor = ArrowQuantV2(mode="base").quantize(
        weight.numpy(), bit_width=bits, group_size=64, param_encoding=encoding
    )
    soft = SoftWeight(tensor, weight, freedom=0.3)

    def error() -> torch.Tensor:
        return (inputs @ (soft() - weight).T).square().mean()

    errors = [error().item()]
    optimizer = torch.optim.Adam(soft.parameters())
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 200)
        optimizer.zero_grad()
        error().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in soft.parameters())
        optimizer.step()
        soft.confine()
        errors.append(error().item())
    assert min(errors) < (0.9 if bits == 2 else 0.99) * errors[0]


def test_a_pipeline_learns_and_the_format_stays(dit: Path, made: Made) -> None:
    fractions = [fraction for _, fraction in made.seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert "learning the rounding" in {message for message, _ in made.seen}

    found = record(made.learned)
    assert found["enabled"] is True
    assert 0 < found["held_out_error_ratio"] < 1
    assert (found["states"], found["held_out_states"]) == (40, 10)
    assert made.result["bits_per_weight"] == made.start["bits_per_weight"]
    assert made.result["warnings"] == made.start["warnings"]

    one, two = open_quantized(made.auto), open_quantized(made.learned)
    two.verify()
    changed = 0
    for name in one:
        old, new = one[name], two[name]
        described = (old.encoding, old.bit_width, old.group_size, old.param_encoding, old.nbytes)
        assert described == (
            new.encoding,
            new.bit_width,
            new.group_size,
            new.param_encoding,
            new.nbytes,
        )
        if not old.is_quantized:
            np.testing.assert_array_equal(old.codes, new.codes)
            continue
        assert new.method == "learned"
        assert new.candidates[-1]["method"] == "learned"
        assert new.candidates[:-1] == old.candidates
        changed += int((old.dequantize() != new.dequantize()).sum())
    assert changed > 0
    validated = ArrowQuantV2().validate_quality(dit, made.learned, min_accuracy=0.1)
    assert validated["passed"], validated["problems"]


def test_the_same_seed_gives_the_same_bytes(dit: Path, made: Made, tmp_path: Path) -> None:
    quantized(dit, tmp_path / "again", num_threads=1)
    files = [
        path / "transformer" / "weights.parquet" for path in (made.learned, tmp_path / "again")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_start_is_kept_when_nothing_is_better(
    dit: Path, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = replace(LEARNING, iterations=2, judged_every=1, position_rate=0.0, scale_rate=0.0)
    monkeypatch.setattr(learned_rounding, "LEARNING", still)
    quantized(dit, tmp_path / "learned")
    found = record(tmp_path / "learned")
    assert (found["enabled"], found["best_iteration"]) == (False, 0)
    assert "no iterate was better" in str(found["reason"])
    one, two = open_quantized(made.auto), open_quantized(tmp_path / "learned")
    for name in one:
        np.testing.assert_array_equal(one[name].codes, two[name].codes)
        assert one[name].method == two[name].method
        assert one[name].output_nmse == two[name].output_nmse


def test_without_calibration_the_method_is_the_search(dit: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="method 'learned' needs calibration"):
        result = quantized(dit, tmp_path / "q", calibration_samples=0)
    assert {t.method for t in result.tensors if t.bit_width} == {"search"}


def test_statistics_of_a_model_that_does_not_run_give_the_start(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    (file,) = model.glob("*.safetensors")
    weights = load_file(file)
    plan = plan_model(model, settings(modality="image"))
    statistics = CalibrationStatistics(data="user")
    rng = np.random.default_rng(0)
    for tensor in plan.tensors:
        if tensor.bit_width is not None:
            weight = weights[tensor.name]
            number = statistics.add_input({tensor.name: weight})
            channels = weight[0].size
            statistics.add(number, rng.standard_normal((4 * channels, channels), np.float32))
    statistics.save(tmp_path / "stats")
    with pytest.warns(UserWarning, match="the rounding was not learned"):
        result = ArrowQuantV2().quantize_diffusion_model(
            model, tmp_path / "q", settings(modality="image"), statistics=tmp_path / "stats"
        )
    assert record(tmp_path / "q")["enabled"] is False
    assert str(tmp_path) not in json.dumps(record(tmp_path / "q"))
    assert "learned" not in {t.method for t in result.tensors}


class Denoiser(nn.Module):
    """A module of no library."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


class ForwardOnly(Denoiser):
    """The same, made for inference: no gradient gets in."""

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


def learned_module(network: nn.Module, folder: Path, *, held_out: bool = True) -> Path:
    """The artefact of a network of 64 inputs, calibrated and learned on noise."""
    torch.manual_seed(0)
    batches = [((torch.randn(32, 64),), {}, float(t)) for t in range(8)]
    if not held_out:
        batches = [
            Batch(a, k, t, held_out=torch.zeros(32, dtype=torch.bool)) for a, k, t in batches
        ]
    save_file(network.state_dict(), folder / "weights.safetensors")
    calibrate(network, batches, folder / "stats", time_aware=False)
    arrow_torch.quantize_learned(
        network,
        batches,
        folder / "weights.safetensors",
        folder / "q",
        settings(modality="image", layer_rules={"layers.*": 2}),
        statistics=folder / "stats",
    )
    return folder / "q"


def test_a_module_of_no_library_learns(tmp_path: Path) -> None:
    found = record(learned_module(Denoiser(), tmp_path))
    assert found["enabled"] is True
    assert 0 < found["held_out_error_ratio"] < 1


def test_a_module_without_gradients_keeps_the_start(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="not learned: gradients do not reach the weights"):
        artefact = learned_module(ForwardOnly(), tmp_path)
    assert record(artefact)["enabled"] is False
    opened = open_quantized(artefact)
    opened.verify()
    assert {opened[name].bit_width for name in opened if opened[name].is_quantized} == {2}


def test_a_module_without_judges_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no sample is held out to judge by"):
        learned_module(Denoiser(), tmp_path, held_out=False)
    assert not (tmp_path / "q").exists()


def test_a_callback_that_raises_leaves_nothing(dit: Path, tmp_path: Path) -> None:
    class EnoughError(Exception):
        pass

    def stop(message: str, fraction: float) -> None:
        if message == "learning the rounding" and fraction > 0.5:
            raise EnoughError

    with pytest.raises(EnoughError):
        ArrowQuantV2().quantize_diffusion_model(dit, tmp_path / "q", settings(), stop)
    assert list(tmp_path.iterdir()) == []


def test_layers_learn_in_turn_where_memory_is_short(dit: Path, made: Made) -> None:
    session = Session(dit, plan_model(dit, settings()))
    network, tape = session.network, session.recorded(10, 0)
    tensors = open_quantized(made.auto).components["transformer"]
    found = learn(network, tape, tensors, SHORT, max_memory_mb=1, progress=lambda m, f: None)
    assert found.iterations == SHORT.iterations
    assert found.ratio < 1.0
    assert all(p.requires_grad for p in network.parameters())


def test_predictions_of_a_trained_model_come_closer_on_new_states(tmp_path: Path) -> None:
    """The shipped text model at 2 bits, judged by what learning has not seen."""
    text = ZOO_MODELS / "text"
    config = settings(method="auto", calibration_samples=16)
    ArrowQuantV2().quantize_diffusion_model(text, tmp_path / "q", config)
    tensors = open_quantized(tmp_path / "q").components[""]
    plan = plan_model(text, config)
    session = Session(text, plan)
    network, tape, other = session.network, session.recorded(20, 1), session.recorded(8, 2)
    effort = replace(LEARNING, iterations=25, states_per_iteration=16, judged_every=25)
    found = learn(network, tape, tensors, effort, max_memory_mb=1024, progress=lambda m, f: None)
    assert found.ratio < 0.9

    def moved(weights: dict[str, np.ndarray]) -> float:
        own = {n: p.detach().clone() for n, p in network.named_parameters() if n in weights}
        with torch.no_grad():
            expected = [predict(network, batch) for batch in other]
            for name, parameter in network.named_parameters():
                if name in weights:
                    parameter.copy_(torch.from_numpy(weights[name]))
            pairs = zip(other, expected, strict=True)
            total = sum(float(distances(b, e, predict(network, b)).sum()) for b, e in pairs)
            for name, parameter in network.named_parameters():
                if name in own:
                    parameter.copy_(own[name])
        return total

    before, after = {}, {}
    for name, stored in found.weights.items():
        before[name] = tensors[name].dequantize()
        after[name] = np.empty(before[name].size, np.float32)
        tensors[name].packed.learned(*stored, "[]").dequantize(after[name], 0)
        after[name] = after[name].reshape(before[name].shape)
    assert moved(after) < 0.97 * moved(before)


@pytest.mark.default_calibration
def test_the_soft_network_predicts_what_the_artefact_does(unet: Path, tmp_path: Path) -> None:
    """Equalization, biases by time, every encoding: as load_quantized runs them."""
    statistics = collect(tmp_path / "stats")
    config = DiffusionQuantConfig(bit_width=2, group_size=64, min_accuracy=0.0)
    ArrowQuantV2().quantize_diffusion_model(unet, tmp_path / "q", config, statistics=statistics)
    tensors = open_quantized(tmp_path / "q").components["unet"]
    assert any(tensors[name].time_groups for name in tensors)
    plan = plan_model(unet, config)
    session = Session(unet, plan)
    network, tape = session.network, session.recorded(2, 3)
    soft = Learner(network, tensors, freedom=0.3)
    packed = load_quantized(tmp_path / "q").unet
    (batch,) = gathered([replace(b, held_out=None) for b in tape], held_out=False)
    with torch.no_grad():
        expected, found = predict(packed, batch), soft.predict(batch)
        assert not torch.allclose(found, predict(network, batch), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
