"""What a model card shows: losses beside those of an untrained network, and samples.

``python -m zoo.model_card MODEL_DIR [--data DIR]``

Writes ``held_out.json`` and ``samples.png`` (and ``samples.wav``) into the directory of an image or
audio model and prints the table for its README.md.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch

from zoo.data import DEFAULT_DATA
from zoo.evaluate.denoising import DenoisingSubject
from zoo.evaluate.loader import load
from zoo.evaluate.subject import Effort, Setting

SAMPLES = 40
SEED = 1


def untrained(subject: DenoisingSubject) -> DenoisingSubject:
    """The same with fresh random weights."""
    found: Any = copy.copy(subject)
    torch.manual_seed(SEED)
    network = copy.deepcopy(subject.network)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    DenoisingSubject.__init__(found, network)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    args = parser.parse_args()

    subject: Any = load(args.model).subject
    full = Effort.full()
    setting = Setting(Effort(full.items, SAMPLES, full.steps), args.data)
    loss, fresh = subject.loss(setting), untrained(subject).loss(setting)
    report = {
        "timestep_bins": len(loss.bin_labels),
        "held_out": loss.per_bin().tolist(),
        "untrained": fresh.per_bin().tolist(),
    }
    (args.model / "held_out.json").write_text(json.dumps(report, indent=2) + "\n")
    subject.picture(subject.generate(setting), args.model / "samples.png")
    for label, *values in zip(loss.bin_labels, loss.per_bin(), fresh.per_bin(), strict=True):
        print(f"| {label.removeprefix('t ')} | {values[0]:.4f} | {values[1]:.3f} |")
    print(f"mean {loss.mean:.4f}, untrained {fresh.mean:.3f}: {fresh.mean / loss.mean:.1f} times")


if __name__ == "__main__":
    main()
