"""Calibration in stages: later layers are quantized for what quantized ones before them put out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ZOO_UNET, arrow_quant, small_model
from tiny_models import dit_pipeline
from torch import nn

from arrow_quant_v2 import (
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    QuantizationResult,
    QuantizedModel,
    open_quantized,
)
from arrow_quant_v2 import _sequential as sequential
from arrow_quant_v2.config import JUDGING, SEQUENTIAL
from arrow_quant_v2.plan import plan_model
from arrow_quant_v2.torch.capture import record_tape
from arrow_quant_v2.torch.judge import Judge
from arrow_quant_v2.torch.quantized_network import replaced, restored
from arrow_quant_v2.torch.stages import stages_of
from arrow_quant_v2.torch.states import distances, predict
from arrow_quant_v2.torch.tape import Batch

pytestmark = [
    pytest.mark.filterwarnings("ignore:one calibration run gave fewer"),
    pytest.mark.filterwarnings("ignore:INT2 reached"),
    pytest.mark.filterwarnings("ignore:INT4 was used instead"),
]

TEXT = ZOO_UNET.parent / "text"


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dit_pipeline(tmp_path_factory.mktemp("models") / "dit")


def settings(**values: object) -> DiffusionQuantConfig:
    given = {"bit_width": 2, "calibration_samples": 10, "min_accuracy": 0.0}
    return DiffusionQuantConfig(**(given | values))


def quantized(model: Path, output: Path, **values: object) -> QuantizationResult:
    return ArrowQuantV2().quantize_diffusion_model(model, output, settings(**values))


def same(one: QuantizedModel, two: QuantizedModel) -> set[str]:
    """Names of the quantized tensors that have the same codes and parameters."""
    return {
        name
        for name in one
        if one[name].is_quantized
        and np.array_equal(one[name].codes, two[name].codes)
        and np.array_equal(one[name].params, two[name].params)
    }


class Shared(nn.Module):
    """Weights that are used in another order than they are named."""

    def __init__(self) -> None:
        super().__init__()
        self.a_last = nn.Linear(8, 8)
        self.b_key = nn.Linear(8, 8)
        self.c_query = nn.Linear(8, 8)
        self.d_first = nn.Linear(8, 8)
        self.e_unused = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.d_first(x)
        result: torch.Tensor = self.a_last(self.c_query(x) * self.b_key(x))
        return result


def test_stages_follow_the_order_of_use_and_keep_shared_inputs_together() -> None:
    network = Shared()
    names = [name for name, _ in network.named_parameters() if name.endswith("weight")]
    batch = Batch((torch.zeros(2, 8),))
    expected = [["d_first.weight"], ["c_query.weight", "b_key.weight"], ["a_last.weight"]]
    assert stages_of(network, batch, names, 6) == expected
    assert stages_of(network, batch, names, 2) == [expected[0], expected[1] + expected[2]]
    assert stages_of(network, batch, [*names, "of another component"], 1) == [
        [name for stage in expected for name in stage]
    ]


@pytest.mark.parametrize("stages", [2, 4])
def test_what_held_out_states_find_better_is_stored(
    dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: int
) -> None:
    monkeypatch.setattr(sequential, "SEQUENTIAL", replace(SEQUENTIAL, stages=stages))
    plain = quantized(dit, tmp_path / "plain")
    result = quantized(dit, tmp_path / "q", sequential=True)
    found = open_quantized(tmp_path / "q").metadata["sequential"]
    told = dict(result["sequential"])
    assert told.pop("seconds") > 0
    assert told == found
    assert found["stages"] == stages
    assert found["held_out_error_ratio"] < 1 or not found["enabled"]
    why_not = "one stage is as good on held-out states"
    assert found["reason"] == ("" if found["enabled"] else why_not)
    assert f"{stages} stages" in str(result)
    assert result["bits_per_weight"] == plain["bits_per_weight"]
    assert result["warnings"] == plain["warnings"]
    one, two = open_quantized(tmp_path / "plain"), open_quantized(tmp_path / "q")
    two.verify()
    unchanged = same(one, two)
    if found["enabled"]:
        _, network, tape = record_tape(
            dit, plan_model(dit, settings()), samples=10, seed=0, progress=lambda f: None
        )
        names = [name for name in two if two[name].is_quantized]
        first, *later = stages_of(network, tape[0], names, stages)
        assert set(first) <= unchanged
        assert not {name for stage in later for name in stage} <= unchanged
    else:
        assert unchanged == {name for name in two if two[name].is_quantized}
        assert result.tensors == plain.tensors


def test_a_difference_that_may_be_chance_is_none() -> None:
    aside = torch.ones(2, dtype=torch.bool)
    tape = [Batch((torch.randn(2, 8),), timestep=t, held_out=aside) for t in range(0, 100, 10)]
    judge = Judge(torch.nn.Linear(8, 8), tape, torch.Generator().manual_seed(0), lambda: None)
    start = torch.ones(JUDGING.time_bins, dtype=torch.float64)
    scattered = start.clone()
    scattered[::2], scattered[1::2] = 0.6, 1.4
    assert judge.ratio(scattered, start) < 1
    assert not judge.is_less(scattered, start)
    assert judge.is_less(0.98 * start, start)
    assert not judge.is_less(1.02 * start, start)
    assert not judge.is_less(torch.full_like(start, torch.nan), start)


def test_a_trained_model_in_stages_predicts_new_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped text model: whichever is kept is no worse where nothing was chosen by."""
    monkeypatch.setattr(sequential, "SEQUENTIAL", replace(SEQUENTIAL, stages=2))
    quantized(TEXT, tmp_path / "plain", calibration_samples=5)
    result = quantized(TEXT, tmp_path / "q", calibration_samples=5, sequential=True)
    plan = plan_model(TEXT, settings())
    _, network, tape = record_tape(TEXT, plan, samples=5, seed=2, progress=lambda f: None)

    def error(artefact: Path) -> float:
        tensors = open_quantized(artefact).components[""]
        total = 0.0
        with torch.no_grad():
            for batch in tape:
                expected = predict(network, batch)
                with replaced(network, restored(network, tensors)):
                    total += float(distances(batch, expected, predict(network, batch)).sum())
        return total

    assert error(tmp_path / "q") < 1.05 * error(tmp_path / "plain")
    assert result["sequential"]["stages"] == 2


def test_stages_have_the_bits_that_the_first_run_fell_back_to(dit: Path, tmp_path: Path) -> None:
    fallback = {"min_layer_accuracy": 0.997, "fallback_scope": "layer"}
    plain = quantized(dit, tmp_path / "plain", **fallback)
    assert len(plain["layers_by_bit_width"]) > 1, "some layers fall back"
    result = quantized(dit, tmp_path / "q", sequential=True, **fallback)
    assert result["layers_by_bit_width"] == plain["layers_by_bit_width"]
    assert [a["bit_width"] for a in result["attempts"]] == [
        a["bit_width"] for a in plain["attempts"]
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"calibration_samples": 0}, "calibration_samples is 0"),
        ({"method": "rtn"}, "the method has none"),
        ({"method": "learned"}, "does not go with method='learned'"),
    ],
)
def test_settings_without_stages_are_refused(
    dit: Path, tmp_path: Path, values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        quantized(dit, tmp_path / "q", sequential=True, **values)
    assert list(tmp_path.iterdir()) == []


def test_statistics_alone_are_refused(dit: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="statistics were given"):
        ArrowQuantV2().quantize_diffusion_model(
            dit, tmp_path / "q", settings(sequential=True), statistics=tmp_path / "stats"
        )


def test_a_model_that_does_not_run_is_refused(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    with pytest.raises(ConfigurationError, match=r"sequential=True needs calibration: .*no class"):
        quantized(model, tmp_path / "q", sequential=True, modality="image")
    assert not (tmp_path / "q").exists()


def test_a_callback_that_raises_in_a_stage_leaves_nothing(dit: Path, tmp_path: Path) -> None:
    class EnoughError(Exception):
        pass

    def stop(message: str, fraction: float) -> None:
        if message == "calibrating" and fraction > 0.85:
            raise EnoughError

    with pytest.raises(EnoughError):
        ArrowQuantV2().quantize_diffusion_model(
            dit, tmp_path / "q", settings(sequential=True), stop
        )
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_has_it(dit: Path, tmp_path: Path) -> None:
    run = arrow_quant(
        "quantize", dit, tmp_path / "q", "--bit-width", "2", "--samples", "5",
        "--min-accuracy", "0", "--sequential", "--json",
    )  # fmt: skip
    assert run.code == 0, run.err
    assert run.json["sequential"]["stages"] > 1
