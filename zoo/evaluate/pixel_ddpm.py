"""``ddpm-mnist`` and ``ddpm-fashion`` of ``../shared/real-models``: pixel DDPMs of 28 x 28."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data import load_held_out
from zoo.digit_judge import load_judge
from zoo.evaluate.denoising import (
    DenoisingSubject,
    DenoisingTask,
    Predict,
    denoising_task,
    sample_distances,
)
from zoo.evaluate.judging import judge_scores
from zoo.evaluate.subject import HeldOutLoss, Setting
from zoo.evaluate.tensors import load_into, read_tensors
from zoo.real_models.ddpm import SIDE, TIMESTEPS, PixelDdpm
from zoo.sampling import Grid, ddim_samples, save_grid

COLUMNS = 10
#: Images of digits and of clothes that tell which ones a model was trained on.
TRIALS = 50
#: A model of digits loses over three times more on clothes, one of clothes about the same on both.
CLOTHES_RATIO = 2.0


class PixelDdpmSubject(DenoisingSubject):
    """Samples are images [n, 28, 28] in 0 .. 1, each stretched to that range.

    Nothing in the files says which images a model was trained on; how much harder clothes are for
    it than digits does. One that quantization destroyed cannot tell: it follows its reference.
    """

    modality = "image"

    def __init__(self, network: PixelDdpm) -> None:
        from diffusers import DDPMScheduler

        super().__init__(network)
        self.scheduler: Any = DDPMScheduler(TIMESTEPS, beta_start=1e-4, beta_end=0.02)
        self.image_set = lru_cache(maxsize=1)(self._image_set)

    @classmethod
    def load(cls, directory: Path) -> PixelDdpmSubject:
        return cls(load_into(PixelDdpm(), read_tensors(directory)))

    def follow(self, reference: Any) -> None:
        """Be measured on what ``reference`` was trained on."""
        if isinstance(reference, PixelDdpmSubject):
            self.image_set = reference.image_set

    def _image_set(self, setting: Setting) -> str:
        """Tell the set that the model was trained on."""
        ratio = self._loss_on("fashion-mnist", setting) / self._loss_on("mnist", setting)
        return "fashion-mnist" if ratio < CLOTHES_RATIO else "mnist"

    def task(self, setting: Setting) -> DenoisingTask:
        images = held_out_images(self.image_set(setting), setting)
        return denoising_task(images[: setting.effort.items], self.scheduler, setting.seed)

    def predictor(self, setting: Setting) -> Predict:
        return lambda noisy, t, items: self.network(noisy, t)

    def loss(self, setting: Setting) -> HeldOutLoss:
        found = super().loss(setting)
        name = f"{found.name} on {self.image_set(setting)}"
        return HeldOutLoss(name, found.unit, found.values, found.bins, found.bin_labels)

    def generate(self, setting: Setting) -> Grid:
        shape = (setting.effort.samples, 1, SIDE, SIDE)
        samples = ddim_samples(
            lambda x, t: self.network(x, t.expand(len(x))),
            self.scheduler,
            shape,
            steps=setting.effort.steps,
            seed=setting.seed,
        )[:, 0]
        # The model adds an offset of its own to each image.
        low, high = samples.amin(dim=(1, 2), keepdim=True), samples.amax(dim=(1, 2), keepdim=True)
        return np.asarray(((samples - low) / (high - low).clamp_min(1e-6)).numpy())

    def scores(self, samples: Grid, setting: Setting) -> dict[str, float]:
        if self.image_set(setting) != "mnist":
            return {}  # the judge knows digits only
        padded = torch.from_numpy(np.pad(samples, ((0, 0), (2, 2), (2, 2)))[:, None] * 2 - 1)
        held_out = torch.from_numpy(load_held_out("mnist", setting.data))
        return judge_scores(load_judge(), padded, held_out)

    def compare_samples(self, samples: Grid, reference_samples: Grid) -> dict[str, float]:
        return sample_distances(samples, reference_samples)

    def picture(self, samples: Grid, path: Path) -> None:
        rows = np.array_split(samples, range(COLUMNS, len(samples), COLUMNS))
        save_grid(rows, path, [""] * len(rows))

    def _loss_on(self, name: str, setting: Setting) -> float:
        images = held_out_images(name, setting)[:TRIALS]
        task = denoising_task(images, self.scheduler, setting.seed)
        return task.loss(task.predictions(self.predictor(setting))).mean


def held_out_images(name: str, setting: Setting) -> Tensor:
    """Images as the models take them, [n, 1, 28, 28] in [-1, 1], without the border."""
    return torch.from_numpy(load_held_out(name, setting.data)[..., 2:-2, 2:-2].copy())
