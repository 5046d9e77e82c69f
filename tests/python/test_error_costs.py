"""What errors cost by diffusion time, and that calibration counts tokens accordingly."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from arrow_quant_v2 import CalibrationStatistics
from arrow_quant_v2.torch import Batch, calibrate
from arrow_quant_v2.torch.collect.error_costs import _mean_over_time, measure_costs
from arrow_quant_v2.torch.evaluation import evaluating
from arrow_quant_v2.torch.observe.shared_inputs import survey
from arrow_quant_v2.torch.record.trajectory import as_batches

CHANNELS = 32


class Gated(nn.Module):
    """Two branches of which the time says how much they count."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Linear(CHANNELS, CHANNELS, bias=False)
        self.late = nn.Linear(CHANNELS, CHANNELS, bias=False)

    def forward(self, x: Tensor, t: float) -> Tensor:
        return (1 - t) * self.early(x).relu_() + t * self.late(2 * x)


class Rounding(Gated):
    def forward(self, x: Tensor, t: float) -> Tensor:
        return super().forward(x, t).detach()


def tape(times: list[float], samples: int = 10) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return as_batches(
        (
            Batch(args=(torch.randn(samples, 64, CHANNELS, generator=generator), t), timestep=t)
            for t in times
        ),
        held_out=True,
    )


def profiles(module: nn.Module, batches: list[Batch]) -> tuple[list[str], dict, str]:
    names, weights = zip(*module.named_parameters(), strict=True)
    with evaluating(module):
        found = survey(module, list(weights), batches, lambda: None)
        costs = measure_costs(module, batches, list(weights), found.inputs, lambda: None)
    order = [names[entry.weights[0]] for entry in found.inputs]
    return order, costs.profiles, costs.reason


def test_a_time_counts_for_a_layer_as_much_as_its_errors_cost_then() -> None:
    order, found, reason = profiles(Gated(), tape([0.05, 0.2, 0.4, 0.6, 0.8, 0.95] * 4))
    assert reason == ""
    early = found[order.index("early.weight")].share(torch.tensor([0.05, 0.5, 0.95]))
    late = found[order.index("late.weight")].share(torch.tensor([0.05, 0.5, 0.95]))
    assert early[0] > early[1] > early[2]
    assert late[0] < late[1] < late[2]
    # Costs go with the square of the gate, shares with the square root of costs.
    assert float(late[2] / late[1]) == pytest.approx(0.95 / 0.5, rel=0.25)
    assert float(late.min()) > 0.05, "no time is given up"


def test_a_module_is_as_before_and_needs_no_gradient_of_its_weights() -> None:
    module = Gated().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    profiles(module, tape([0.1, 0.9]))
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in module.parameters())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_where_nothing_can_be_differentiated_all_times_count_the_same(tmp_path: Path) -> None:
    _, found, reason = profiles(Rounding(), tape([0.1, 0.9]))
    assert found == {}
    assert "every time counts the same" in reason
    with pytest.warns(UserWarning, match="every time counts the same"):
        run = calibrate(Rounding(), tape([0.1, 0.9]), tmp_path / "stats")
    assert len(run.layers) == 2


class Filling(nn.Module):
    """A language model of one layer: what it says of a token depends on that token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, CHANNELS)
        self.head = nn.Linear(CHANNELS, 12, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids))


def test_tokens_that_are_to_be_found_count_where_others_do_not(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    batches = []
    for ratio in (0.25, 0.5, 0.75):
        ids = torch.randint(1, 12, (10, 16), generator=generator)
        hidden = torch.zeros(10, 16, dtype=torch.bool)
        hidden[:, : int(16 * ratio)] = True
        batches.append(Batch(args=(ids.masked_fill(hidden, 0),), timestep=ratio, masked=hidden))
    _, found, _ = profiles(Filling(), as_batches(batches, held_out=True))
    assert found[1 if len(found) > 1 else 0].hidden > 5


def test_calibration_sees_more_of_the_times_that_cost_most(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, batches = Gated(), tape([0.05, 0.95] * 20, samples=40)
    tokens = {}
    for aware in (False, True):
        path = tmp_path / f"{aware}.stats"
        calibrate(module, batches, path, time_aware=aware)
        statistics = CalibrationStatistics.load(path)
        for number in range(len(statistics)):
            count = [part.tokens for part in statistics.times(number)]
            tokens[statistics.layers(number)[0], aware] = np.array(count)
    for name in ("early.weight", "late.weight"):
        plain, aware = tokens[name, False], tokens[name, True]
        assert plain[0] == plain[-1]
        assert aware.sum() == pytest.approx(plain.sum(), rel=0.1)
    assert tokens["early.weight", True][0] > 3 * tokens["early.weight", True][-1]
    assert tokens["late.weight", True][-1] > 3 * tokens["late.weight", True][0]


class Chain(nn.Module):
    """Errors of the first layer are damped by the second, those of the third pass as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(CHANNELS, CHANNELS)
        self.second = nn.Linear(CHANNELS, CHANNELS)
        self.third = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: Tensor, t: float) -> Tensor:
        return self.third(x) + 0.3 * self.second(self.first(x).tanh())


def test_sensitivity_is_what_an_error_of_the_outputs_does_to_the_prediction(
    tmp_path: Path,
) -> None:
    torch.manual_seed(3)
    module, batches = Chain(), tape([0.1, 0.5, 0.9] * 8)
    calibrate(module, batches, tmp_path / "s")
    found = CalibrationStatistics.load(tmp_path / "s").sensitivities
    x = torch.cat([batch.args[0] for batch in batches])
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        wanted = module(x, 0.5)
        for name in ("first", "second", "third"):

            def disturb(layer: nn.Module, args: object, y: Tensor) -> Tensor:
                noise = torch.randn(y.shape, generator=generator)
                return y + 1e-3 * noise * y.square().mean().sqrt()

            handle = getattr(module, name).register_forward_hook(disturb)
            moved = (module(x, 0.5) - wanted).square().sum() / wanted.square().sum()
            handle.remove()
            assert found[f"{name}.weight"] == pytest.approx(float(moved) / 1e-6, rel=0.15)


def test_effects_between_times_lie_on_a_line_of_logarithms() -> None:
    times = np.linspace(0, 1, 5)
    effects = [(t, math.exp(-12 * t)) for t in times for _ in range(2)]
    assert _mean_over_time(effects) == pytest.approx((1 - math.exp(-12)) / 12)
    assert _mean_over_time([(0.0, 3.0), (1.0, 3.0)]) == pytest.approx(3)
    assert _mean_over_time([(7.0, 2.0), (7.0, 4.0)]) == 3
