"""Calibration as the first step of a quantization: when it runs, and why where it cannot."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arrow_quant_v2._engine import CALIBRATED_METHODS, ProgressCallback, StrPath
from arrow_quant_v2._runnable import CannotRunError, how_to_run
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError

__all__ = [
    "Calibration",
    "calibrated",
    "expected_calibration",
    "part_of",
    "wants_calibration",
]

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
    sequential
        What calibration in stages brought; None where nobody asked for it.
    """

    statistics: StrPath | None
    reason: str
    progress: ProgressCallback | None
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    sequential: Mapping[str, Any] | None = None


def wants_calibration(config: DiffusionQuantConfig) -> bool:
    """Whether anything that was asked for needs to know what enters the layers.

    The plain methods do not: round-to-nearest, and search without time-aware and spatial parts.
    """
    if config.calibration_samples == 0 or config.method == "rtn":
        return False
    if config.method in CALIBRATED_METHODS:
        return True
    return config.enable_time_aware or config.enable_spatial


def expected_calibration(model_path: StrPath, config: DiffusionQuantConfig) -> tuple[str, str]:
    """What a quantization would work from, told without running anything.

    Returns ``("neutral", how)``, or ``("none", why)``.
    """
    if not wants_calibration(config):
        return "none", _not_wanted(config, None)
    try:
        how_to_run(Path(model_path))
    except CannotRunError as error:
        return "none", error.message
    if importlib.util.find_spec("torch") is None:
        return "none", "torch is missing: pip install 'arrow-quant-v2[models]'"
    return "neutral", f"the model runs first, on {config.calibration_samples} samples"


@contextmanager
def calibrated(
    model_path: StrPath,
    config: DiffusionQuantConfig,
    statistics: StrPath | None,
    calibration_data: Any,
    progress_callback: ProgressCallback | None,
) -> Iterator[Calibration]:
    """Statistics for a quantization: the user's file, or those of a run of the model.

    Raises
    ------
    ConfigurationError
        Data was given beside statistics or for a data-free run, or the model cannot run on it.
    """
    if calibration_data is not None:
        _check_wanted(config, statistics)
    wanted = calibration_data is not None or wants_calibration(config)
    if statistics is not None or not wanted or not os.path.exists(model_path):
        yield Calibration(statistics, _not_wanted(config, statistics), progress_callback)
        return
    with tempfile.TemporaryDirectory(prefix="arrow-quant-") as folder:
        path = Path(folder) / "statistics"
        progress = part_of(progress_callback, 0, _SHARE)
        start = time.perf_counter()
        failure = _run(model_path, path, config, calibration_data, progress)
        seconds = time.perf_counter() - start
        if failure is None:
            yield Calibration(path, "", part_of(progress_callback, _SHARE, 1 - _SHARE), seconds)
            return
        if calibration_data is not None:
            raise failure
        reason = failure.message.replace(os.fspath(model_path), Path(model_path).name)
        warning = f"quantized without calibration: {reason}"
        if failure.hint:
            warning += f"\n{failure.hint}"
        yield Calibration(None, reason, progress_callback, seconds, (warning,))


def _run(
    model_path: StrPath,
    path: Path,
    config: DiffusionQuantConfig,
    calibration_data: Any,
    progress: ProgressCallback | None,
) -> CannotRunError | None:
    """Run the model if that is possible; what is in the way otherwise."""
    try:
        how_to_run(Path(model_path))
        if progress is not None:
            progress("loading torch", 0.0)
        from arrow_quant_v2.torch.capture import capture

        capture(
            model_path, path, config, calibration_data=calibration_data, progress_callback=progress
        )
    except CannotRunError as error:
        return error
    except ImportError as error:
        return CannotRunError(
            f"a library is missing: {error}", hint="pip install 'arrow-quant-v2[models]'"
        )
    return None


def _check_wanted(config: DiffusionQuantConfig, statistics: StrPath | None) -> None:
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


def _not_wanted(config: DiffusionQuantConfig, statistics: StrPath | None) -> str:
    if statistics is not None:
        return ""
    if config.calibration_samples == 0:
        return "calibration_samples is 0"
    return "the plain method does not need it"


def part_of(
    callback: ProgressCallback | None, first: float, share: float
) -> ProgressCallback | None:
    """For a step of a job: its fractions, from `first` on, are this share of the whole."""
    if callback is None:
        return None

    def report(message: str, fraction: float) -> object:
        return callback(message, first + share * fraction)

    return report
