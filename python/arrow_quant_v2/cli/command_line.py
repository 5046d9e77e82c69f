"""The command line as a whole: hints about its words, and silence of the libraries behind it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

from typer.core import TyperCommand

__all__ = ["SHELL_HINT", "Command", "has_plain_name", "quiet_libraries"]

SHELL_HINT = "Did the shell expand a pattern? Put patterns in quotes: '*.to_q=8'."

#: What turns off bars and remarks of libraries, which would cut through ours.
_QUIET = {
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
}


class Command(TyperCommand):
    """A command that says why there may be more words than it takes."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        """Read the words of the command line."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            message = str(getattr(error, "message", ""))
            if message.startswith("Got unexpected extra argument"):
                error.message = f"{message}. {SHELL_HINT}"  # type: ignore[attr-defined]
            raise


def has_plain_name(globs: Iterable[str]) -> bool:
    """Whether one of the patterns is a plain name, as if a shell had expanded it."""
    return any(not set(glob) & set("*?[") for glob in globs)


def quiet_libraries() -> None:
    """Keep what libraries say about themselves out of the output; errors still arrive.

    What the user set in the environment stays.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger().addHandler(logging.NullHandler())  # in place of stderr, the last resort
