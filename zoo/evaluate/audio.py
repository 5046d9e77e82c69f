"""Spoken digits as log-mel spectrograms: a diffusers ``DanceDiffusionPipeline``.

Samples are spectrograms [n, MELS, FRAMES] in [-1, 1], see ``zoo/mel.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from zoo.evaluate.denoising import (
    DenoisingSubject,
    DenoisingTask,
    Predict,
    denoising_task,
    sample_distances,
)
from zoo.evaluate.judging import agreement, judge_scores
from zoo.evaluate.subject import Setting
from zoo.mel import FRAMES, MELS, RANGE_DB, save_wav, waveform
from zoo.sampling import ddim_samples, save_grid
from zoo.speech import load_held_out
from zoo.speech_judge import load_judge

COLUMNS = 10
#: What a sound file holds, samples.
AUDIBLE = 10

Spectrograms = npt.NDArray[np.float32]


class AudioSubject(DenoisingSubject):
    """A ``UNet1DModel`` over time with mel bands as channels."""

    modality = "audio"

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__(unet.float().eval())
        self.scheduler = scheduler

    @classmethod
    def load(cls, directory: Path) -> AudioSubject:
        from diffusers import DDPMScheduler, UNet1DModel

        # Not through the pipeline: its class warns on every use that it is old.
        unet: Any = UNet1DModel.from_pretrained(directory / "unet", local_files_only=True)
        scheduler = DDPMScheduler.from_pretrained(directory / "scheduler", local_files_only=True)
        return cls(unet, scheduler)

    def task(self, setting: Setting) -> DenoisingTask:
        """Words of voices that training never heard; there are 320."""
        words = torch.from_numpy(load_held_out().spectrograms[: setting.effort.items])
        return denoising_task(words, self.scheduler, setting.seed)

    def predictor(self, setting: Setting) -> Predict:
        return lambda noisy, t, items: self.network(noisy, t).sample

    def generate(self, setting: Setting) -> Spectrograms:
        shape = (setting.effort.samples, MELS, FRAMES)
        samples = ddim_samples(
            lambda x, t: self.network(x, t).sample,
            self.scheduler,
            shape,
            steps=setting.effort.steps,
            seed=setting.seed,
        )
        return samples.clamp(-1, 1).numpy()

    def scores(self, samples: Spectrograms, setting: Setting) -> dict[str, float]:
        held_out = torch.from_numpy(load_held_out().spectrograms)
        return judge_scores(load_judge(), torch.from_numpy(samples), held_out)

    def compare_samples(
        self, samples: Spectrograms, reference_samples: Spectrograms
    ) -> dict[str, float]:
        # Both to 0 .. 1, as PSNR wants them.
        found = sample_distances((samples + 1) / 2, (reference_samples + 1) / 2)
        decibel = (samples.astype(np.float64) - reference_samples) * RANGE_DB / 2
        found["log-mel distance (dB)"] = float(np.sqrt(np.square(decibel).mean(axis=1)).mean())
        pair = torch.from_numpy(samples), torch.from_numpy(reference_samples)
        return found | {"same word": agreement(load_judge(), *pair)}

    def picture(self, samples: Spectrograms, path: Path) -> None:
        """Spectrograms, lowest band at the bottom, and the first ones as sound in a WAV beside."""
        upright = (samples[:, ::-1] + 1) / 2
        rows = np.array_split(upright, range(COLUMNS, len(upright), COLUMNS))
        save_grid(rows, path, [""] * len(rows), scale=2)
        clips = waveform(torch.from_numpy(samples[:AUDIBLE]))
        save_wav(clips.flatten(), path.with_suffix(".wav"))
