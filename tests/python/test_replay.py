"""Drift: how far predictions move when weights are replaced."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from arrow_quant_v2.torch.compare.drift import LARGEST_DRIFT, Replay
from arrow_quant_v2.torch.record.trajectory import Batch


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.b = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.b(torch.tanh(self.a(x))) * timestep.reshape(-1, 1),)


@pytest.fixture
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser()


def tape() -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    times = [torch.tensor([0.0, 100.0, 7.0]), torch.tensor([99.0, 50.0])]
    return [Batch(args=(torch.randn(len(t), 6, generator=generator), t), timestep=t) for t in times]


def test_squared_distances_are_relative_within_each_part_of_the_times(denoiser: Denoiser) -> None:
    replay = Replay(denoiser, tape())
    assert replay.states == 5
    other = denoiser.a.weight.detach() + 0.1
    kept = denoiser.a.weight.detach().clone()
    found = replay.drift({"a.weight": other})
    assert torch.equal(denoiser.a.weight, kept)
    changed = Denoiser()
    changed.load_state_dict(denoiser.state_dict() | {"a.weight": other})
    parts: dict[int, list[tuple[float, float]]] = {}
    for batch in tape():
        x, t = batch.args
        with torch.no_grad():
            expected, moved = denoiser(x, t)[0].double(), changed(x, t)[0].double()
        for row, time in enumerate(t.tolist()):
            sums = (float(((moved - expected)[row] ** 2).sum()), float((expected[row] ** 2).sum()))
            parts.setdefault(min(int(time / 20), 4), []).append(sums)
    ratios = []
    for sums_of_part in parts.values():
        moved_by, size = (sum(column) for column in zip(*sums_of_part, strict=True))
        ratios.append(moved_by / size)
    assert len(ratios) == 3
    assert found == pytest.approx(sum(ratios) / 3, rel=1e-5)


def test_the_same_weights_do_not_drift_and_broken_ones_count_as_the_most(
    denoiser: Denoiser,
) -> None:
    replay = Replay(denoiser, tape())
    assert replay.drift({"a.weight": denoiser.a.weight.detach().clone()}) == 0
    assert replay.drift({"a.weight": torch.full((8, 6), torch.nan)}) == LARGEST_DRIFT
    assert replay.drift({}) == 0
    assert replay.knows("b.weight")
    assert not replay.knows("c.weight")


def test_language_models_are_asked_about_masked_tokens() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11))
    ids = torch.randint(11, (3, 5))
    masked = torch.tensor([[True, False, False, True, False], [False] * 4 + [True], [True] * 5])
    batch = Batch(args=(ids,), timestep=masked.double().mean(1), masked=masked)
    weight = model[1].weight.detach() + 0.3 * torch.randn(11, 8)
    found = Replay(model, [batch]).drift({"1.weight": weight})
    with torch.no_grad():
        p = model(ids).double().log_softmax(-1)
        q = nn.functional.linear(model[0](ids), weight, model[1].bias).double().log_softmax(-1)
    divergence = (p.exp() * (p - q)).sum(-1) * masked
    entropy = -(p.exp() * p).sum(-1) * masked
    # The three texts are in parts of their own: 0.2, 0.4 and 1 of the tokens are masked.
    expected = (divergence.sum(1) / entropy.sum(1)).mean()
    assert found == pytest.approx(float(expected), rel=1e-4)
