"""Deterministic samples from a diffusers image pipeline, and labelled grids of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from diffusers import DDPMPipeline, DiTPipeline
    from torch import Tensor

Grid = npt.NDArray[np.float32]

#: Of classifier-free guidance (Ho and Salimans 2022); 1 is none.
GUIDANCE = 2.5


def sample_images(
    pipeline_or_dir: DDPMPipeline | str | Path, *, count: int = 8, steps: int = 50, seed: int = 0
) -> Grid:
    """Sample with DDIM, eta = 0: the same seed gives the same initial noise for every model.

    Returns
    -------
    numpy.ndarray
        Images [count, height, width] in 0..1 (the first channel).
    """
    from diffusers import DiffusionPipeline

    pipeline: Any = pipeline_or_dir
    if isinstance(pipeline_or_dir, str | Path):
        pipeline = DiffusionPipeline.from_pretrained(str(pipeline_or_dir), local_files_only=True)
    unet = pipeline.unet.eval()
    size = unet.config.sample_size
    x = ddim_samples(
        lambda x, t: unet(x, t).sample,
        pipeline.scheduler,
        (count, unet.config.in_channels, size, size),
        steps=steps,
        seed=seed,
    )
    return ((x[:, 0].clamp(-1, 1) + 1) / 2).numpy()


def sample_classes(
    pipeline_or_dir: DiTPipeline | str | Path,
    classes: Sequence[int],
    *,
    steps: int = 50,
    seed: int = 0,
    guidance: float = GUIDANCE,
) -> Grid:
    """Sample one image of each of ``classes`` with DDIM, eta = 0, from a latent transformer.

    ``DiTPipeline`` guides by class 1000, "none" of ImageNet; here "none" is the class after the
    last of the model.

    Returns
    -------
    numpy.ndarray
        Images [n, height, width] in 0..1 (the first channel).
    """
    import torch
    from diffusers import DiffusionPipeline

    pipeline: Any = pipeline_or_dir
    if isinstance(pipeline_or_dir, str | Path):
        pipeline = DiffusionPipeline.from_pretrained(str(pipeline_or_dir), local_files_only=True)
    transformer, vae = pipeline.transformer.float().eval(), pipeline.vae.float().eval()
    channels, size = transformer.config.in_channels, transformer.config.sample_size
    asked = torch.tensor(classes)
    labels = torch.cat([asked, torch.full_like(asked, transformer.config.num_embeds_ada_norm)])

    def predict(x: Tensor, t: Tensor) -> Tensor:
        out = transformer(torch.cat([x, x]), t.expand(len(labels)), class_labels=labels).sample
        by_class, by_none = out[:, :channels].chunk(2)
        guided: Tensor = by_none + guidance * (by_class - by_none)
        return guided

    shape = (len(classes), channels, size, size)
    latents = ddim_samples(predict, pipeline.scheduler, shape, steps=steps, seed=seed)
    with torch.inference_mode():
        images = vae.decode(latents / vae.config.scaling_factor).sample
    return np.asarray(((images[:, 0].clamp(-1, 1) + 1) / 2).numpy())


def ddim_samples(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    shape: Sequence[int],
    *,
    steps: int,
    seed: int,
) -> Tensor:
    """Denoise noise of ``shape`` by DDIM, eta = 0, with the betas of ``scheduler``.

    ``predict`` gets the noisy batch and one timestep, a scalar.
    """
    import torch
    from diffusers import DDIMScheduler

    ddim: Any = DDIMScheduler.from_config(scheduler.config)
    ddim.set_timesteps(steps)
    x = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        for t in ddim.timesteps:
            x = ddim.step(predict(x, t), t, x, eta=0.0).prev_sample
    return x


def save_grid(
    rows: Sequence[Grid], path: str | Path, labels: Sequence[str], *, scale: int = 3
) -> None:
    """Write one labelled row of images per entry of ``rows`` as a PNG."""
    from PIL import Image, ImageDraw, ImageFont

    pad, margin = 4, 120
    height, width = (side * scale for side in rows[0].shape[1:])
    columns = max(len(row) for row in rows)
    sheet = Image.new(
        "L", (margin + columns * (width + pad) + pad, len(rows) * (height + pad) + pad), 255
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=18)
    for i, (images, label) in enumerate(zip(rows, labels, strict=True)):
        top = pad + i * (height + pad)
        draw.text((10, top + height // 2), label, fill=0, font=font, anchor="lm")
        for j, image in enumerate(images):
            picture = Image.fromarray((image * 255).round().astype(np.uint8))
            picture = picture.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (margin + j * (width + pad), top))
    sheet.save(path)
