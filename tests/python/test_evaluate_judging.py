"""Judges of samples: what they say of real digits, and the Frechet distance."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from zoo.data import load_held_out, load_held_out_labels  # noqa: E402
from zoo.digit_judge import load_judge  # noqa: E402
from zoo.evaluate.judging import agreement, frechet_distance, judge_scores  # noqa: E402


@pytest.fixture(scope="module")
def digits():
    return torch.from_numpy(load_held_out("mnist"))


@pytest.fixture(scope="module")
def labels():
    return torch.from_numpy(load_held_out_labels("mnist"))


def test_held_out_digits_are_judged_right_surely_and_as_of_all_classes(digits, labels) -> None:
    found = judge_scores(load_judge(), digits[:500], digits[500:], labels[:500])
    assert found["accuracy"] > 0.97
    assert found["confidence"] > 0.95
    assert 9.5 < found["classes"] <= 10


def test_what_is_no_digit_is_far_from_digits_and_leaves_the_judge_unsure(digits) -> None:
    noise = torch.randn(500, 1, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    of_digits = judge_scores(load_judge(), digits[:500], digits[500:])
    of_noise = judge_scores(load_judge(), noise, digits[500:])
    assert of_noise["confidence"] < 0.7 < of_digits["confidence"]
    assert of_noise["Frechet distance"] > 20 * of_digits["Frechet distance"]
    assert "accuracy" not in of_noise


def test_one_digit_alone_is_one_class(digits, labels) -> None:
    ones = digits[labels == 1]
    assert judge_scores(load_judge(), ones, digits)["classes"] < 1.3


def test_agreement_is_the_share_of_samples_that_show_the_same(digits, labels) -> None:
    ones, sevens = digits[labels == 1][:20], digits[labels == 7][:20]
    assert agreement(load_judge(), ones, ones) == 1
    assert agreement(load_judge(), ones, sevens) < 0.2


def test_the_frechet_distance_is_that_of_the_normal_distributions() -> None:
    generator = np.random.default_rng(0)
    a = generator.standard_normal((200_000, 2))
    # Along each axis: squared distance of the means plus that of the standard deviations.
    b = generator.standard_normal((200_000, 2)) * [2, 1] + [3, 0]
    assert frechet_distance(a, b) == pytest.approx(9 + 1, rel=0.02)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b))
