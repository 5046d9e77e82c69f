"""The best choices under a limit, against trying all of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from arrow_quant_v2.mixed.knapsack import Choice, choose


def best_of_all(layers: Sequence[Sequence[Choice]], limit: float) -> float | None:
    costs = [
        sum(choice.cost for choice in choices)
        for choices in itertools.product(*layers)
        if sum(choice.weight for choice in choices) <= limit
    ]
    return min(costs, default=None)


def taken(layers: Sequence[Sequence[Choice]], positions: Sequence[int]) -> tuple[float, float]:
    chosen = [layer[at] for layer, at in zip(layers, positions, strict=True)]
    return sum(c.weight for c in chosen), sum(c.cost for c in chosen)


@pytest.mark.parametrize("seed", range(8))
def test_no_other_choices_within_the_limit_cost_less(seed: int) -> None:
    rng = random.Random(seed)
    costs = (
        lambda: rng.random(),
        lambda: float(rng.randint(0, 3)),
        lambda: 10 ** rng.uniform(-6, 0),
    )
    for _ in range(60):
        cost = rng.choice(costs)
        layers = [
            [Choice(rng.randint(0, 30), cost()) for _ in range(rng.randint(1, 4))]
            for _ in range(rng.randint(1, 5))
        ]
        limit = rng.randint(0, 100)
        best = best_of_all(layers, limit)
        if best is None:
            with pytest.raises(ValueError, match="lightest choices"):
                choose(layers, limit)
            continue
        weight, found = taken(layers, choose(layers, limit))
        assert weight <= limit
        assert found == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_many_layers_come_as_close_as_their_relaxation_allows() -> None:
    rng = random.Random(0)
    layers = []
    for _ in range(300):
        elements = rng.choice([4096, 16384, 65536])
        drift = 10 ** rng.uniform(-5, -2)
        layers.append([Choice(elements * b // 8, drift * 16.0**-b) for b in (2, 4, 8)])
    total = sum(layer[2].weight for layer in layers)
    limit = total * 3 / 8
    positions = choose(layers, limit)
    weight, cost = taken(layers, positions)
    assert weight <= limit
    # One step of the cheapest kind is all that the limit can leave over.
    assert limit - weight < min(b.weight - a.weight for a, b, _ in layers)
    # No single exchange helps.
    for i, layer in enumerate(layers):
        for other in layer:
            if weight - layer[positions[i]].weight + other.weight <= limit:
                assert other.cost >= layer[positions[i]].cost
    assert choose(layers, limit) == positions
    assert cost < sum(layer[0].cost for layer in layers)


def test_the_limit_may_be_of_drift_and_the_cost_of_bytes() -> None:
    layers = [
        [Choice(0.3, 10), Choice(0.1, 20), Choice(0.0, 80)],
        [Choice(0.02, 10), Choice(0.01, 20), Choice(0.0, 80)],
    ]
    assert choose(layers, 0.12) == (1, 0)
    assert choose(layers, 0.32) == (0, 0)
    assert choose(layers, 0.0) == (2, 2)
