"""Statistics of the shipped UNet, collected with hooks while its own sampler runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support import ZOO_UNET
from torch import Tensor, nn

from arrow_quant_v2 import CalibrationStatistics

TOKENS = 48  # of an image and a step

#: Told the timestep and the weight of what comes next.
Weighting = Callable[[float], float]


def collect(
    path: Path,
    *,
    images: int = 6,
    steps: int = 10,
    tokens: int = TOKENS,
    held_out: bool = True,
    weight: Weighting = lambda t: 1.0,
    only: Callable[[str], bool] = lambda name: True,
) -> Path:
    """Sample `images` images in `steps` steps; every other image is held out."""
    from diffusers import DDIMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel.from_pretrained(str(ZOO_UNET / "unet")).eval()
    scheduler = DDIMScheduler.from_pretrained(str(ZOO_UNET / "scheduler"))
    scheduler.set_timesteps(steps)
    recorder = _Recorder(unet, tokens, held_out, only)
    sample = torch.randn(images, 1, 32, 32)
    with torch.inference_mode():
        for t in scheduler.timesteps:
            recorder.timestep, recorder.weight = float(t), weight(float(t))
            noise = unet(sample, t).sample
            sample = scheduler.step(noise, t, sample).prev_sample
    recorder.statistics.save(path)
    return path


class _Recorder:
    """Hooks on all linear layers and convolutions; layers that meet one input share it."""

    def __init__(
        self, model: nn.Module, tokens: int, held_out: bool, only: Callable[[str], bool]
    ) -> None:
        self.statistics = CalibrationStatistics("unet", data="neutral")
        self.timestep = self.weight = 0.0
        self._tokens, self._held_out = tokens, held_out
        self._rng = torch.Generator().manual_seed(0)
        for name, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)) and only(name):
                number = self.statistics.add_input(
                    {f"{name}.weight": module.weight.detach().numpy()}
                )
                module.register_forward_pre_hook(self._hook(number))

    def _hook(self, number: int) -> Any:
        def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = _as_tokens(module, inputs[0])  # [images, tokens, channels]
            for half in range(2):
                part = values[half::2]
                chosen = torch.randint(part.shape[1], (self._tokens,), generator=self._rng)
                self.statistics.add(
                    number,
                    np.ascontiguousarray(part[:, chosen].numpy()),
                    self.timestep,
                    weight=self.weight,
                    held_out=self._held_out and half == 1,
                )

        return record


def _as_tokens(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, nn.Conv2d):
        assert isinstance(module.padding, tuple)
        patches = torch.nn.functional.unfold(
            x, module.kernel_size, padding=module.padding, stride=module.stride
        )
        return patches.transpose(1, 2)
    return x.reshape(x.shape[0], -1, x.shape[-1])
