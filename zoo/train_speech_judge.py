"""Train ``zoo/judges/spoken-digits.safetensors``, which says which word a spectrogram is.

``python -m zoo.train_speech_judge [--work DIR] [--steps 1500] [--seed 0]``

Needs ``espeak-ng``. A few minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from zoo.judge_training import held_out_line, train_judge
from zoo.speech import WORK_DIR, load_held_out, load_training
from zoo.speech_judge import JUDGE_FILE, SpeechJudge

STEPS = 1500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK_DIR, help="spoken words")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    speech, held_out = load_training(args.work), load_held_out()
    clips, words = torch.from_numpy(speech.spectrograms), torch.from_numpy(speech.words)
    judge = train_judge(SpeechJudge(), clips, words, shifted=(2,), steps=args.steps)
    unheard = torch.from_numpy(held_out.spectrograms), torch.from_numpy(held_out.words)
    print(held_out_line(judge, *unheard))
    JUDGE_FILE.parent.mkdir(exist_ok=True)
    save_file(judge.state_dict(), JUDGE_FILE)
    print(JUDGE_FILE)


if __name__ == "__main__":
    main()
