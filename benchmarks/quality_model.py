"""A model whose quality is measured: its network, its calibration, and its evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arrow_quant_v2 import CalibrationStatistics, DiffusionQuantConfig
from arrow_quant_v2.plan.model_plan import ModelPlan, plan_model
from arrow_quant_v2.torch import Batch, CannotRunError, calibrate, capture, load_quantized
from benchmarks.smoothquant import (
    RoundedInputs,
    smoothed_int8,
    smoothing_factors,
)
from benchmarks.weight_methods import Layer
from zoo.data import load_images
from zoo.evaluate.autoencoder import DIGITS_A_SIDE, AutoencoderSubject, coloured_squares
from zoo.evaluate.bootstrap import loss_difference
from zoo.evaluate.loader import load
from zoo.evaluate.subject import Effort, HeldOutLoss, Setting, Subject

#: Seed of calibration; evaluation has another, and other items.
CALIBRATION_SEED = 20_000
#: What says how far predictions moved, by modality.
DRIFT_NAMES = ("drift", "KL (nats)")
_RECORDED_PART = 5  # one row in so many of an overheard call
_STEPS = 25


@dataclass(frozen=True)
class Quality:
    """How far a quantized model is from its reference on held-out items.

    Attributes
    ----------
    bins
        Loss over the reference's, per bin of diffusion time.
    mean, low, high
        Relative difference of the mean loss, with its 95 % interval.
    drift
        Distance of predictions from the reference's: their squared distance over the reference's
        loss, or what the modality has in its place; `drift_name` says what.
    """

    loss: float
    reference_loss: float
    bins: tuple[float, ...]
    mean: float
    low: float
    high: float
    drift: float
    drift_name: str

    @property
    def geometric_mean(self) -> float:
        """Relative difference of the loss, as a geometric mean over bins."""
        return math.exp(sum(map(math.log, self.bins)) / len(self.bins)) - 1

    @property
    def worst_bin(self) -> float:
        """Relative difference of the loss in the worst bin."""
        return max(self.bins) - 1


class MeasuredModel:
    """One model; statistics and the reference's losses are made once and kept in `work`.

    Parameters
    ----------
    path
        Its directory, or one of several weight files in it: then the others stay as they are.
    """

    def __init__(self, path: Path, work: Path, samples: int, effort: Effort) -> None:
        self._file = path if path.is_file() else None
        self.directory = path if self._file is None else path.parent
        self.name = path.name if self._file is None else f"{path.parent.name} {path.stem}"
        self._work = work / "models" / self.name
        self._samples = samples
        self._setting = Setting(effort)

    @property
    def source(self) -> Path:
        """What is quantized: the directory, or its weight file."""
        if self._file is not None:
            return self._file
        files = sorted(self.directory.glob("*.safetensors"))
        plain = not (self.directory / "config.json").is_file()
        pipeline = (self.directory / "model_index.json").is_file()
        return files[0] if plain and not pipeline and len(files) == 1 else self.directory

    @cached_property
    def plan(self) -> ModelPlan:
        return plan_model(self.source, self.settings())

    def settings(self, **values: Any) -> DiffusionQuantConfig:
        """A configuration that takes any accuracy."""
        values.setdefault("min_accuracy", 0.0)
        values.setdefault("calibration_samples", self._samples)
        if self.source.is_file():
            values.setdefault("modality", "image")
        return DiffusionQuantConfig(**values)

    @cached_property
    def planned(self) -> list[str]:
        return [tensor.name for tensor in self.plan.tensors if tensor.bit_width is not None]

    def statistics_for(self, *, time_aware: bool) -> Path:
        """The same samples, as time-aware quantization counts them, or each token alike."""
        kind = "time-aware" if time_aware else "plain"
        path = self._work / f"calibration-{self._samples}-{kind}.stats"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                settings = self.settings(enable_time_aware=time_aware)
                capture(self.source, path, settings, seed=CALIBRATION_SEED)
            except CannotRunError:
                self._calibrate_by_overhearing(path, time_aware)
        return path

    @cached_property
    def grams(self) -> Mapping[str, np.ndarray]:
        statistics = CalibrationStatistics.load(self.statistics_for(time_aware=False))
        found = {}
        for number in range(len(statistics)):
            gram = statistics.gram(number)
            found.update(dict.fromkeys(statistics.layers(number), gram))
        return found

    @cached_property
    def reference(self) -> Subject:
        return load(self.directory).subject

    @cached_property
    def reference_loss(self) -> HeldOutLoss:
        return self.reference.loss(self._setting)

    def layers(self, *, calibrated: bool) -> Iterator[Layer]:
        """Every planned weight."""
        weights = self.weights_of(self.reference)
        for name in self.planned:
            matrix = weights[name].detach().float().flatten(1).numpy()
            yield Layer(name, matrix, self.grams.get(name) if calibrated else None)

    def mean_inputs(self) -> float:
        """Inputs of a row, so that one parameter a row counts as 1 / mean_inputs a weight."""
        weights = self.weights_of(self.reference).values()
        return sum(w.numel() for w in weights) / sum(len(w) for w in weights)

    def weights_of(self, subject: Subject) -> dict[str, Tensor]:
        """Planned weights of a loaded subject, by their names in the weight file."""
        parameters = dict(self.network_of(subject).named_parameters(remove_duplicate=False))
        return {name: parameters[name] for name in self.planned}

    def network_of(self, subject: Any) -> nn.Module:
        """The network that a subject of the evaluation runs."""
        component = self.plan.components[0]
        pipeline = getattr(subject, "pipeline", None)
        for owner, name in (
            (pipeline, component),
            (subject, component),
            (subject, "model"),
            (subject, "network"),
            (subject, self.source.stem),
        ):
            found = getattr(owner, name, None) if name else None
            if isinstance(found, nn.Module):
                return found
        raise ValueError(f"{self.name}: no network in a {type(subject).__name__}")

    def with_weights(self, restored: Mapping[str, np.ndarray]) -> Subject:
        """A fresh subject with these matrices in place of its weights."""
        subject = load(self.directory).subject
        with torch.no_grad():
            for name, weight in self.weights_of(subject).items():
                weight.copy_(torch.from_numpy(restored[name]).reshape(weight.shape))
        return subject

    def quality(self, subject: Subject) -> Quality:
        """Compare a subject with the reference."""
        subject.follow(self.reference)
        loss = subject.loss(self._setting)
        reference = self.reference_loss
        difference = loss_difference(loss, reference).relative
        distances = subject.compare(self.reference, self._setting)
        name = next((n for n in DRIFT_NAMES if n in distances), next(iter(distances)))
        bins = loss.per_bin() / reference.per_bin()
        return Quality(
            loss=loss.mean,
            reference_loss=reference.mean,
            bins=tuple(float(b) for b in bins),
            mean=difference.estimate,
            low=difference.low,
            high=difference.high,
            drift=distances[name],
            drift_name=name,
        )

    def quality_of_artefact(self, artefact: Path, activation: str) -> Quality:
        """Load an artefact as users do, to run from its packed weights, and compare it."""
        subject: Any = load(self.directory).subject
        network = self.network_of(subject)
        run: dict[str, Any] = {"activation": activation, "dtype": torch.float32}  # as the reference
        if self.plan.components[0]:
            loaded = getattr(load_quantized(artefact, **run), self.plan.components[0])
        else:
            loaded = load_quantized(artefact, **run, module=network)
        for owner in (getattr(subject, "pipeline", None), subject):
            for name, value in vars(owner).items() if owner is not None else ():
                if value is network:
                    setattr(owner, name, loaded)
        return self.quality(subject)

    def quality_of_smoothquant(self) -> Quality:
        """Int8 weights and activations, by SmoothQuant."""
        weights, factors = {}, {}
        shapes = {tensor.name: tensor.shape for tensor in self.plan.tensors}
        for layer in self.layers(calibrated=False):
            largest = self._ranges.get(layer.name, np.ones(shapes[layer.name][1], np.float32))
            factors[layer.name] = smoothing_factors(layer.weights, largest)
            weights[layer.name] = smoothed_int8(layer.weights, factors[layer.name])
        subject = self.with_weights(weights)
        by_id = {
            id(weight): torch.from_numpy(factors[name])
            for name, weight in self.weights_of(subject).items()
        }
        with RoundedInputs(by_id):
            return self.quality(subject)

    @cached_property
    def _ranges(self) -> dict[str, np.ndarray]:
        """Largest magnitude of every input channel over all timesteps, by weight."""
        statistics = CalibrationStatistics.load(self.statistics_for(time_aware=False))
        shapes = {tensor.name: tensor.shape for tensor in self.plan.tensors}
        found = {}
        for number in range(len(statistics)):
            times = statistics.times(number)
            largest = np.max([np.maximum(-t.low, t.high) for t in times], axis=0)
            for name in statistics.layers(number):
                found[name] = largest.reshape(shapes[name][1], -1).max(axis=1)
        return found

    def overheard(self, seed: int) -> tuple[nn.Module, list[Batch]]:
        """A network that no library knows, and what the evaluation's own sampler gives to it."""
        subject = load(self.directory).subject
        network = self.network_of(subject)
        heard: list[Batch] = []
        generator = torch.Generator().manual_seed(seed)

        def hear(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            count = len(args[0])
            rows = torch.randperm(count, generator=generator)[: -(-count // _RECORDED_PART)]
            kept = tuple(a[rows] if a.ndim > 0 and len(a) == count else a for a in args)
            timeless = len(args) == 1
            heard.append(Batch(kept, timestep=0.0 if timeless else float(args[-1].reshape(-1)[0])))

        handle = network.register_forward_pre_hook(hear)
        if isinstance(subject, AutoencoderSubject):
            subject.again(_training_pictures(self._samples, seed))
        else:
            effort = Effort(items=self._samples, samples=self._samples, steps=_STEPS)
            subject.generate(Setting(effort, seed=seed))
        handle.remove()
        return network, heard

    def _calibrate_by_overhearing(self, path: Path, time_aware: bool) -> None:
        network, heard = self.overheard(CALIBRATION_SEED)
        calibrate(
            network,
            heard,
            path,
            layers=self.planned,
            data="neutral",
            time_aware=time_aware,
        )


def _training_pictures(count: int, seed: int) -> Tensor:
    """What an autoencoder is calibrated on: other digits and colours than those held out."""
    digits = load_images("mnist").train[: count * DIGITS_A_SIDE**2]
    return coloured_squares(torch.from_numpy(digits), seed)
