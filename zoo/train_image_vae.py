"""Train ``zoo/models/image-dit/vae``: the autoencoder whose latents the image transformer denoises.

``python -m zoo.train_image_vae [--minutes 8 | --steps N] [--data DIR] [--out DIR]
[--init DIR] [--seed 0]``

One core is enough. Mean square error plus a weak pull of the latents to a standard normal
distribution (Kingma and Welling 2014), whose standard deviation over the training images becomes
``scaling_factor``. Saves averaged weights in float16.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from zoo.data import DEFAULT_DATA, load_images
from zoo.training import Budget, Log, Trainer, replace_model

VAE_DIR = Path(__file__).parent / "models" / "image-dit" / "vae"
BATCH = 32
LEARNING_RATE = 2e-3
CHECKPOINT_STEPS = 100
#: Of the Kullback-Leibler divergence, beside the square error, both summed over an image.
KL_WEIGHT = 1e-3


def make_vae() -> AutoencoderKL:
    """0.2 M parameters: 32 x 32 pixels to 8 x 8 latents of 8 channels."""
    levels = (16, 24, 32)
    return AutoencoderKL(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        latent_channels=8,
        block_out_channels=levels,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * len(levels),
        up_block_types=("UpDecoderBlock2D",) * len(levels),
        mid_block_add_attention=False,
    )


def encode(vae: nn.Module, images: Tensor) -> Tensor:
    """Most likely latents, shape [n, 8, 8, 8], not scaled."""
    with torch.inference_mode():
        return torch.cat([vae.encode(part).latent_dist.mode() for part in images.split(250)])


def reconstruction_error(vae: nn.Module, images: Tensor) -> float:
    """Mean square error of pixels in [-1, 1] after encoding and decoding."""
    with torch.inference_mode():
        return float((vae.decode(encode(vae, images)).sample - images).square().mean())


def save(vae: nn.Module, images: Tensor, folder: Path) -> None:
    """Write the weights in float16, with the scale of the latents of ``images``."""
    half = copy.deepcopy(vae).half()
    half.register_to_config(scaling_factor=round(1 / float(encode(vae, images).std()), 4))
    half.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--steps", type=int, help="instead of minutes; the same every time")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--out", type=Path, default=VAE_DIR)
    parser.add_argument("--init", type=Path, help="go on from these weights")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    data = load_images("mnist", args.data)
    images, held_out = torch.from_numpy(data.train), torch.from_numpy(data.held_out)[:250]

    def loss(vae: nn.Module) -> Tensor:
        clean = images[torch.randint(len(images), (BATCH,))]
        posterior = vae.encode(clean).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        error = (decoded.float() - clean).square().mean()
        return error + KL_WEIGHT * posterior.kl().float().mean() / clean[0].numel()

    vae = AutoencoderKL.from_pretrained(args.init).float() if args.init else make_vae()
    trainer = Trainer(vae, loss, Budget(args.minutes, args.steps), LEARNING_RATE)
    log = Log(args.out.with_name("vae_training_log.csv"))

    def checkpoint(train_loss: float) -> None:
        log.add(trainer, train_loss, reconstruction_error(trainer.average, held_out))
        replace_model(args.out, lambda folder: save(trainer.average, images[:2000], folder))

    trainer.run(checkpoint, every=CHECKPOINT_STEPS)


if __name__ == "__main__":
    main()
