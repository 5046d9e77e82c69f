"""Training of the small classifiers that judge samples.

Half of a batch is mixtures of two items with mixed labels (mixup, Zhang et al. 2018) and noise, so
that a judge is unsure of what is neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH = 64
LEARNING_RATE = 2e-3
#: Standard deviation of the noise on half of a batch, at most.
NOISE = 0.5
#: Shifts, frames or pixels.
SHIFT = 3

Judge = TypeVar("Judge", bound=nn.Module)


def augmented(batch: Tensor, targets: Tensor, shifted: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Shift all items along the axes ``shifted``; mix the second half with each other and noise."""
    for axis in shifted:
        batch = torch.roll(batch, int(torch.randint(-SHIFT, SHIFT + 1, ())), dims=axis)
    half = len(batch) // 2
    per_item = (half, *[1] * (batch.ndim - 1))
    share = torch.rand(half, 1)
    partner = torch.randperm(half) + half
    kept = share.view(per_item)
    mixed = kept * batch[half:] + (1 - kept) * batch[partner]
    mixed_targets = share * targets[half:] + (1 - share) * targets[partner]
    # The noisier, the less sure: at NOISE nothing is left to be sure of.
    level = torch.rand(half, 1)
    mixed = mixed + NOISE * level.view(per_item) * torch.randn_like(mixed)
    mixed_targets = (1 - level) * mixed_targets + level / targets.shape[1]
    return torch.cat([batch[:half], mixed]), torch.cat([targets[:half], mixed_targets])


def train_judge(
    judge: Judge, items: Tensor, labels: Tensor, *, shifted: Sequence[int], steps: int
) -> Judge:
    """Minimize cross-entropy, Adam with a cosine schedule; ``labels`` are classes, shape [n]."""
    targets = functional.one_hot(labels).float()
    judge.train()
    optimizer = torch.optim.AdamW(judge.parameters(), LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        index = torch.randint(len(items), (BATCH,))
        batch, soft_targets = augmented(items[index], targets[index], shifted)
        loss = functional.cross_entropy(judge(batch), soft_targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge.eval()


def held_out_line(judge: nn.Module, items: Tensor, labels: Tensor) -> str:
    """Accuracy and confidence on held-out items, for people."""
    with torch.inference_mode():
        said = judge(items).softmax(dim=1)
    right = float((said.argmax(dim=1) == labels).float().mean())
    return f"held-out accuracy {right:.4f}, mean confidence {said.amax(dim=1).mean():.3f}"
