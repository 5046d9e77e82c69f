"""Warnings that point at the line of the user, however deep in the package they come up."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PACKAGE = __name__.partition(".")[0]
_OURS = "arrow_quant_v2"

#: Where warnings wait while the call of the user is in another thread.
_held: ContextVar[list[tuple[str, type[Warning]]] | None] = ContextVar("held", default=None)


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn about the line that called into the package.

    Python shows a DeprecationWarning only where it is about ``__main__`` or a test, so the place
    matters as much as the text.
    """
    held = _held.get()
    if held is not None:
        held.append((message, category))
        return
    level = 1
    frame = sys._getframe()
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
        level += 1
    warning = category(message)
    warning.__dict__[_OURS] = True
    warnings.warn(warning, stacklevel=level)


def is_ours(warning: Warning | str) -> bool:
    """Whether :func:`warn_caller` made a warning, and not a library that we call."""
    return isinstance(warning, Warning) and _OURS in warning.__dict__


@contextmanager
def held_warnings() -> Iterator[list[tuple[str, type[Warning]]]]:
    """Collect the warnings of this context, for the thread that called to issue."""
    held: list[tuple[str, type[Warning]]] = []
    token = _held.set(held)
    try:
        yield held
    finally:
        _held.reset(token)


def _is_ours(module: str) -> bool:
    return module == _PACKAGE or module.startswith(f"{_PACKAGE}.")
