"""Train ``zoo/judges/digits.safetensors``, which says which handwritten digit an image shows.

``python -m zoo.train_digit_judge [--data DIR] [--steps 2000] [--seed 0]``

A few minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from zoo.data import DEFAULT_DATA, load_images, load_labels
from zoo.digit_judge import JUDGE_FILE, DigitJudge
from zoo.judge_training import held_out_line, train_judge

STEPS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    images, labels = load_images("mnist", args.data), load_labels("mnist", args.data)
    train = torch.from_numpy(images.train), torch.from_numpy(labels.train)
    judge = train_judge(DigitJudge(), *train, shifted=(2, 3), steps=args.steps)
    print(
        held_out_line(judge, torch.from_numpy(images.held_out), torch.from_numpy(labels.held_out))
    )
    JUDGE_FILE.parent.mkdir(exist_ok=True)
    save_file(judge.state_dict(), JUDGE_FILE)
    print(JUDGE_FILE)


if __name__ == "__main__":
    main()
