"""Paths of users, checked before anything is done with them."""

from __future__ import annotations

import os
from typing import TypeAlias

from arrow_quant_v2.errors import ConfigurationError

__all__ = ["StrPath", "checked_path", "path_bytes"]

StrPath: TypeAlias = "str | os.PathLike[str]"


def checked_path(path: StrPath, what: str) -> str:
    """`path` as text; `what` names it in an error."""
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(text, str):
        raise TypeError(f"{what}: expected str or os.PathLike[str], found {type(text).__name__}")
    if not text or "\0" in text:
        raise ConfigurationError(f"{what}: expected a path, found {text!r}")
    return text


def path_bytes(path: StrPath, what: str) -> bytes:
    """`path` as the engine takes it; `what` names it in an error."""
    return os.fsencode(checked_path(path, what))
