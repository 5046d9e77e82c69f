"""Teacher-forced denoising: the same clean items, noise and timesteps for every model.

Item i of n uses timestep floor(i T / n), so the items run through all timesteps, in ten bins.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zoo.evaluate.subject import HeldOutLoss, Setting, Subject

BINS = 10
BATCH = 50
#: What identical samples get: a PSNR has to be finite to be a number in JSON.
HIGHEST_PSNR = 100.0

#: From noisy items, their timesteps, and where they stand among all items.
Predict = Callable[[Tensor, Tensor, slice], Tensor]

#: Names of the loss by the prediction type of diffusers schedulers.
LOSS_NAMES = {"epsilon": "eps-MSE", "v_prediction": "v-MSE", "sample": "x0-MSE"}


@dataclass(frozen=True)
class DenoisingTask:
    """What a network sees and what it should say; the first axis is that of the items."""

    noisy: Tensor
    timesteps: Tensor
    target: Tensor
    bins: npt.NDArray[np.int64]
    bin_labels: tuple[str, ...]
    loss_name: str

    def predictions(self, predict: Predict) -> Tensor:
        """Outputs of a network for all items, batch by batch."""
        count = len(self.noisy)
        parts = [slice(i, min(i + BATCH, count)) for i in range(0, count, BATCH)]
        with torch.inference_mode():
            return torch.cat([predict(self.noisy[p], self.timesteps[p], p) for p in parts])

    def loss(self, predictions: Tensor) -> HeldOutLoss:
        """Mean square error of each item."""
        errors = (predictions - self.target).double().square().flatten(1).mean(dim=1)
        return HeldOutLoss(self.loss_name, "", errors.numpy(), self.bins, self.bin_labels)

    def drift(self, predictions: Tensor, reference: Tensor) -> float:
        """Square distance of predictions from the reference's, over the reference's loss.

        Both are means over bins. With ``predictions = reference + d`` the loss grows by |d|^2 and
        by 2 d (reference - target). The second averages out when d has nothing to do with the
        reference's own error; then this is the relative growth of the loss, with less noise.
        """
        moved = HeldOutLoss(
            "", "", _square_distance(predictions, reference), self.bins, self.bin_labels
        )
        return moved.mean / self.loss(reference).mean


class DenoisingSubject(Subject, ABC):
    """What subjects that denoise have in common; predictions of one setting are kept.

    Parameters
    ----------
    network
        Predicts the noise.
    """

    modality: str

    def __init__(self, network: Any) -> None:
        self.network = network
        self._kept = lru_cache(maxsize=1)(self._predictions)

    @abstractmethod
    def task(self, setting: Setting) -> DenoisingTask:
        """Held-out items with fixed noise."""

    @abstractmethod
    def predictor(self, setting: Setting) -> Predict:
        """What gives the network's predictions for the items of :meth:`task`."""

    def loss(self, setting: Setting) -> HeldOutLoss:
        """Teacher-forced loss of each held-out item."""
        return self.task(setting).loss(self._kept(setting))

    def compare(self, reference: Any, setting: Setting) -> dict[str, float]:
        """Drift of the predictions from those of ``reference``."""
        return {"drift": self.task(setting).drift(self._kept(setting), reference._kept(setting))}

    def _predictions(self, setting: Setting) -> Tensor:
        return self.task(setting).predictions(self.predictor(setting))


def denoising_task(clean: Tensor, scheduler: Any, seed: int) -> DenoisingTask:
    """Add fixed noise to ``clean`` [n, ...] as a diffusers scheduler does.

    Raises
    ------
    ValueError
        The scheduler's prediction type is none of epsilon, v_prediction and sample.
    """
    steps, count = scheduler.config.num_train_timesteps, len(clean)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(clean.shape, generator=generator)
    timesteps = torch.arange(count) * steps // count
    kind = scheduler.config.prediction_type
    targets: dict[str, Callable[[], Tensor]] = {
        "epsilon": lambda: noise,
        "v_prediction": lambda: scheduler.get_velocity(clean, noise, timesteps),
        "sample": lambda: clean,
    }
    if kind not in targets:
        raise ValueError(f"prediction_type {kind!r} of the scheduler: expected {list(targets)}")
    edges = [steps * i // BINS for i in range(BINS + 1)]
    return DenoisingTask(
        noisy=scheduler.add_noise(clean, noise, timesteps),
        timesteps=timesteps,
        target=targets[kind](),
        bins=np.arange(count) * BINS // count,
        bin_labels=tuple(f"t {low} - {high - 1}" for low, high in itertools.pairwise(edges)),
        loss_name=LOSS_NAMES[kind],
    )


def sample_distances(samples: npt.NDArray[Any], reference: npt.NDArray[Any]) -> dict[str, float]:
    """Relative error (norms over all samples) and PSNR in dB (peak 1) of same-seed samples."""
    moved = (samples.astype(np.float64) - reference) ** 2
    psnr = -10 * np.log10(max(float(moved.mean()), 10 ** (-HIGHEST_PSNR / 10)))
    relative = np.sqrt(moved.sum() / (reference.astype(np.float64) ** 2).sum())
    return {"relative error": float(relative), "PSNR (dB)": float(psnr)}


def _square_distance(a: Tensor, b: Tensor) -> npt.NDArray[np.float64]:
    return (a - b).double().square().flatten(1).mean(dim=1).numpy()
