"""Is the loss of a model different from that of its reference? A paired bootstrap interval.

Both losses are of the same items with the same noise, so the noise that they share drops out of
the difference of each item. Items are resampled with replacement within their bin, and the
statistic is the mean over bins: the percentile bootstrap of Efron & Tibshirani, "An Introduction
to the Bootstrap" (1993), chapter 13, stratified by bin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.evaluate.subject import Floats, HeldOutLoss

RESAMPLES = 10_000
CONFIDENCE = 0.95
#: Differences that do not matter, as a part of the reference's loss. Pairing makes intervals so
#: narrow that they tell a loss .01 % higher from 0; as in tests of equivalence (Schuirmann 1987),
#: a difference counts as none when its interval lies within this margin.
MARGIN = 0.001
SEED = 0


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds that hold the true value with ``CONFIDENCE``."""

    estimate: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """For a difference of losses: "worse", "better", or "equal" when zero lies inside."""
        if self.low > 0:
            return "worse"
        return "better" if self.high < 0 else "equal"

    def over(self, scale: float) -> Interval:
        """The same as a multiple of ``scale`` > 0."""
        return Interval(self.estimate / scale, self.low / scale, self.high / scale)


@dataclass(frozen=True)
class LossDifference:
    """How much higher a loss is than that of the reference.

    Attributes
    ----------
    absolute
        Difference of the means over bins, in the unit of the loss.
    relative
        The same over the reference's mean over bins; 0.01 is one percent.
    bins
        Difference of the means of each bin.
    """

    absolute: Interval
    relative: Interval
    bins: tuple[Interval, ...]

    @property
    def verdict(self) -> str:
        """Say "worse", "better" or "equal", by the interval of the mean over bins.

        "equal" when the interval holds 0, or lies within ``MARGIN`` of it.
        """
        if self.relative.low > -MARGIN and self.relative.high < MARGIN:
            return "equal"
        return self.absolute.verdict


def loss_difference(
    loss: HeldOutLoss, reference: HeldOutLoss, *, resamples: int = RESAMPLES
) -> LossDifference:
    """Compare two losses item by item.

    Raises
    ------
    ValueError
        The two are not of the same items, a bin is empty, or a loss is not finite.
    """
    _check_paired(loss, reference)
    difference = loss.values - reference.values
    rng = np.random.default_rng(SEED)
    means = np.empty((2, len(loss.bin_labels), resamples))
    for i in range(len(loss.bin_labels)):
        members = np.flatnonzero(loss.bins == i)
        drawn = members[rng.integers(len(members), size=(resamples, len(members)))]
        means[0, i] = difference[drawn].mean(axis=1)
        means[1, i] = reference.values[drawn].mean(axis=1)
    over_bins, reference_over_bins = means.mean(axis=1)
    estimates = loss.per_bin() - reference.per_bin()
    return LossDifference(
        absolute=_interval(loss.mean - reference.mean, over_bins),
        relative=_interval(loss.mean / reference.mean - 1, over_bins / reference_over_bins),
        bins=tuple(_interval(e, m) for e, m in zip(estimates, means[0], strict=True)),
    )


def _check_paired(loss: HeldOutLoss, reference: HeldOutLoss) -> None:
    if (loss.name, loss.bin_labels) != (reference.name, reference.bin_labels):
        raise ValueError(
            f"the two models have different losses: {loss.name} in bins {loss.bin_labels} "
            f"against {reference.name} in bins {reference.bin_labels}. "
            "Compare models of the same layout."
        )
    if not np.array_equal(loss.bins, reference.bins):
        raise ValueError(
            f"the losses are of different items: {len(loss.bins)} against {len(reference.bins)}. "
            "Measure both with the same setting."
        )
    for which, values in (("model", loss.values), ("reference", reference.values)):
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise ValueError(f"the {which} has a loss that is not finite on {bad} items")
    missing = [n for i, n in enumerate(loss.bin_labels) if not (loss.bins == i).any()]
    if missing:
        raise ValueError(f"no item in bins {missing}. Measure more items.")


def _interval(estimate: float, resampled: Floats) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    return Interval(float(estimate), float(low), float(high))
