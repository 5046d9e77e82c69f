"""Images of handwritten digits: a diffusers ``DDPMPipeline`` in pixels, a ``DiTPipeline`` by class.

Samples are images [n, height, width] in 0 .. 1, the same noise for every model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data import load_held_out, load_held_out_labels
from zoo.digit_judge import DIGITS, load_judge
from zoo.evaluate.denoising import (
    DenoisingSubject,
    DenoisingTask,
    Predict,
    denoising_task,
    sample_distances,
)
from zoo.evaluate.judging import agreement, judge_scores
from zoo.evaluate.subject import Setting
from zoo.sampling import Grid, sample_classes, sample_images, save_grid

COLUMNS = 10


class DigitSubject(DenoisingSubject):
    """Samples of digits, 32 x 32, and what the judge of digits says of them."""

    modality = "image"
    #: Whether sample i was asked to show digit i modulo 10.
    conditional = False

    def scores(self, samples: Grid, setting: Setting) -> dict[str, float]:
        held_out = torch.from_numpy(load_held_out("mnist", setting.data))
        wanted = torch.arange(len(samples)) % DIGITS if self.conditional else None
        return judge_scores(load_judge(), _pixels(samples), held_out, wanted)

    def compare_samples(self, samples: Grid, reference_samples: Grid) -> dict[str, float]:
        same = agreement(load_judge(), _pixels(samples), _pixels(reference_samples))
        return sample_distances(samples, reference_samples) | {"same digit": same}

    def picture(self, samples: Grid, path: Path) -> None:
        rows = np.array_split(samples, range(COLUMNS, len(samples), COLUMNS))
        save_grid(rows, path, [""] * len(rows))


class UNetSubject(DigitSubject):
    """An unconditional ``UNet2DModel`` with its noise scheduler."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline.unet.float().eval())
        self.pipeline = pipeline

    @classmethod
    def load(cls, directory: Path) -> UNetSubject:
        from diffusers import DDPMPipeline

        pipeline: Any = DDPMPipeline.from_pretrained(str(directory), local_files_only=True)
        return cls(pipeline)

    def task(self, setting: Setting) -> DenoisingTask:
        images = load_held_out("mnist", setting.data)[: setting.effort.items]
        return denoising_task(torch.from_numpy(images), self.pipeline.scheduler, setting.seed)

    def predictor(self, setting: Setting) -> Predict:
        return lambda noisy, t, items: self.network(noisy, t).sample

    def generate(self, setting: Setting) -> Grid:
        effort = setting.effort
        return sample_images(
            self.pipeline, count=effort.samples, steps=effort.steps, seed=setting.seed
        )


class DiTSubject(DigitSubject):
    """A ``DiTTransformer2DModel`` that denoises latents of an autoencoder by class."""

    conditional = True

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline.transformer.float().eval())
        self.pipeline = pipeline
        pipeline.vae.float().eval()

    @classmethod
    def load(cls, directory: Path) -> DiTSubject:
        from diffusers import DiTPipeline

        pipeline: Any = DiTPipeline.from_pretrained(str(directory), local_files_only=True)
        return cls(pipeline)

    def task(self, setting: Setting) -> DenoisingTask:
        """Latents of held-out digits by the model's own autoencoder, with fixed noise."""
        images = torch.from_numpy(load_held_out("mnist", setting.data)[: setting.effort.items])
        vae = self.pipeline.vae
        with torch.inference_mode():
            modes = [vae.encode(part).latent_dist.mode() for part in images.split(100)]
        latents = torch.cat(modes) * vae.config.scaling_factor
        return denoising_task(latents, self.pipeline.scheduler, setting.seed)

    def predictor(self, setting: Setting) -> Predict:
        labels = torch.from_numpy(load_held_out_labels("mnist", setting.data))
        return lambda noisy, t, items: self.network(noisy, t, class_labels=labels[items]).sample

    def generate(self, setting: Setting) -> Grid:
        effort = setting.effort
        classes = [i % DIGITS for i in range(effort.samples)]
        return sample_classes(self.pipeline, classes, steps=effort.steps, seed=setting.seed)


def _pixels(samples: Grid) -> Tensor:
    """As the judge wants them: [n, 1, height, width] in [-1, 1]."""
    return torch.from_numpy(samples[:, None] * 2 - 1)
