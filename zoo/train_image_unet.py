"""Train ``zoo/models/image-unet``: an unconditional DDPM of handwritten digits.

``python -m zoo.train_image_unet [--data DIR] [--out DIR] [--epochs 24] [--init DIR] [--seed 0]``

About two minutes an epoch on two cores with bf16. ``--init`` goes on from trained weights, with a
fresh learning-rate schedule. Saves the exponential moving average of the weights as a
genuine diffusers directory, with ``training_log.csv`` and ``held_out.json`` beside it.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import shutil
import time
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor

from zoo.data import DEFAULT_DATA, load_images
from zoo.sampling import sample_images, save_grid

MODEL_DIR = Path(__file__).parent / "models" / "image-unet"
BATCH = 64
LEARNING_RATE = 1e-3
WARM_UP_STEPS = 300
EMA_DECAY = 0.999
TIMESTEP_BINS = 10


def make_unet() -> UNet2DModel:
    """1.8 M parameters; most convolutions have 288 to 1728 inputs, so that groups make sense."""
    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 96),
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
    )


def held_out_loss(unet: UNet2DModel, scheduler: DDPMScheduler, images: Tensor) -> list[float]:
    """Noise-prediction MSE per bin of timesteps, on fixed noise: image i uses t = i of 1000."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(images.shape, generator=generator)
    timesteps = torch.arange(len(images)) * scheduler.config.num_train_timesteps // len(images)
    noisy = scheduler.add_noise(images, noise, timesteps)
    with torch.inference_mode():
        errors = torch.cat(
            [
                (unet(x, t).sample - n).square().mean(dim=(1, 2, 3))
                for x, t, n in zip(
                    noisy.split(100), timesteps.split(100), noise.split(100), strict=True
                )
            ]
        )
    return [float(part.mean()) for part in errors.chunk(TIMESTEP_BINS)]


class Trainer:
    """The loop with what it carries along."""

    def __init__(
        self, images: Tensor, epochs: int, learning_rate: float, init: Path | None
    ) -> None:
        self.images = images
        self.peak_learning_rate = learning_rate
        unet = UNet2DModel.from_pretrained(init / "unet") if init else make_unet()
        self.unet = unet.train().to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.unet).eval()
        self.scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), LEARNING_RATE, weight_decay=1e-4)
        self.step = 0
        self.steps = epochs * (len(images) // BATCH)

    def learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / WARM_UP_STEPS)
        return (
            self.peak_learning_rate * warm * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        )

    def train_step(self, batch: Tensor) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = max(self.learning_rate(), 1e-6)
        noise = torch.randn_like(batch)
        timesteps = torch.randint(0, 1000, (len(batch),))
        noisy = self.scheduler.add_noise(batch, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            prediction = self.unet(noisy.to(memory_format=torch.channels_last), timesteps).sample
        loss = (prediction.float() - noise).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for average, current in zip(self.ema.parameters(), self.unet.parameters(), strict=True):
                average.lerp_(current, 1 - decay)
        return float(loss.detach())

    def epoch(self) -> float:
        order = torch.randperm(len(self.images))
        batches = order[: len(order) // BATCH * BATCH].view(-1, BATCH)
        return sum(self.train_step(self.images[index]) for index in batches) / len(batches)


def save(trainer: Trainer, out: Path) -> None:
    """Replace the model files in ``out``; other files there (the model card) stay."""
    fresh = out.with_name(out.name + ".new")
    DDPMPipeline(unet=trainer.ema, scheduler=trainer.scheduler).save_pretrained(fresh)
    out.mkdir(parents=True, exist_ok=True)
    for entry in fresh.iterdir():
        old = out / entry.name
        if old.is_dir():
            shutil.rmtree(old)
        entry.replace(old)
    fresh.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--init", type=Path, help="go on from this model directory")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    data = load_images("mnist", args.data)
    held_out = torch.from_numpy(data.held_out)
    trainer = Trainer(torch.from_numpy(data.train), args.epochs, args.learning_rate, args.init)
    untrained = held_out_loss(make_unet().eval(), trainer.scheduler, held_out)
    start = time.monotonic()
    rows = []
    for epoch in range(args.epochs):
        train_loss = trainer.epoch()
        bins = held_out_loss(trainer.ema, trainer.scheduler, held_out)
        rows.append([epoch, trainer.step, train_loss, sum(bins) / len(bins)])
        print(*rows[-1], f"{time.monotonic() - start:.0f} s", flush=True)
        save(trainer, args.out)
        with (args.out / "training_log.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "step", "train_loss", "held_out_loss"])
            writer.writerows(rows)
    report = {"timestep_bins": TIMESTEP_BINS, "held_out": bins, "untrained": untrained}
    (args.out / "held_out.json").write_text(json.dumps(report, indent=2) + "\n")
    images = sample_images(args.out, count=40)
    save_grid(list(images.reshape(5, 8, 32, 32)), args.out / "samples.png", [""] * 5)


if __name__ == "__main__":
    main()
