"""The paired bootstrap interval: what it covers, what it finds, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.evaluate.bootstrap import loss_difference
from zoo.evaluate.subject import HeldOutLoss


def loss(values: np.ndarray, bins: int = 4, name: str = "eps-MSE") -> HeldOutLoss:
    count = len(values)
    return HeldOutLoss(
        name, "", values, np.arange(count) * bins // count, tuple(f"bin {i}" for i in range(bins))
    )


def reference_values(rng: np.random.Generator, count: int = 200) -> np.ndarray:
    return rng.gamma(2.0, np.repeat([1.0, 0.3, 0.1, 0.03], count // 4))


def test_a_model_is_equal_to_itself_exactly() -> None:
    values = reference_values(np.random.default_rng(0))
    found = loss_difference(loss(values), loss(values))
    assert found.verdict == "equal"
    assert (found.absolute.estimate, found.absolute.low, found.absolute.high) == (0, 0, 0)
    assert found.relative.high == 0


def test_pairing_finds_a_difference_far_below_the_spread_of_items() -> None:
    rng = np.random.default_rng(1)
    values = reference_values(rng)
    shift = 0.01 * values + rng.normal(0, 0.02, len(values)) * values
    worse = loss_difference(loss(values + shift), loss(values))
    assert worse.verdict == "worse"
    assert 0 < worse.relative.low < 0.01 < worse.relative.high
    assert worse.relative.estimate == pytest.approx(
        worse.absolute.estimate / loss(values).mean, rel=1e-9
    )
    assert loss_difference(loss(values), loss(values + shift)).verdict == "better"


def test_a_difference_too_small_to_matter_is_none_however_sure_it_is() -> None:
    values = reference_values(np.random.default_rng(5))
    for change, verdict in ((5e-4, "equal"), (-5e-4, "equal"), (2e-3, "worse"), (-2e-3, "better")):
        found = loss_difference(loss(values * (1 + change)), loss(values))
        assert found.absolute.low * found.absolute.high > 0, "0 is outside"
        assert found.verdict == verdict


def test_every_bin_has_its_own_interval() -> None:
    values = reference_values(np.random.default_rng(2))
    changed = values.copy()
    changed[150:] += 0.5
    found = loss_difference(loss(changed), loss(values))
    assert [interval.verdict for interval in found.bins] == ["equal"] * 3 + ["worse"]
    assert found.bins[3].estimate == pytest.approx(0.5)
    assert found.absolute.estimate == pytest.approx(0.5 / 4)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        values = reference_values(rng)
        noisy = values + 0.1 * values * rng.normal(0.5, 1, len(values))
        truth = 0.05 * np.mean([2.0, 0.6, 0.2, 0.06])
        interval = loss_difference(loss(noisy), loss(values), resamples=500).absolute
        covered += interval.low <= truth <= interval.high
    assert 0.89 <= covered / 300 <= 0.98


def test_the_same_losses_give_the_same_interval() -> None:
    rng = np.random.default_rng(4)
    a, b = loss(reference_values(rng)), loss(reference_values(rng))
    assert loss_difference(a, b) == loss_difference(a, b)


def test_losses_of_different_items_are_refused() -> None:
    values = reference_values(np.random.default_rng(5))
    with pytest.raises(ValueError, match=r"different losses: eps-MSE .* against masked NLL"):
        loss_difference(loss(values), loss(values, name="masked NLL"))
    with pytest.raises(ValueError, match="different items: 200 against 100"):
        loss_difference(loss(values), loss(values[::2]))
    with pytest.raises(ValueError, match="model has a loss that is not finite on 1 items"):
        loss_difference(loss(np.append(values[:-1], np.nan)), loss(values))
