"""The outputs of an artefact against those of its original, on inputs of the original's sampler."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from arrow_quant_v2._engine import ProgressCallback, StrPath
from arrow_quant_v2.artefact import open_quantized
from arrow_quant_v2.config import VALIDATION, DiffusionQuantConfig, known_modality
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.plan import plan_model
from arrow_quant_v2.torch_files import readable_model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from arrow_quant_v2.torch.tape import Batch

__all__ = ["OutputComparison", "TimeBin", "check_can_run", "compare_outputs"]

#: The part of the progress that making the inputs takes.
_HALF = 0.5


@dataclass(frozen=True)
class TimeBin:
    """Outputs at diffusion times from `begin` to `end`, both included, as the network gets them."""

    begin: float
    end: float
    outputs: int
    cosine_similarity: float
    nmse: float


@dataclass(frozen=True)
class OutputComparison:
    """All outputs of the network together, and by diffusion time.

    Attributes
    ----------
    component
        The component that was run; empty when the model is one.
    inputs
        States of the original's own trajectories that both got.
    cosine_similarity, nmse
        Over all elements of all outputs: the cosine, and the squared difference relative to the
        square of the original's.
    bins
        The same by diffusion time, in ascending order.
    """

    component: str
    inputs: int
    cosine_similarity: float
    nmse: float
    bins: tuple[TimeBin, ...]


@dataclass
class _Sums:
    """Sums over pairs of outputs: a*a, b*b, a*b and (a - b)^2."""

    outputs: int = 0
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    difference: float = 0.0

    def add(self, other: _Sums) -> None:
        self.outputs += other.outputs
        self.aa += other.aa
        self.bb += other.bb
        self.ab += other.ab
        self.difference += other.difference

    def cosine(self) -> float:
        if self.aa == 0 or self.bb == 0:
            return 1.0 if self.aa == self.bb else 0.0
        return self.ab / math.sqrt(self.aa * self.bb)

    def nmse(self) -> float:
        if self.aa == 0:
            return 0.0 if self.difference == 0 else math.inf
        return self.difference / self.aa


def compare_outputs(
    original_path: StrPath,
    quantized_path: StrPath,
    *,
    progress_callback: ProgressCallback | None = None,
) -> OutputComparison:
    """Run both models on states of the original's own trajectories.

    Those come from its sampler (or from texts that it writes, for a masked language model), from
    neutral inputs and a fixed seed that calibration does not use. Both run in float32.

    Raises
    ------
    ConfigurationError
        torch or the library of the model is missing, or the model cannot be run.
    """
    from arrow_quant_v2.torch.observe import evaluating

    def report(message: str, fraction: float) -> None:
        if progress_callback is not None:
            progress_callback(message, fraction)

    report("loading the original", 0.0)
    component, network, tape = _record(original_path, quantized_path, report)
    with evaluating(network):
        expected = _run(network, tape, lambda f: report("running the original", _HALF + f / 4))
    del network
    report("loading the artefact", _HALF + 0.25)
    network = _load(quantized_path, component)
    with evaluating(network):
        found = _run(network, tape, lambda f: report("running the artefact", 0.75 + f / 4))
    return _compared(component, tape, expected, found)


def check_can_run() -> None:
    """Raise ConfigurationError unless torch is there."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigurationError(
            "level='outputs' runs both models, which needs torch and the library of the model",
            hint="pip install 'arrow-quant-v2[models]', or compare the weights: level='weights'.",
        )


def _record(
    original_path: StrPath, quantized_path: StrPath, report: ProgressCallback
) -> tuple[str, nn.Module, list[Batch]]:
    """The network of the original and what its own sampler gives it."""
    from arrow_quant_v2.torch.capture import record_tape

    artefact = open_quantized(quantized_path)
    config = DiffusionQuantConfig(
        modality=known_modality(artefact.metadata["modality"]),
        components=tuple(name for name in artefact.components if name) or None,
        calibration_samples=0,
        enable_time_aware=False,
        enable_spatial=False,
    )

    def progress(done: float) -> None:
        report("recording inputs", _HALF * done)

    with readable_model(original_path) as original:
        return record_tape(
            Path(original),
            plan_model(original, config),
            samples=VALIDATION.samples,
            seed=VALIDATION.seed,
            progress=progress,
        )


def _load(quantized_path: StrPath, component: str) -> nn.Module:
    import torch

    from arrow_quant_v2.torch import load_quantized

    model = load_quantized(quantized_path, dtype=torch.float32)
    network: nn.Module = getattr(model, component) if component else model
    return network


def _run(
    network: nn.Module, tape: Sequence[Batch], progress: Callable[[float], None]
) -> list[Tensor]:
    """One output per batch: the first that the network returns, as float64."""
    outputs = []
    for number, batch in enumerate(tape):
        output = network(*batch.args, **batch.kwargs)
        outputs.append((output if hasattr(output, "ndim") else output[0]).double())
        progress((number + 1) / len(tape))
    return outputs


def _compared(
    component: str, tape: Sequence[Batch], expected: Sequence[Tensor], found: Sequence[Tensor]
) -> OutputComparison:
    times: list[float] = []
    sums: list[_Sums] = []
    for batch, a, b in zip(tape, expected, found, strict=True):
        for row, time in enumerate(batch.times().tolist()):
            times.append(time)
            sums.append(_row_sums(batch, row, a, b))
    low, high = min(times), max(times)
    width = (high - low) / VALIDATION.time_bins
    binned = [_Sums() for _ in range(VALIDATION.time_bins)]
    total = _Sums()
    for time, entry in zip(times, sums, strict=True):
        number = int((time - low) / width) if width else 0
        binned[min(number, VALIDATION.time_bins - 1)].add(entry)
        total.add(entry)
    bins = tuple(
        TimeBin(low + i * width, low + (i + 1) * width, entry.outputs, entry.cosine(), entry.nmse())
        for i, entry in enumerate(binned)
        if entry.outputs
    )
    return OutputComparison(component, total.outputs, total.cosine(), total.nmse(), bins)


def _row_sums(batch: Batch, row: int, expected: Tensor, found: Tensor) -> _Sums:
    """The sums of one sample; of a text, over its tokens without padding."""
    a, b = expected[row], found[row]
    if batch.valid is not None and a.shape[:1] == batch.valid[row].shape:
        a, b = a[batch.valid[row]], b[batch.valid[row]]
    return _Sums(
        1,
        float((a * a).sum()),
        float((b * b).sum()),
        float((a * b).sum()),
        float(((a - b) ** 2).sum()),
    )
