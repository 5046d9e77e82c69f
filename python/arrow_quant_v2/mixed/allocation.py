"""Mixed precision: codes for every layer, so that a target is met at the least loss.

Every layer is quantized with each kind of codes, as the final run will do it. Its sensitivity is
the drift of the model's predictions with that one weight replaced (the way of MixDQ, Zhao et al.
2024, and of ViDiT-Q, Zhao et al. 2025, which measure outputs layer by layer and solve an integer
program).
Sensitivities are taken to add up; the best codes under that model are found exactly.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from arrow_quant_v2.calibration.model_kind import CannotRunError
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.loaded_model import LoadedModel
from arrow_quant_v2.mixed.layers import (
    Key,
    Layer,
    candidates,
    total_drift,
    total_size,
)
from arrow_quant_v2.mixed.search import least_drift, least_size
from arrow_quant_v2.mixed.trials import Trial, key_of, run_trial
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.plan.mixed_precision import KEPT, Codes, LayerBits, Measure, MixedPrecision
from arrow_quant_v2.plan.model_plan import PlannedTensor
from arrow_quant_v2.progress import ProgressCallback, scaled_progress

if TYPE_CHECKING:
    from arrow_quant_v2.torch.compare.running_model import RunningModel

__all__ = ["allocate"]

#: Parts of the progress: the trials, and getting the model to run; the rest is its replays.
_TRIALS, _LOADING = 0.4, 0.2
_MB = 1e6
#: Parquet's own bytes vary by a little with what is in the columns: so much of them is reserved.
_SPARE_BYTES = 4096


def allocate(
    model: LoadedModel,
    *,
    statistics: StrPath | None,
    progress: ProgressCallback | None,
) -> MixedPrecision:
    """Codes that meet the target of the model's settings.

    Parameters
    ----------
    model
        The settings' `bit_width` is the least that a layer gets.
    statistics
        What calibration learned; None quantizes data-free.

    Raises
    ------
    ConfigurationError
        The target cannot be reached, and the message says what can be; or it is
        `max_quality_loss`, and the model cannot run.
    """
    with tempfile.TemporaryDirectory(prefix="arrow-quant-") as folder:
        job = _Job(model, Path(folder), progress)
        job.run_trials(statistics)
        job.start_model()
        return job.solve()


class _Job:
    """One allocation, with what its steps hand on."""

    def __init__(self, model: LoadedModel, folder: Path, progress: ProgressCallback | None) -> None:
        assert model.config.target is not None
        self._model = model
        self._config = model.config
        self._target = model.config.target
        self._folder = folder
        self._progress = progress
        self._plan = model.plan
        self._planned = [t for t in self._plan.tensors if t.bit_width is not None]
        self._elements = sum(math.prod(tensor.shape) for tensor in self._planned)
        self._candidates = candidates(self._config.bit_width, self._config.group_size)
        self._trials: dict[Codes, Trial] = {}
        self._running: RunningModel | None = None
        self._why_not = ""

    def run_trials(self, statistics: StrPath | None) -> None:
        """Quantize the model with all kinds of codes."""
        share = _TRIALS / len(self._candidates)
        for number, codes in enumerate(self._candidates):
            self._trials[codes] = run_trial(
                self._model.path,
                self._config,
                self._plan,
                self._model.roles,
                codes,
                self._folder,
                statistics,
                scaled_progress(self._progress, share * number, share),
            )
            if number == 0:
                self._check_reachable()

    def start_model(self) -> None:
        """Get the model to run, if it can; see to it that it does where it must."""
        try:
            session = self._model.session()
            from arrow_quant_v2.torch.compare.running_model import RunningModel

            self._running = RunningModel(
                session, scaled_progress(self._progress, _TRIALS, _LOADING)
            )
        except CannotRunError as error:
            self._why_not = self._model.without_path(error.message)
        if self._running is None and self._target[0] == "max_quality_loss":
            raise ConfigurationError(
                f"max_quality_loss is about the predictions of the model, which does not run: "
                f"{self._why_not}",
                hint="Give target_bits or target_size_mb instead.",
            )

    def solve(self) -> MixedPrecision:
        """Measure every layer and choose."""
        layers = self._layers()
        if self._target[0] == "max_quality_loss":
            chosen = least_size(layers, self._target[1], lambda c: self._drift(layers, c))
        else:
            chosen = least_drift(layers, self._budget())
        if all(codes == KEPT for codes in chosen):
            name, value = self._target
            raise ConfigurationError(
                f"{name} {value:g} leaves no layer to quantize", hint="Ask for something smaller."
            )
        ran = self._running is not None
        return MixedPrecision(
            target=dict([self._target]),
            measure=self._measure(),
            measure_reason=self._why_not,
            states=self._running.states if self._running else 0,
            bits_per_weight=8 * total_size(layers, chosen) / self._elements,
            predicted_drift=total_drift(layers, chosen) if ran else None,
            measured_drift=self._drift(layers, chosen) if ran else None,
            layers=tuple(
                _layer_bits(layer, codes)
                for layer, codes in zip(layers, chosen, strict=True)
                if not layer.fixed
            ),
        )

    def _measure(self) -> Measure:
        if self._running is not None:
            return "predictions"
        known = any(any(trial.of_outputs.values()) for trial in self._trials.values())
        return "layer outputs" if known else "weights"

    def _layers(self) -> list[Layer]:
        drifts = self._measured()
        # A layer that no state reaches counts as others with the same error do.
        ratios = {
            codes: median(
                [d[codes] / trial.nmse[k] for k, d in drifts.items() if trial.nmse[k] > 0] or [1.0]
            )
            for codes, trial in self._trials.items()
        }
        layers = []
        for tensor in self._planned:
            key = key_of(tensor)
            sizes = self._sizes(tensor)
            own = drifts.get(key) or {
                codes: ratios[codes] * trial.nmse[key] for codes, trial in self._trials.items()
            }
            own = dict.fromkeys(sizes, 0.0) if tensor.fixed else {**own, KEPT: 0.0}
            layers.append(Layer(key, tensor.fixed, sizes, own))
        return layers

    def _measured(self) -> dict[Key, dict[Codes, float]]:
        """Drifts by codes of every layer that the running model has and no rule decides."""
        if self._running is None:
            return {}
        report = scaled_progress(self._progress, _TRIALS + _LOADING, 1 - _TRIALS - _LOADING)
        free = [tensor for tensor in self._planned if not tensor.fixed]
        drifts = {}
        for number, tensor in enumerate(free):
            if report is not None:
                report(f"sensitivity of {tensor.name}", number / len(free))
            key = key_of(tensor)
            if self._running.has(key):
                drifts[key] = {
                    codes: self._running.drift({key: trial.weight(key)})
                    for codes, trial in self._trials.items()
                }
        return drifts

    @property
    def _narrowest(self) -> Trial:
        """It has every layer that a rule decides, too, as all trials do."""
        return self._trials[self._candidates[0]]

    def _drift(self, layers: Sequence[Layer], chosen: Sequence[Codes]) -> float:
        """With all these layers rounded."""
        assert self._running is not None
        return self._running.drift(
            {
                layer.key: self._trials.get(codes, self._narrowest).weight(layer.key)
                for layer, codes in zip(layers, chosen, strict=True)
                if codes != KEPT and self._running.has(layer.key)
            }
        )

    def _sizes(self, tensor: PlannedTensor) -> dict[Codes, int]:
        """Bytes by codes; of a weight that a rule decides, with its only ones."""
        key = key_of(tensor)
        if tensor.fixed:
            own = Codes(tensor.bit_width or 0, self._config.group_size)
            return {own: self._narrowest.sizes[key]}
        sizes = {codes: trial.sizes[key] for codes, trial in self._trials.items()}
        return {**sizes, KEPT: tensor.source_bytes}

    def _budget(self) -> float:
        """Bytes of codes and parameters that the target leaves for all planned weights."""
        name, target = self._target
        if name == "target_bits":
            return target * self._elements / 8
        return target * _MB - self._other_bytes()

    def _other_bytes(self) -> int:
        return self._narrowest.other_bytes + _SPARE_BYTES

    def _check_reachable(self) -> None:
        """Refuse a size below that of the narrowest codes everywhere, before more is done."""
        name, target = self._target
        if name == "max_quality_loss":
            return
        least = sum(min(self._sizes(tensor).values()) for tensor in self._planned)
        if least <= self._budget():
            return
        if name == "target_bits":
            unit, figure = "bits per weight", 8 * least / self._elements
        else:
            unit, figure = "MB", (least + self._other_bytes()) / _MB
        bits = self._config.bit_width
        smaller = "A larger group_size" + ("" if bits == 2 else " or a bit_width of 2")
        raise ConfigurationError(
            f"{name} {target:g} cannot be reached: {bits} bits wherever no rule says otherwise "
            f"need {math.ceil(figure * 1000) / 1000:g} {unit}",
            hint=f"Ask for that or more. {smaller} needs less.",
        )


def _layer_bits(layer: Layer, codes: Codes) -> LayerBits:
    return LayerBits(
        component=layer.key[0],
        name=layer.key[1],
        bit_width=codes.bit_width or None,
        group_size=codes.group_size or None,
        sizes={own.name: size for own, size in layer.sizes.items()},
        drifts={own.name: drift for own, drift in layer.drifts.items()},
        reason=_reason(layer, codes),
    )


def _reason(layer: Layer, codes: Codes) -> str:
    """What the codes cost beyond the next smaller, or what the next larger would bring."""
    by_size = sorted(layer.sizes, key=layer.sizes.__getitem__)
    at = max(by_size.index(codes), 1)
    more, less = by_size[at], by_size[at - 1]
    kilobytes = (layer.sizes[more] - layer.sizes[less]) / 1000
    drift = layer.drifts[less] - layer.drifts[more]
    verb = "takes" if codes == more else "would take"
    return (
        f"mixed: {more.name} {verb} {kilobytes:.1f} kB more than {less.name}, for {drift:.2g} less "
        "drift"
    )
