"""Several models in one call: one view of the progress, and a result or an exception for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.quantize.result import QuantizationResult

__all__ = ["Job", "quantize_many"]

#: Model, output, and a configuration or None for the defaults, which may be left out.
Job: TypeAlias = "tuple[StrPath, StrPath] | tuple[StrPath, StrPath, DiffusionQuantConfig | None]"


class _OneView:
    """The progress of one job as a part of the progress of all."""

    def __init__(self, callback: ProgressCallback | None, count: int) -> None:
        self._callback = callback
        self._count = count
        self._number = 0
        self._name = ""
        self.error: BaseException | None = None
        if callback is not None and hasattr(callback, "poll"):
            self.poll = callback.poll  # the engine calls it between reports

    def begin(self, number: int, model: StrPath) -> None:
        self._number = number
        self._name = os.path.basename(os.path.normpath(model))

    def __call__(self, message: str, fraction: float) -> None:
        if self._callback is None:
            return
        try:
            self._callback(f"{self._name}: {message}", (self._number + fraction) / self._count)
        except BaseException as error:
            self.error = error
            raise


def quantize_many(
    quantize: Callable[..., QuantizationResult],
    jobs: Sequence[Job],
    progress_callback: ProgressCallback | None = None,
) -> list[QuantizationResult | Exception]:
    """Call `quantize` for one job after the other.

    Each gets all threads, which is faster than models side by side and needs the memory of one.

    Raises
    ------
    ConfigurationError
        A job is not of the right form, or two write to one path. Nothing has been done then.
    """
    checked = [_checked(job, number) for number, job in enumerate(jobs)]
    _check_outputs([output for _, output, _ in checked])
    view = _OneView(progress_callback, len(checked))
    results: list[QuantizationResult | Exception] = []
    for number, (model, output, config) in enumerate(checked):
        view.begin(number, model)
        try:
            results.append(quantize(model, output, config, progress_callback=view))
        except Exception as error:
            if error is view.error:
                raise
            results.append(error)
        view("done" if not isinstance(results[-1], Exception) else "failed", 1.0)
    return results


def _checked(job: Any, number: int) -> tuple[StrPath, StrPath, DiffusionQuantConfig | None]:
    wanted = "(model_path, output_path, config or None)"
    if not isinstance(job, (tuple, list)) or len(job) not in (2, 3):
        raise ConfigurationError(f"jobs[{number}]: expected {wanted}, found {job!r}")
    model, output, *rest = job
    for path in (model, output):
        if not isinstance(path, (str, os.PathLike)):
            raise ConfigurationError(
                f"jobs[{number}]: expected a path in {wanted}, found {type(path).__name__}"
            )
    return model, output, rest[0] if rest else None


def _check_outputs(outputs: Sequence[StrPath]) -> None:
    seen: dict[str, int] = {}
    for number, output in enumerate(outputs):
        first = seen.setdefault(os.path.realpath(output), number)
        if first != number:
            raise ConfigurationError(
                f"jobs[{number}] and jobs[{first}] write to one path: {os.fspath(output)}",
                hint="Give every job an output of its own.",
            )
