"""A small classifier of handwritten digits: which digit an image shows, and how surely."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from torch import Tensor, nn

JUDGE_FILE = Path(__file__).parent / "judges" / "digits.safetensors"
DIGITS = 10
#: Few, so that a covariance of a hundred samples has full rank.
FEATURES = 32


class DigitJudge(nn.Module):
    """Four convolutions; 34 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 48, 3, padding=1),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(48, 16, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 4 * 4, FEATURES),
        )
        self.head = nn.Linear(FEATURES, DIGITS)

    def features(self, images: Tensor) -> Tensor:
        """What the decision rests on, shape [n, FEATURES]; ``images`` [n, 1, 32, 32] in [-1, 1]."""
        found: Tensor = self.body(images)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the digits, shape [n, 10]."""
        found: Tensor = self.head(self.features(images).relu())
        return found


@cache
def load_judge() -> DigitJudge:
    """Load the trained judge of this repository."""
    from safetensors.torch import load_file

    judge = DigitJudge()
    judge.load_state_dict(load_file(JUDGE_FILE))
    return judge.eval()
