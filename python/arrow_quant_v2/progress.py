"""Progress of long calls: what a callback gets, and how steps share the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["ProgressCallback", "check_callback", "scaled_progress"]

ProgressCallback: TypeAlias = Callable[[str, float], object]


def check_callback(callback: ProgressCallback | None) -> None:
    """Refuse what cannot be called, before anything is done."""
    if callback is not None and not callable(callback):
        raise TypeError(
            "progress_callback: expected a function of a message and a fraction, found "
            f"{type(callback).__name__}"
        )


def scaled_progress(
    callback: ProgressCallback | None, first: float, share: float
) -> ProgressCallback | None:
    """For one step of a job: its fractions 0 to 1 become `first` to `first` + `share`."""
    if callback is None:
        return None

    def report(message: str, fraction: float) -> object:
        return callback(message, first + share * fraction)

    return report
