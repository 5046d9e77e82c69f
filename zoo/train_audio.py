"""Train ``zoo/models/audio``: diffusion of spoken digits as log-mel spectrograms.

``python -m zoo.train_audio [--minutes 50 | --steps N] [--out DIR] [--work DIR] [--init DIR]
[--seed 0]``

Needs ``espeak-ng``. One core is enough: a step of 32 spectrograms takes about a quarter of a
second. Saves averaged weights in float16, with ``training_log.csv`` beside them.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from diffusers import (
    DanceDiffusionPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UNet1DModel,
)
from torch import Tensor, nn

from zoo.mel import FRAMES, HOP, MELS, SAMPLE_RATE
from zoo.speech import WORK_DIR, load_held_out, load_training
from zoo.training import Budget, Log, Trainer, replace_model

MODEL_DIR = Path(__file__).parent / "models" / "audio"
BATCH = 32
LEARNING_RATE = 1e-3
CHECKPOINT_STEPS = 200


def make_unet() -> UNet1DModel:
    """3.2 M parameters: mel bands are channels, frames are time; convolutions of width 5.

    It predicts the clean spectrogram: bands as channels are too few to carry the noise of every
    point to the output, and samples of a network that predicts noise stay grey where silence is.
    For the same reason no block with a normalization follows the last level.
    """
    levels = (128, 160, 256)
    return UNet1DModel(
        sample_size=FRAMES,
        sample_rate=SAMPLE_RATE // HOP,
        in_channels=MELS,
        out_channels=MELS,
        block_out_channels=levels,
        layers_per_block=0,
        down_block_types=("DownResnetBlock1D",) * len(levels),
        mid_block_type="MidResTemporalBlock1D",
        up_block_types=("UpResnetBlock1D",) * len(levels),
        time_embedding_type="positional",
        use_timestep_embedding=True,
        act_fn="mish",
    )


def make_scheduler() -> DDPMScheduler:
    """Sample prediction with 1,000 linear betas."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="sample")


def save(unet: nn.Module, folder: Path) -> None:
    """Write the pipeline; its sampler takes the float timesteps that the pipeline passes."""
    sampler = DPMSolverMultistepScheduler.from_config(make_scheduler().config)
    half = copy.deepcopy(unet).half()
    DanceDiffusionPipeline(unet=half, scheduler=sampler).save_pretrained(folder)


def held_out_loss(unet: nn.Module, clips: Tensor) -> float:
    """MSE of the clean spectrograms on fixed noise; clip i of n uses t = 1000 i / n."""
    noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(1))
    timesteps = torch.arange(len(clips)) * 1000 // len(clips)
    noisy = make_scheduler().add_noise(clips, noise, timesteps)
    with torch.inference_mode():
        return float((unet(noisy, timesteps).sample - clips).square().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--steps", type=int, help="instead of minutes; the same every time")
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    parser.add_argument("--work", type=Path, default=WORK_DIR, help="spoken words")
    parser.add_argument("--init", type=Path, help="go on from these weights")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    clips = torch.from_numpy(load_training(args.work).spectrograms)
    held_out = torch.from_numpy(load_held_out().spectrograms)
    scheduler = make_scheduler()

    def loss(unet: nn.Module) -> Tensor:
        clean = clips[torch.randint(len(clips), (BATCH,))]
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, 1000, (BATCH,))
        prediction = unet(scheduler.add_noise(clean, noise, timesteps), timesteps).sample
        return (prediction.float() - clean).square().mean()

    start = args.init and UNet1DModel.from_pretrained(args.init / "unet").float()
    trainer = Trainer(start or make_unet(), loss, Budget(args.minutes, args.steps), LEARNING_RATE)
    log = Log(args.out / "training_log.csv")

    def checkpoint(train_loss: float) -> None:
        log.add(trainer, train_loss, held_out_loss(trainer.average, held_out))
        replace_model(args.out, lambda folder: save(trainer.average, folder))

    trainer.run(checkpoint, every=CHECKPOINT_STEPS)


if __name__ == "__main__":
    main()
