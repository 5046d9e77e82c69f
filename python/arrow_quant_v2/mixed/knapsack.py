"""One choice for every layer: the multiple-choice knapsack problem, solved exactly.

Pareto-optimal partial solutions are extended layer by layer (Nemhauser and Ullmann 1969), and those
that the linear relaxation of the rest shows to be hopeless are dropped (Dyer, Riha and Walker
1995), which leaves few: the relaxation is off by less than one layer's choice. No rounding, no
randomness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["Choice", "choose"]

_Array = npt.NDArray[np.float64]
#: Relative slack of comparisons of sums, whose terms were added in different orders.
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Choice:
    """What a choice takes of that which is limited, and what it costs; both at least 0."""

    weight: float
    cost: float


@dataclass(frozen=True)
class _Step:
    """From one vertex of a layer's lower convex hull to the next: more weight, less cost."""

    layer: int
    weight: float
    cost: float

    @property
    def slope(self) -> float:
        return self.cost / self.weight


@dataclass(frozen=True)
class _Stage:
    """Partial solutions behind a layer: which one each extends, and by which choice."""

    parents: npt.NDArray[np.intp]
    choices: npt.NDArray[np.intp]


def choose(layers: Sequence[Sequence[Choice]], limit: float) -> tuple[int, ...]:
    """The positions of the choices with the least sum of costs within a sum of weights.

    Parameters
    ----------
    layers
        The choices of each layer, at least one.
    limit
        Of the sum of weights; met but for rounding.

    Raises
    ------
    ValueError
        Even the lightest choices weigh more.
    """
    lightest = [min(layer, key=lambda c: (c.weight, c.cost)) for layer in layers]
    limit *= 1 + _TOLERANCE
    if sum(choice.weight for choice in lightest) > limit:
        raise ValueError("the lightest choices weigh more than the limit")
    slack = _TOLERANCE * sum(choice.cost for choice in lightest)
    steps = sorted(
        (step for i, layer in enumerate(layers) for step in _hull(i, layer)),
        key=lambda step: step.slope,
    )
    best = _rounded(steps, lightest, limit)
    relaxations = _Relaxations(steps, lightest)
    weights, costs = np.zeros(1), np.zeros(1)
    stages = []
    for i, layer in enumerate(layers):
        stage, weights, costs = _extended(weights, costs, layer)
        hopeful = costs + relaxations.least_costs(i + 1, limit - weights) <= best + slack
        kept = _pareto(weights, costs, np.flatnonzero(hopeful))
        stages.append(_Stage(stage.parents[kept], stage.choices[kept]))
        weights, costs = weights[kept], costs[kept]
    position = int(np.argmin(costs))
    chosen = []
    for stage in reversed(stages):
        chosen.append(int(stage.choices[position]))
        position = int(stage.parents[position])
    return tuple(reversed(chosen))


def _hull(number: int, layer: Sequence[Choice]) -> list[_Step]:
    """Steps of falling steepness from the lightest choice to the cheapest."""
    vertices: list[Choice] = []
    for choice in sorted(layer, key=lambda c: (c.weight, c.cost)):
        if vertices and choice.cost >= vertices[-1].cost:
            continue
        while len(vertices) >= 2 and _is_above(vertices[-1], vertices[-2], choice):
            vertices.pop()
        vertices.append(choice)
    return [_Step(number, b.weight - a.weight, b.cost - a.cost) for a, b in pairwise(vertices)]


def _is_above(middle: Choice, left: Choice, right: Choice) -> bool:
    """Whether `middle` is on or above the line between the other two."""
    across = (right.cost - left.cost) * (middle.weight - left.weight)
    return (middle.cost - left.cost) * (right.weight - left.weight) >= across


class _Relaxations:
    """The last layers when they may take parts of steps: a convex function of the weight."""

    def __init__(self, steps: Sequence[_Step], lightest: Sequence[Choice]) -> None:
        self._layers = np.array([step.layer for step in steps], np.intp)
        self._weights = np.array([step.weight for step in steps])
        self._costs = np.array([step.cost for step in steps])
        self._lightest = lightest

    def least_costs(self, first: int, weights: _Array) -> _Array:
        """The least sums of costs of the layers from `first` on, within these sums of weights."""
        own = self._layers >= first
        weight = sum(choice.weight for choice in self._lightest[first:])
        cost = sum(choice.cost for choice in self._lightest[first:])
        return np.interp(
            weights,
            weight + np.cumsum([0.0, *self._weights[own]]),
            cost + np.cumsum([0.0, *self._costs[own]]),
            left=np.inf,
        )


def _rounded(steps: Sequence[_Step], lightest: Sequence[Choice], limit: float) -> float:
    """The cost of a good solution: the steepest steps that fit, in order within each layer."""
    weight = sum(choice.weight for choice in lightest)
    cost = sum(choice.cost for choice in lightest)
    stopped: set[int] = set()
    for step in steps:
        if step.layer in stopped or weight + step.weight > limit:
            stopped.add(step.layer)
            continue
        weight += step.weight
        cost += step.cost
    return cost


def _extended(
    weights: _Array, costs: _Array, layer: Sequence[Choice]
) -> tuple[_Stage, _Array, _Array]:
    count = len(weights)
    stage = _Stage(np.tile(np.arange(count), len(layer)), np.repeat(np.arange(len(layer)), count))
    more = np.concatenate([weights + choice.weight for choice in layer])
    return stage, more, np.concatenate([costs + choice.cost for choice in layer])


def _pareto(weights: _Array, costs: _Array, among: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Those that nothing lighter undercuts, by weight."""
    order = among[np.lexsort((costs[among], weights[among]))]
    least = np.minimum.accumulate(costs[order])
    return order[np.flatnonzero(costs[order] < np.concatenate([[np.inf], least[:-1]]))]
