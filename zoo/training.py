"""What the training scripts share: a budget, the loop with averaged weights, and its log."""

from __future__ import annotations

import copy
import csv
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

WARM_UP_STEPS = 200
EMA_DECAY = 0.999
LOWEST_LEARNING_RATE = 1e-6


@dataclass
class Budget:
    """How long to train: until ``minutes`` have passed, or for ``steps`` steps if given.

    The learning rate follows the budget, so a run always ends with small steps. Only runs by
    ``steps`` are the same twice.
    """

    minutes: float
    steps: int | None = None
    start: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    def progress(self, step: int) -> float:
        """Part of the budget that is spent, 0 .. 1 and beyond."""
        return self.elapsed / (60 * self.minutes) if self.steps is None else step / self.steps


class Trainer:
    """AdamW with warm-up and a cosine schedule, and an exponential moving average of the weights.

    Parameters
    ----------
    network
        Trained in place; bf16 autocast, weights stay float32.
    loss
        Draws a batch and gives the loss of the network on it, a scalar.
    budget
        When to end.
    learning_rate
        The peak.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[nn.Module], Tensor],
        budget: Budget,
        learning_rate: float,
    ) -> None:
        self.network = network.train()
        self.average = copy.deepcopy(network).eval()
        self.loss = loss
        self.budget = budget
        self.peak = learning_rate
        self.optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-4)
        self.step = 0

    def run(self, checkpoint: Callable[[float], None], *, every: int) -> None:
        """Train to the end of the budget.

        ``checkpoint`` gets the mean loss since the last call, every ``every`` steps and at the end.
        """
        losses: list[Tensor] = []
        while self.budget.progress(self.step) < 1:
            losses.append(self._train_step())
            if len(losses) == every:
                checkpoint(float(torch.stack(losses).mean()))
                losses = []
        if losses:
            checkpoint(float(torch.stack(losses).mean()))

    def _train_step(self) -> Tensor:
        cosine = 0.5 * (1 + math.cos(math.pi * self.budget.progress(self.step)))
        warm = min(1.0, (self.step + 1) / WARM_UP_STEPS)
        for group in self.optimizer.param_groups:
            group["lr"] = max(self.peak * warm * cosine, LOWEST_LEARNING_RATE)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.loss(self.network)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            current = self.network.parameters()
            for average, new in zip(self.average.parameters(), current, strict=True):
                average.lerp_(new, 1 - decay)
        return loss.detach()


class Log:
    """Losses by step, written to a CSV file and printed as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(["step", "seconds", "train_loss", "held_out_loss"], "w")

    def add(self, trainer: Trainer, train_loss: float, held_out_loss: float) -> None:
        """One line."""
        seconds = round(trainer.budget.elapsed)
        row = [trainer.step, seconds, f"{train_loss:.5f}", f"{held_out_loss:.5f}"]
        print(*row, flush=True)
        self._write(row, "a")

    def _write(self, row: list[object], mode: str) -> None:
        with self.path.open(mode, newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)


def replace_model(out: Path, save: Callable[[Path], None]) -> None:
    """Replace what ``save`` writes into a folder in ``out``; other files there stay."""
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    save(fresh)
    for config in fresh.rglob("*.json"):
        # Where weights came from is a path on this machine.
        fields = json.loads(config.read_text())
        if fields.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    for entry in fresh.iterdir():
        old = out / entry.name
        if old.is_dir():
            shutil.rmtree(old)
        entry.replace(old)
    fresh.rmdir()
