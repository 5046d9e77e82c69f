"""A small classifier of spoken digits: which word a spectrogram shows, and how surely."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.mel import FRAMES, MELS
from zoo.speech import WORDS

JUDGE_FILE = Path(__file__).parent / "judges" / "spoken-digits.safetensors"
#: Few, so that a covariance of a hundred samples has full rank.
FEATURES = 32


class SpeechJudge(nn.Module):
    """Convolutions over time, mel bands as channels; 57 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(MELS, 64, 5, stride=2, padding=2),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Conv1d(64, 64, 5, stride=2, padding=2),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Conv1d(64, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * FRAMES // 8, FEATURES),
        )
        self.head = nn.Linear(FEATURES, len(WORDS))

    def features(self, spectrograms: Tensor) -> Tensor:
        """What the decision rests on, shape [n, FEATURES]; ``spectrograms`` [n, MELS, FRAMES]."""
        return self.body(spectrograms)

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Logits of the words, shape [n, 10]."""
        return self.head(torch.relu(self.features(spectrograms)))


@cache
def load_judge() -> SpeechJudge:
    """Load the trained judge of this repository."""
    from safetensors.torch import load_file

    judge = SpeechJudge()
    judge.load_state_dict(load_file(JUDGE_FILE))
    return judge.eval()
