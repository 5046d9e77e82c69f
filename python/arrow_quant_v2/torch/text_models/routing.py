"""Which tokens of a batch an expert was given.

An expert of a mixture sees some tokens of every sample, all in one tensor. Whoever calls it says
which ones, so that statistics know their samples and times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

__all__ = ["routed", "routed_tokens"]

_tokens: ContextVar[Tensor | None] = ContextVar("routed_tokens", default=None)


@contextmanager
def routed(tokens: Tensor) -> Iterator[None]:
    """Rows of what runs in the body are these tokens, numbered over all samples in order."""
    token = _tokens.set(tokens)
    try:
        yield
    finally:
        _tokens.reset(token)


def routed_tokens(rows: int) -> Tensor | None:
    """The tokens of a call with so many rows; None where its rows are not some of the tokens."""
    found = _tokens.get()
    return found.cpu() if found is not None and len(found) == rows else None
