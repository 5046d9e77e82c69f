"""``csdi-physionet`` of ``../shared/real-models``: gaps in time series, on made-up series.

The patients' data that it was trained on is not at hand. Its input here is smooth random series of
the same shape and scale, half of the values hidden, so its loss says how well it denoises
*something*; what counts is the drift of a quantized version from the reference.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zoo.evaluate.denoising import DenoisingSubject, DenoisingTask, Predict, denoising_task
from zoo.evaluate.subject import Setting
from zoo.evaluate.tensors import load_into, read_tensors
from zoo.real_models.csdi import FEATURES, HOURS, TIMESTEPS, Csdi, alphas_cumprod
from zoo.sampling import ddim_samples, save_grid

COLUMNS = 8
WAVES = 3
#: Series that are imputed, of the samples that the effort allows: each takes 50 long steps.
PART = 4
#: Values at the ends of the grey scale of a picture, standard deviations.
SHOWN = 2.5

Series = npt.NDArray[np.float32]


def made_up_series(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sums of slow waves, mean 0 and variance 1, and a mask that keeps half of the values.

    Returns
    -------
    tuple
        Values and mask, both [count, FEATURES, HOURS].
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (count, FEATURES, WAVES, 1)
    rates = torch.rand(shape, generator=generator) * 0.4
    phases = torch.rand(shape, generator=generator) * 2 * math.pi
    sizes = torch.randn(shape, generator=generator)
    series = (sizes * torch.sin(rates * torch.arange(HOURS) + phases)).sum(dim=2)
    series = (series - series.mean(dim=2, keepdim=True)) / series.std(dim=2, keepdim=True)
    mask = torch.rand(series.shape, generator=generator) < 0.5
    return series, mask.float()


class SeriesSubject(DenoisingSubject):
    """Samples are imputed series [n, FEATURES, HOURS]."""

    modality = "time series"

    def __init__(self, network: Csdi) -> None:
        from diffusers import DDPMScheduler

        super().__init__(network)
        kept = alphas_cumprod()
        betas = 1 - kept / torch.cat([torch.ones(1), kept[:-1]])
        self.scheduler: Any = DDPMScheduler(
            num_train_timesteps=TIMESTEPS, trained_betas=betas.tolist()
        )

    @classmethod
    def load(cls, directory: Path) -> SeriesSubject:
        return cls(load_into(Csdi(), read_tensors(directory)))

    def task(self, setting: Setting) -> DenoisingTask:
        """Only hidden values count: the others are 0 in prediction and target."""
        series, mask = made_up_series(setting.effort.items, setting.seed)
        task = denoising_task(series, self.scheduler, setting.seed)
        target = task.target * _weight(mask)
        return replace(task, target=target)

    def predictor(self, setting: Setting) -> Predict:
        series, mask = made_up_series(setting.effort.items, setting.seed)
        weight = _weight(mask)
        return lambda noisy, t, items: (
            self.network(noisy, series[items], mask[items], t) * weight[items]
        )

    def generate(self, setting: Setting) -> Series:
        count = max(1, setting.effort.samples // PART)
        series, mask = made_up_series(count, setting.seed + 1)
        samples = ddim_samples(
            lambda x, t: self.network(x, series, mask, t.expand(count)),
            self.scheduler,
            series.shape,
            steps=min(setting.effort.steps, TIMESTEPS),
            seed=setting.seed,
        )
        return np.asarray((mask * series + (1 - mask) * samples).numpy())

    def scores(self, samples: Series, setting: Setting) -> dict[str, float]:
        series, mask = made_up_series(len(samples), setting.seed + 1)
        hidden = (1 - mask).bool()
        error = (torch.from_numpy(samples) - series)[hidden].square().mean()
        return {"error of imputed values": float(error.sqrt())}

    def compare_samples(self, samples: Series, reference_samples: Series) -> dict[str, float]:
        moved = np.square(samples.astype(np.float64) - reference_samples).sum()
        return {"relative error": float(np.sqrt(moved / np.square(reference_samples).sum()))}

    def picture(self, samples: Series, path: Path) -> None:
        """Each series as an image: measurements down, hours to the right, -2.5 .. 2.5 as grey."""
        grey = (samples / SHOWN).clip(-1, 1) / 2 + 0.5
        rows = np.array_split(grey, range(COLUMNS, len(grey), COLUMNS))
        save_grid(rows, path, [""] * len(rows))


def _weight(mask: Tensor) -> Tensor:
    """Such that a mean over all values is one over hidden values."""
    hidden = 1 - mask
    return hidden / hidden.mean(dim=(1, 2), keepdim=True).clamp_min(1e-6).sqrt()
