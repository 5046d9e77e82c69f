"""The outputs of an artefact against those of its original, on inputs of the original's sampler."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arrow_quant_v2.artefact.open import open_quantized
from arrow_quant_v2.config.settings import VALIDATION, DiffusionQuantConfig, known_modality
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.loaded_model import LoadedModel
from arrow_quant_v2.model import readable_model
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.progress import ProgressCallback, scaled_progress

if TYPE_CHECKING:
    pass

__all__ = ["OutputComparison", "TimeBin", "check_can_run", "compare_outputs"]

#: Ends of the parts of the progress: making the inputs, running the original; then the artefact.
_RECORDED, _ORIGINAL = 0.5, 0.75


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


def compare_outputs(
    original_path: StrPath,
    quantized_path: StrPath,
    *,
    trust_remote_code: bool = False,
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

    def report(message: str, fraction: float) -> None:
        if progress_callback is not None:
            progress_callback(message, fraction)

    report("loading the original", 0.0)
    from arrow_quant_v2.torch.compare.outputs import predictions, squares_by_time
    from arrow_quant_v2.torch.load.loading import load_quantized

    settings = _settings(quantized_path, trust_remote_code)
    with readable_model(original_path, components=settings.components) as view:
        session = LoadedModel(view, settings).session()
        recording = scaled_progress(report, 0, _RECORDED)
        batches = session.recorded(VALIDATION.samples, VALIDATION.seed, recording)
        component = session.component
        part = scaled_progress(report, _RECORDED, _ORIGINAL - _RECORDED)
        expected = predictions(session.network, batches, "running the original", part)
        del session
    report("loading the artefact", _ORIGINAL)
    model = load_quantized(
        quantized_path, dtype=expected[0].dtype, trust_remote_code=trust_remote_code
    )
    part = scaled_progress(report, _ORIGINAL, 1 - _ORIGINAL)
    network = getattr(model, component) if component else model
    found = predictions(network, batches, "running the artefact", part)
    bins, sums = squares_by_time(batches, expected, found, VALIDATION.time_bins)
    total = sums.sum(0).tolist()
    return OutputComparison(
        component=component,
        inputs=sum(batch.samples for batch in batches),
        cosine_similarity=_cosine(*total),
        nmse=_nmse(*total),
        bins=tuple(
            TimeBin(
                bins.low + number * bins.width,
                bins.low + (number + 1) * bins.width,
                int(outputs),
                _cosine(*row),
                _nmse(*row),
            )
            for number, (outputs, row) in enumerate(
                zip(bins.occupied(batches).tolist(), sums.tolist(), strict=True)
            )
            if outputs
        ),
    )


def _settings(quantized_path: StrPath, trust_remote_code: bool) -> DiffusionQuantConfig:
    """What tells a plan of the original which component was quantized."""
    artefact = open_quantized(quantized_path)
    return DiffusionQuantConfig(
        modality=known_modality(artefact.metadata["modality"]),
        components=tuple(name for name in artefact.components if name) or None,
        calibration_samples=VALIDATION.samples,
        enable_time_aware=False,
        enable_spatial=False,
        trust_remote_code=trust_remote_code,
    )


def _cosine(aa: float, bb: float, ab: float, difference: float) -> float:
    """Of the original's outputs a and the artefact's b, from their sums of products."""
    if aa == 0 or bb == 0:
        return 1.0 if aa == bb else 0.0
    return ab / math.sqrt(aa * bb)


def _nmse(aa: float, bb: float, ab: float, difference: float) -> float:
    if aa == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / aa


def check_can_run() -> None:
    """Raise ConfigurationError unless torch is there."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigurationError(
            "level='outputs' runs both models, which needs torch and the library of the model",
            hint="pip install 'arrow-quant-v2[models]', or compare the weights: level='weights'.",
        )
