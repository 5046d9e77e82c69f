"""Train ``zoo/judges/spoken-digits.safetensors``, which says which word a spectrogram is.

``python -m zoo.train_speech_judge [--work DIR] [--steps 1500] [--seed 0]``

Needs ``espeak-ng``. A few minutes on one core. Half of a batch is mixtures of two words with mixed
labels (mixup, Zhang et al. 2018) and noise, so that the judge is unsure of what is no word.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from zoo.speech import WORDS, WORK_DIR, SpeechSet, load_held_out, load_training
from zoo.speech_judge import JUDGE_FILE, SpeechJudge

STEPS = 1500
BATCH = 64
LEARNING_RATE = 2e-3
#: Standard deviation of the noise on half of a batch, at most.
NOISE = 0.5
#: Shifts in time, frames.
SHIFT = 3


def augmented(batch: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Shift all clips; mix the second half with each other and with noise."""
    shift = int(torch.randint(-SHIFT, SHIFT + 1, ()))
    batch = torch.roll(batch, shift, dims=2)
    half = len(batch) // 2
    share = torch.rand(half, 1)
    partner = torch.randperm(half) + half
    mixed = share[..., None] * batch[half:] + (1 - share[..., None]) * batch[partner]
    mixed_targets = share * targets[half:] + (1 - share) * targets[partner]
    # The noisier, the less sure: at NOISE nothing is left to be sure of.
    level = torch.rand(half, 1)
    mixed = mixed + NOISE * level[..., None] * torch.randn_like(mixed)
    mixed_targets = (1 - level) * mixed_targets + level / len(WORDS)
    return torch.cat([batch[:half], mixed]), torch.cat([targets[:half], mixed_targets])


def train(speech: SpeechSet, steps: int) -> SpeechJudge:
    """Minimize cross-entropy, Adam with a cosine schedule."""
    items, words = torch.from_numpy(speech.spectrograms), torch.from_numpy(speech.words)
    targets = functional.one_hot(words, len(WORDS)).float()
    judge = SpeechJudge().train()
    optimizer = torch.optim.AdamW(judge.parameters(), LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        index = torch.randint(len(items), (BATCH,))
        batch, soft_targets = augmented(items[index], targets[index])
        loss = functional.cross_entropy(judge(batch), soft_targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK_DIR, help="spoken words")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    judge = train(load_training(args.work), args.steps)
    held_out = load_held_out()
    with torch.inference_mode():
        said = judge(torch.from_numpy(held_out.spectrograms)).softmax(dim=1)
    right = (said.argmax(dim=1).numpy() == held_out.words).mean()
    print(f"held-out accuracy {right:.4f}, mean confidence {said.amax(dim=1).mean():.3f}")
    JUDGE_FILE.parent.mkdir(exist_ok=True)
    save_file(judge.state_dict(), JUDGE_FILE)
    print(JUDGE_FILE)


if __name__ == "__main__":
    main()
