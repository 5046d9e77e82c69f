"""Mixed precision: bits for each layer by what its rounding does to the predictions."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT, arrow_quant
from tiny_models import dit_pipeline

from arrow_quant_v2 import (
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    QuantizationResult,
    open_quantized,
)

TEXT = ROOT / "zoo" / "models" / "text"
pytestmark = [
    pytest.mark.default_calibration,
    pytest.mark.filterwarnings("ignore:one calibration run gave fewer"),
]


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dit_pipeline(tmp_path_factory.mktemp("models") / "dit")


@pytest.fixture(scope="module")
def statistics(dit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from arrow_quant_v2.torch import capture

    path = tmp_path_factory.mktemp("statistics") / "dit.stats"
    capture(dit, path, settings())
    return path


def settings(**values: Any) -> DiffusionQuantConfig:
    values = {
        "calibration_samples": 5,
        "min_accuracy": 0.0,
        "group_size": 64,
        "num_threads": 1,
        **values,
    }
    return DiffusionQuantConfig(**values)


def quantize(model: Path, out: Path, **values: Any) -> QuantizationResult:
    statistics = values.pop("statistics", None)
    return ArrowQuantV2().quantize_diffusion_model(
        model, out, settings(**values), statistics=statistics
    )


def bits(result: QuantizationResult) -> dict[str, int | None]:
    return {layer["name"]: layer["bit_width"] for layer in result["mixed_precision"]["layers"]}


def codes(layer: dict[str, Any]) -> str:
    width, group = layer["bit_width"], layer["group_size"]
    return "8" if width == 8 else f"{width}g{group}"


def test_a_target_of_bits_is_met_recorded_and_explained(
    dit: Path, statistics: Path, tmp_path: Path
) -> None:
    result = quantize(dit, tmp_path / "q", target_bits=3.5, statistics=statistics)
    mixed = result["mixed_precision"]
    assert mixed["target"] == {"target_bits": 3.5}
    assert (mixed["measure"], mixed["measure_reason"]) == ("predictions", "")
    assert mixed["states"] == 40
    assert 3.0 < mixed["bits_per_weight"] <= 3.5
    assert None not in bits(result).values()
    assert result["bits_per_weight"] == pytest.approx(mixed["bits_per_weight"])
    assert result["layers_by_bit_width"] == {
        width: list(bits(result).values()).count(width) for width in set(bits(result).values())
    }
    assert len(result["layers_by_bit_width"]) > 1
    assert open_quantized(tmp_path / "q").manifest["report"]["mixed_precision"] == mixed
    stored = {tensor.name: tensor for tensor in result.tensors}
    for layer in mixed["layers"]:
        assert stored[layer["name"]].bit_width == layer["bit_width"]
        assert stored[layer["name"]].stored_bytes == layer["sizes"][codes(layer)]
        if layer["bit_width"] != 8:
            assert stored[layer["name"]].group_size == layer["group_size"]
        assert stored[layer["name"]].reason == layer["reason"]
        assert re.match(
            r"mixed: \S+ (takes|would take) [0-9.]+ kB more than \S+, for", layer["reason"]
        )
        assert layer["drifts"]["2g64"] > layer["drifts"]["4g64"] > layer["drifts"]["8"] > 0
        assert layer["drifts"]["keep"] == 0
        assert layer["sizes"].keys() == {"2g64", "2g32", "4g64", "8", "keep"}
    chosen = [layer["drifts"][codes(layer)] for layer in mixed["layers"]]
    assert mixed["predicted_drift"] == pytest.approx(sum(chosen))
    assert 0 < mixed["measured_drift"] < 3 * mixed["predicted_drift"]
    assert "target_bits 3.5, by predictions" in repr(result)


def test_the_plan_says_what_quantize_does(dit: Path, statistics: Path, tmp_path: Path) -> None:
    result = quantize(dit, tmp_path / "q", target_bits=3.5, statistics=statistics)
    plan = ArrowQuantV2().plan(dit, settings(target_bits=3.5), statistics=statistics)
    assert plan.mixed_precision is not None
    assert plan.mixed_precision.to_dict() == result["mixed_precision"]
    assert {t.name: t.bit_width for t in plan.tensors} == {
        t.name: t.bit_width for t in result.tensors
    }
    run = arrow_quant(
        *("plan", dit, "--all", "--target-bits", "3.5", "--stats", statistics),
        *("--group-size", "64"),
        *("--set", "calibration_samples=5"),
        env={"COLUMNS": "250"},
    )
    assert run.code == 0, run.err
    assert "target_bits 3.5, by predictions: drift" in run.out
    for layer in plan.mixed_precision.layers:
        row = next(line for line in run.out.splitlines() if layer.name in line)
        assert layer.reason in row


def test_sensitivities_are_what_replacing_one_weight_does(
    dit: Path, statistics: Path, tmp_path: Path
) -> None:
    """With codes of one width for a single layer, the measured drift is that layer's."""
    plan = ArrowQuantV2().plan(dit, settings(target_bits=3.5), statistics=statistics)
    assert plan.mixed_precision is not None
    layer = plan.mixed_precision.layers[3]
    names = [other.name for other in plan.mixed_precision.layers if other.name != layer.name]
    rules: dict[str, Any] = dict.fromkeys(names, "keep") | {layer.name: 2}
    bound = layer.drifts["2g64"]
    ArrowQuantV2().plan(
        dit, settings(layer_rules=rules, max_quality_loss=bound * 1.001), statistics=statistics
    )
    with pytest.raises(ConfigurationError, match=f"move the predictions by {bound:.4g}"):
        ArrowQuantV2().plan(
            dit, settings(layer_rules=rules, max_quality_loss=bound * 0.999), statistics=statistics
        )


def test_rules_of_the_user_win(dit: Path, statistics: Path, tmp_path: Path) -> None:
    rules = {"*.attn1.to_q.weight": 8, "*.attn1.to_k.weight": "keep", "*.ff.net.2.weight": 2}
    result = quantize(
        dit, tmp_path / "q", target_bits=4.0, layer_rules=rules, statistics=statistics
    )
    for tensor in result.tensors:
        for glob, wanted in rules.items():
            if tensor.name.endswith(glob[1:]):
                assert tensor.bit_width == (None if wanted == "keep" else wanted)
                assert tensor.reason == f"rule '{glob}'"
                assert tensor.name not in bits(result)
    # Bits that rules took are missing elsewhere.
    assert result["bits_per_weight"] <= 4.0


def test_a_target_of_size_is_met(dit: Path, statistics: Path, tmp_path: Path) -> None:
    uniform = quantize(dit, tmp_path / "uniform", bit_width=4, statistics=statistics)
    target = uniform["model_size_mb"] * 0.95
    result = quantize(dit, tmp_path / "q", target_size_mb=target, statistics=statistics)
    assert 0.8 * target < result["model_size_mb"] <= target
    assert not any("target_size_mb" in warning for warning in result["warnings"])


def test_the_smallest_model_within_a_quality_loss(
    dit: Path, statistics: Path, tmp_path: Path
) -> None:
    sizes = []
    for bound in (1e-4, 1e-1, 10.0):
        result = quantize(dit, tmp_path / str(bound), max_quality_loss=bound, statistics=statistics)
        mixed = result["mixed_precision"]
        assert mixed["measured_drift"] <= bound
        sizes.append(mixed["bits_per_weight"])
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 3
    assert set(bits(result).values()) == {2}
    with pytest.raises(ConfigurationError, match="leaves no layer to quantize"):
        quantize(dit, tmp_path / "exact", max_quality_loss=1e-14, statistics=statistics)


@pytest.mark.parametrize("name", ["target_bits", "target_size_mb"])
def test_an_unreachable_target_says_the_least_that_is_not(
    dit: Path, statistics: Path, tmp_path: Path, name: str
) -> None:
    low = {"target_bits": 2.0, "target_size_mb": 0.01}[name]
    with pytest.raises(ConfigurationError, match=f"{name} {low:g} cannot be reached") as caught:
        quantize(dit, tmp_path / "q", statistics=statistics, **{name: low})
    found = re.search(r"need ([0-9.]+) (bits per weight|MB)", str(caught.value))
    assert found is not None
    assert not (tmp_path / "q").exists()
    least = float(found[1])
    result = quantize(dit, tmp_path / "q", statistics=statistics, **{name: least})
    reached = {"target_bits": "bits_per_weight", "target_size_mb": "model_size_mb"}[name]
    assert result[reached] <= least
    with pytest.raises(ConfigurationError, match="cannot be reached"):
        quantize(dit, tmp_path / "r", statistics=statistics, **{name: least - 0.002})


def test_without_samples_weights_are_compared_and_quality_cannot_be_asked_for(
    dit: Path, tmp_path: Path
) -> None:
    result = quantize(dit, tmp_path / "q", target_bits=3.5, calibration_samples=0)
    mixed = result["mixed_precision"]
    assert (mixed["measure"], mixed["states"]) == ("weights", 0)
    assert mixed["measure_reason"] == "calibration_samples is 0"
    assert (mixed["predicted_drift"], mixed["measured_drift"]) == (None, None)
    assert result["bits_per_weight"] <= 3.5
    with pytest.raises(ConfigurationError, match="does not run: calibration_samples is 0"):
        quantize(dit, tmp_path / "r", max_quality_loss=0.1, calibration_samples=0)


def test_with_statistics_alone_outputs_of_layers_are_compared(
    dit: Path, statistics: Path, tmp_path: Path
) -> None:
    shutil.copytree(dit / "transformer", tmp_path / "alone")
    result = quantize(tmp_path / "alone", tmp_path / "q", target_bits=3.5, statistics=statistics)
    mixed = result["mixed_precision"]
    assert mixed["measure"] == "layer outputs"
    assert mixed["measure_reason"].startswith("expected a diffusers pipeline")
    assert result["bits_per_weight"] <= 3.5
    errors = {tensor.name: tensor.output_nmse for tensor in result.tensors}
    for layer in mixed["layers"]:
        assert layer["drifts"][codes(layer)] == errors[layer["name"]]


def test_a_missed_accuracy_adds_no_bits_to_a_target(
    dit: Path, statistics: Path, tmp_path: Path
) -> None:
    result = quantize(
        dit, tmp_path / "q", target_bits=3.0, min_accuracy=0.9999, statistics=statistics
    )
    assert not result["meets_min_accuracy"]
    assert result["bits_per_weight"] <= 3.0
    assert any(
        warning.startswith("mixed precision reached a cosine") for warning in result["warnings"]
    )


class StopError(Exception):
    """Of a callback."""


@pytest.mark.parametrize("step", ["running the model", "sensitivity of"])
def test_the_callback_hears_of_every_step_and_may_stop_it(
    dit: Path, statistics: Path, tmp_path: Path, step: str
) -> None:
    fractions: list[float] = []

    def callback(message: str, fraction: float) -> None:
        fractions.append(fraction)
        if message.startswith(step):
            raise StopError

    with pytest.raises(StopError):
        ArrowQuantV2().quantize_diffusion_model(
            dit, tmp_path / "q", settings(target_bits=3.5), callback, statistics=statistics
        )
    assert fractions == sorted(fractions)
    assert 0.1 < fractions[-1] < 0.7
    assert not (tmp_path / "q").exists()


def test_samples_of_the_user_are_run_on(dit: Path, tmp_path: Path) -> None:
    result = ArrowQuantV2().quantize_diffusion_model(
        dit, tmp_path / "q", settings(target_bits=3.5), calibration_data=iter([1, 2, 3])
    )
    assert result["mixed_precision"]["states"] == 40
    assert result["calibration"] == "user"


def test_with_a_target_the_bit_width_is_the_least() -> None:
    config = DiffusionQuantConfig(target_bits=3.0)
    assert (config.bit_width, config.explain()["bit_width"]) == (2, (2, "target_bits"))
    assert DiffusionQuantConfig(target_bits=5, bit_width=4).bit_width == 4
    assert DiffusionQuantConfig(target_bits=9, deployment_profile="cloud").bit_width == 2
    config = DiffusionQuantConfig(deployment_profile="cloud")
    config.max_quality_loss = 0.01
    assert config.bit_width == 2
    config.max_quality_loss = None
    assert config.bit_width == 8
    config.bit_width = 4
    config.target_bits = 5
    assert (config.bit_width, config.target) == (4, ("target_bits", 5.0))


def test_one_target_at_most(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="target_bits and max_quality_loss were both"):
        DiffusionQuantConfig(target_bits=3.0, max_quality_loss=0.1)
    config = DiffusionQuantConfig(target_bits=3.0)
    with pytest.raises(ConfigurationError, match="both given"):
        config.target_size_mb = 4.0
    assert config.target == ("target_bits", 3.0)
    for name, value in (("target_bits", 1.5), ("target_size_mb", -2.5), ("max_quality_loss", -0.1)):
        with pytest.raises(ConfigurationError, match=f"Invalid {name}: {value}. Must be"):
            DiffusionQuantConfig(**{name: value})
    with pytest.raises(ConfigurationError, match="target_bits is for models"):
        ArrowQuantV2().quantize(torch.ones(8, 64), bit_width=2, target_bits=3.0)


def test_mixed_bits_beat_uniform_ones_of_the_same_size_on_other_states(tmp_path: Path) -> None:
    """On the text model, by states of trajectories that neither of them saw."""
    from arrow_quant_v2.torch import capture

    capture(TEXT, tmp_path / "s", settings(calibration_samples=16))
    uniform = quantize(
        TEXT, tmp_path / "uniform", bit_width=2, group_size=32, statistics=tmp_path / "s"
    )
    target = uniform["bits_per_weight"]
    mixed = quantize(TEXT, tmp_path / "mixed", target_bits=target, statistics=tmp_path / "s")
    assert mixed["bits_per_weight"] <= target
    errors = [
        ArrowQuantV2().validate_quality(TEXT, tmp_path / name, level="outputs")["output_nmse"]
        for name in ("uniform", "mixed")
    ]
    assert errors[1] < errors[0]
