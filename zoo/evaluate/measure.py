"""Measure a model, and compare it with its reference."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.evaluate.bootstrap import loss_difference
from zoo.evaluate.report import BinReport, Report
from zoo.evaluate.subject import HeldOutLoss, Setting, Subject

#: Told what is being done now.
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """A loaded model with its name for people and the size of its weight files."""

    name: str
    subject: Subject
    weight_bytes: int


@dataclass(frozen=True)
class Measurement:
    """What a model does by itself: enough to compare others with it later."""

    candidate: Candidate
    setting: Setting
    loss: HeldOutLoss
    samples: Any
    scores: dict[str, float]

    def picture(self, path: Path) -> None:
        """Draw the samples as a PNG."""
        self.candidate.subject.picture(self.samples, path)


def measure(candidate: Candidate, setting: Setting, progress: Progress = print) -> Measurement:
    """Held-out loss, samples from fixed seeds, and their scores.

    Raises
    ------
    ValueError
        A loss or score is not finite: the model gives NaN or infinity.
    """
    subject = candidate.subject
    progress(f"{candidate.name}: held-out loss")
    loss = subject.loss(setting)
    _check_finite(candidate.name, {f"loss of {loss.name}": loss.mean})
    progress(f"{candidate.name}: {setting.effort.samples} samples, {setting.effort.steps} steps")
    with _one_seed(setting.seed):
        samples = subject.generate(setting)
    progress(f"{candidate.name}: scores of the samples")
    scores = subject.scores(samples, setting)
    _check_finite(candidate.name, scores)
    return Measurement(candidate, setting, loss, samples, scores)


def report(
    model: Measurement, reference: Measurement | None = None, progress: Progress = print
) -> Report:
    """What there is to say about a model, beside its reference if there is one.

    Raises
    ------
    ValueError
        The two have different layouts or were measured with different settings, or a distance
        is not finite.
    """
    name, setting = model.candidate.name, model.setting
    distances: dict[str, float] = {}
    sample_distances: dict[str, float] = {}
    difference = None
    if reference is not None:
        _check_same_kind(model, reference)
        progress(f"{name}: distance from the reference")
        difference = loss_difference(model.loss, reference.loss)
        subject, other = model.candidate.subject, reference.candidate.subject
        distances = subject.compare(other, setting)
        sample_distances = subject.compare_samples(model.samples, reference.samples)
        _check_finite(name, {**distances, **sample_distances})
    bins = [
        BinReport(
            label=label,
            items=int((model.loss.bins == i).sum()),
            loss=float(model.loss.per_bin()[i]),
            reference_loss=float(reference.loss.per_bin()[i]) if reference else None,
            difference=difference.bins[i] if difference else None,
        )
        for i, label in enumerate(model.loss.bin_labels)
    ]
    return Report(
        model=name,
        reference=reference.candidate.name if reference else None,
        modality=model.candidate.subject.modality,
        weight_bytes=model.candidate.weight_bytes,
        reference_weight_bytes=reference.candidate.weight_bytes if reference else None,
        items=setting.effort.items,
        samples=setting.effort.samples,
        steps=setting.effort.steps,
        seed=setting.seed,
        loss_name=model.loss.name,
        loss_unit=model.loss.unit,
        loss=model.loss.mean,
        reference_loss=reference.loss.mean if reference else None,
        verdict=difference.verdict if difference else None,
        difference=difference.absolute if difference else None,
        relative_difference=difference.relative if difference else None,
        bins=tuple(bins),
        scores=model.scores,
        reference_scores=reference.scores if reference else None,
        distances=distances,
        sample_distances=sample_distances,
    )


@contextlib.contextmanager
def _one_seed(seed: int) -> Any:
    """Fix torch's own generator too, for samplers that draw from it."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _check_same_kind(model: Measurement, reference: Measurement) -> None:
    kinds = [type(m.candidate.subject).__name__ for m in (model, reference)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"{model.candidate.name} is a {kinds[0]}, its reference {reference.candidate.name} a "
            f"{kinds[1]}. Pass the model that it was made from as the reference."
        )
    if model.setting != reference.setting:
        raise ValueError(f"different settings: {model.setting} against {reference.setting}")


def _check_finite(name: str, values: dict[str, float]) -> None:
    for what, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name}: {what} is {value}. The model gives NaN or infinity.")
