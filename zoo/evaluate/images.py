"""Pixel images: an unconditional diffusers ``DDPMPipeline`` of handwritten digits."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data import load_held_out
from zoo.evaluate.denoising import DenoisingTask, denoising_task, sample_distances
from zoo.evaluate.subject import HeldOutLoss, Setting
from zoo.sampling import Grid, sample_images, save_grid

COLUMNS = 10


class UNetSubject:
    """A ``UNet2DModel`` with its noise scheduler; samples are images [n, height, width] in 0..1."""

    modality = "image"

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self._predictions = lru_cache(maxsize=1)(self._predict)

    @classmethod
    def load(cls, directory: Path) -> UNetSubject:
        from diffusers import DDPMPipeline

        pipeline: Any = DDPMPipeline.from_pretrained(str(directory), local_files_only=True)
        pipeline.unet.float().eval()
        return cls(pipeline)

    def task(self, setting: Setting) -> DenoisingTask:
        """Held-out digits with fixed noise."""
        images = load_held_out("mnist", setting.data)[: setting.effort.items]
        return denoising_task(torch.from_numpy(images), self.pipeline.scheduler, setting.seed)

    def loss(self, setting: Setting) -> HeldOutLoss:
        return self.task(setting).loss(self._predictions(setting))

    def generate(self, setting: Setting) -> Grid:
        effort = setting.effort
        return sample_images(
            self.pipeline, count=effort.samples, steps=effort.steps, seed=setting.seed
        )

    def scores(self, samples: Grid, setting: Setting) -> dict[str, float]:
        return {}

    def compare(self, reference: UNetSubject, setting: Setting) -> dict[str, float]:
        own, other = self._predictions(setting), reference._predictions(setting)
        return {"drift": self.task(setting).drift(own, other)}

    def compare_samples(self, samples: Grid, reference_samples: Grid) -> dict[str, float]:
        return sample_distances(samples, reference_samples)

    def picture(self, samples: Grid, path: Path) -> None:
        rows = np.array_split(samples, range(COLUMNS, len(samples), COLUMNS))
        save_grid(rows, path, [""] * len(rows))

    def _predict(self, setting: Setting) -> Tensor:
        unet = self.pipeline.unet
        return self.task(setting).predictions(lambda noisy, t: unet(noisy, t).sample)
