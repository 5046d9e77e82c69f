"""Calibration as the first step of a quantization."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from arrow_quant_v2.calibration.decision import wants_calibration, why_not_wanted
from arrow_quant_v2.calibration.model_kind import CannotRunError
from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.loaded_model import LoadedModel
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.progress import ProgressCallback, scaled_progress

__all__ = ["Calibration", "calibrated", "check_wanted"]

#: Part of the progress that calibration takes; the rest is quantization.
_SHARE = 0.7


@dataclass(frozen=True)
class Calibration:
    """What quantization works from.

    Attributes
    ----------
    statistics
        A file of statistics; None when the run is data-free.
    reason
        Why it is data-free, as a sentence without a full stop; empty when nobody wanted more.
    progress
        For the quantization that follows: its fractions come after those of calibration.
    seconds
        How long the model ran.
    warnings
        That there is no calibration although it was wanted.
    """

    statistics: StrPath | None
    reason: str
    progress: ProgressCallback | None
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


@contextmanager
def calibrated(
    model: LoadedModel,
    statistics: StrPath | None,
    progress_callback: ProgressCallback | None,
) -> Iterator[Calibration]:
    """Statistics for a quantization: the user's file, or those of a run of the model.

    Raises
    ------
    ConfigurationError
        Data was given beside statistics or for a data-free run, or the model cannot run on it.
    """
    config, data = model.config, model.data
    if data is not None:
        check_wanted(config, statistics)
    wanted = data is not None or wants_calibration(config)
    if statistics is not None or not wanted:
        yield Calibration(statistics, why_not_wanted(config, statistics), progress_callback)
        return
    with tempfile.TemporaryDirectory(prefix="arrow-quant-") as folder:
        path = Path(folder) / "statistics"
        start = time.perf_counter()
        try:
            _run(model, path, scaled_progress(progress_callback, 0, _SHARE))
        except CannotRunError as error:
            if data is not None:
                raise
            reason, hint = model.without_path(error.message), error.hint
        else:
            seconds = time.perf_counter() - start
            rest = scaled_progress(progress_callback, _SHARE, 1 - _SHARE)
            yield Calibration(path, "", rest, seconds)
            return
        warning = f"quantized without calibration: {reason}" + (f"\n{hint}" if hint else "")
        seconds = time.perf_counter() - start
        yield Calibration(None, reason, progress_callback, seconds, (warning,))


def _run(model: LoadedModel, path: Path, progress: ProgressCallback | None) -> None:
    """Run the model and write its statistics."""
    if progress is not None:
        progress("loading the model", 0.0)
    session = model.session()
    from arrow_quant_v2.torch.collect.capture import collect

    collect(session, path, model.config, progress_callback=progress)


def check_wanted(config: DiffusionQuantConfig, statistics: StrPath | None) -> None:
    """Refuse calibration data that nothing would use."""
    if statistics is not None:
        raise ConfigurationError(
            "calibration_data and statistics were both given",
            hint="Statistics say already what calibration would find: pass one of them.",
        )
    if config.calibration_samples == 0:
        raise ConfigurationError(
            "calibration_data was given, and calibration_samples is 0, which asks for a data-free "
            "run",
            hint="Set calibration_samples to 1 or more.",
        )
