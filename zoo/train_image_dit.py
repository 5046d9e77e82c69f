"""Train ``zoo/models/image-dit``: a transformer that denoises latents of digits by class.

``python -m zoo.train_image_dit [--minutes 60 | --steps N] [--data DIR] [--out DIR] [--init DIR]
[--seed 0]``

``python -m zoo.train_image_vae`` comes first. One core is enough. Blocks start as the identity
(adaLN-zero, Peebles and Xie 2023); a tenth of the labels is dropped, for classifier-free guidance.
Saves averaged weights in float16, with ``training_log.csv`` beside them.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import Tensor, nn

from zoo.data import DEFAULT_DATA, load_images, load_labels
from zoo.digit_judge import DIGITS
from zoo.train_image_vae import encode
from zoo.training import Budget, Log, Trainer, replace_model

MODEL_DIR = Path(__file__).parent / "models" / "image-dit"
BATCH = 64
LEARNING_RATE = 1e-3
CHECKPOINT_STEPS = 200
DROPPED_LABELS = 0.1


def make_transformer() -> DiTTransformer2DModel:
    """3.5 M parameters: two blocks of width 288 over 16 patches of 2 x 2 latents."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=6,
        attention_head_dim=48,
        in_channels=8,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=DIGITS,
    )
    for block in transformer.transformer_blocks:
        nn.init.zeros_(block.norm1.linear.weight)
        nn.init.zeros_(block.norm1.linear.bias)
        # Each block would drop labels by itself; training drops them for all blocks at once.
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    for layer in (transformer.proj_out_1, transformer.proj_out_2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return transformer


def make_scheduler() -> DDPMScheduler:
    """Noise prediction with 1,000 linear betas."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False)


def save(transformer: nn.Module, vae: nn.Module, folder: Path) -> None:
    """Write the pipeline with the transformer in float16."""
    pipeline = DiTPipeline(
        transformer=copy.deepcopy(transformer).half(),
        vae=vae,
        scheduler=make_scheduler(),
    )
    # The pipeline takes the names of classes from its index, but does not write them there.
    pipeline.register_to_config(id2label={str(i): str(i) for i in range(DIGITS)})
    pipeline.save_pretrained(folder)


def held_out_loss(transformer: nn.Module, latents: Tensor, labels: Tensor) -> float:
    """Noise-prediction MSE on fixed noise; image i of n uses t = 1000 i / n."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    timesteps = torch.arange(len(latents)) * 1000 // len(latents)
    noisy = make_scheduler().add_noise(latents, noise, timesteps)
    with torch.inference_mode():
        found = transformer(noisy, timesteps, class_labels=labels).sample
    return float((found - noise).square().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, help="instead of minutes; the same every time")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    parser.add_argument("--init", type=Path, help="go on from these weights")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    images, labels = load_images("mnist", args.data), load_labels("mnist", args.data)
    stored = AutoencoderKL.from_pretrained(args.out / "vae", torch_dtype=torch.float16)
    vae = copy.deepcopy(stored).float().eval()
    scale = vae.config.scaling_factor
    latents = encode(vae, torch.from_numpy(images.train)) * scale
    classes = torch.from_numpy(labels.train)
    held_out = (
        encode(vae, torch.from_numpy(images.held_out[:500])) * scale,
        torch.from_numpy(labels.held_out[:500]),
    )
    scheduler = make_scheduler()

    def loss(transformer: nn.Module) -> Tensor:
        index = torch.randint(len(latents), (BATCH,))
        clean, asked = latents[index], classes[index]
        asked = torch.where(torch.rand(BATCH) < DROPPED_LABELS, DIGITS, asked)
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, 1000, (BATCH,))
        noisy = scheduler.add_noise(clean, noise, timesteps)
        prediction = transformer(noisy, timesteps, class_labels=asked).sample
        return (prediction.float() - noise).square().mean()

    transformer = make_transformer()
    if args.init:
        trained = DiTTransformer2DModel.from_pretrained(args.init / "transformer")
        transformer.load_state_dict(trained.state_dict())
    trainer = Trainer(transformer, loss, Budget(args.minutes, args.steps), LEARNING_RATE)
    log = Log(args.out / "training_log.csv")

    def checkpoint(train_loss: float) -> None:
        log.add(trainer, train_loss, held_out_loss(trainer.average, *held_out))
        replace_model(args.out, lambda folder: save(trainer.average, stored, folder))

    trainer.run(checkpoint, every=CHECKPOINT_STEPS)


if __name__ == "__main__":
    main()
