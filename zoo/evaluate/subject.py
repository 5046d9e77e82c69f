"""What an evaluation measures, the same for every modality.

A *subject* is a loaded model directory: float, exported or quantized. Each modality has one class
that implements :class:`Subject` (``images.py``, ``language.py``, ``audio.py``). Everything is drawn
from fixed seeds, so two subjects of one layout see the same items, noise, timesteps and masks, and
their losses can be compared item by item.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zoo.data import DEFAULT_DATA

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Effort:
    """How much is measured: the full evaluation, or a smoke test of it."""

    items: int
    samples: int
    steps: int

    @classmethod
    def full(cls) -> Effort:
        """At most about two minutes a model on two cores."""
        return cls(items=500, samples=100, steps=50)

    @classmethod
    def smoke(cls) -> Effort:
        """Seconds: proves that the parts fit together, says little about quality."""
        return cls(items=40, samples=8, steps=8)


@dataclass(frozen=True)
class Setting:
    """What every measurement depends on besides the model."""

    effort: Effort
    data: Path = DEFAULT_DATA
    seed: int = 0


@dataclass(frozen=True)
class HeldOutLoss:
    """Teacher-forced loss of each held-out item.

    Attributes
    ----------
    name, unit
        What the number is: ("eps-MSE", "") or ("masked NLL", "nats per token").
    values
        One loss an item, shape [n].
    bins
        The bin of each item (timesteps or mask ratios), shape [n], 0 .. len(bin_labels) - 1.
    bin_labels
        What each bin is.
    """

    name: str
    unit: str
    values: Floats
    bins: npt.NDArray[np.int64]
    bin_labels: tuple[str, ...]

    def per_bin(self) -> Floats:
        """Mean loss of each bin, shape [len(bin_labels)]."""
        return np.array([self.values[self.bins == i].mean() for i in range(len(self.bin_labels))])

    @property
    def mean(self) -> float:
        """Mean over bins."""
        return float(self.per_bin().mean())


class Subject(Protocol):
    """A loaded model that can be measured."""

    modality: str

    def follow(self, reference: Subject) -> None:
        """Be measured as ``reference`` is, where a model says itself how; before anything else."""
        return

    def loss(self, setting: Setting) -> HeldOutLoss:
        """Loss on held-out data, teacher-forced."""

    def generate(self, setting: Setting) -> Any:
        """``setting.effort.samples`` samples from fixed seeds, by DDIM eta = 0 or its like."""

    def scores(self, samples: Any, setting: Setting) -> dict[str, float]:
        """Quality of the samples by independent judges, by name."""

    def compare(self, reference: Subject, setting: Setting) -> dict[str, float]:
        """Teacher-forced distances of the predictions from those of ``reference``, by name."""

    def compare_samples(self, samples: Any, reference_samples: Any) -> dict[str, float]:
        """Distances between samples of the same seeds, by name."""

    def picture(self, samples: Any, path: Path) -> None:
        """Draw the samples for people as a PNG."""
