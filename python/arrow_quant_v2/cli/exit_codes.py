"""How a command ends: exit codes, one line and a hint on stderr, no traceback unless asked for."""

from __future__ import annotations

import functools
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from types import FrameType
from typing import ParamSpec, TextIO

import typer

from arrow_quant_v2.caller_warnings import is_ours
from arrow_quant_v2.cli.console import printable, warn
from arrow_quant_v2.errors import ArrowQuantError, ConfigurationError

_Arguments = ParamSpec("_Arguments")

_BUG = 1
_MEMORY = 8
_INTERRUPTED = 130
_PIPE_CLOSED = 141
_TERMINATED = 143


class Terminated(BaseException):
    """SIGTERM arrived."""


class _Debug:
    """Whether failures show their traceback."""

    enabled = False


def enable_debug() -> None:
    """Show tracebacks from now on."""
    _Debug.enabled = True


def command(function: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Turn every way a command can end into its exit code."""

    @functools.wraps(function)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        signal.signal(signal.SIGTERM, _terminate)
        warnings.showwarning = _show_warning
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except typer.Exit:
            raise
        except BaseException as error:
            code = _report(error)
            if code is None:
                raise
            raise typer.Exit(code) from None

    return run


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Ours, without file and line; those of the libraries that we call help nobody here."""
    if is_ours(message) or _Debug.enabled:
        warn([str(message)])


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def run_app(app: typer.Typer, arguments: list[str]) -> None:
    """Run what the arguments ask for and exit; help has its exit codes too."""
    try:
        app(args=arguments, prog_name="arrow-quant")
    except SystemExit as end:
        # The text of help is written outside of commands, where its reader may leave as well.
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        _drop_stdout()
        sys.exit(_PIPE_CLOSED)


def report_failure(error: Exception) -> int:
    """Say on stderr what went wrong with one of several things; the exit code it stands for."""
    code = _report(error)
    return _BUG if code is None else code


def _report(error: BaseException) -> int | None:
    """Say what happened on stderr; the exit code, or None for what is not ours to handle."""
    if isinstance(error, BrokenPipeError):
        _drop_stdout()
        return _PIPE_CLOSED
    if _Debug.enabled and not isinstance(error, SystemExit):
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        return _fail("interrupted: nothing was written", _INTERRUPTED)
    if isinstance(error, Terminated):
        return _fail("terminated: nothing was written", _TERMINATED)
    if isinstance(error, ArrowQuantError):
        return _fail(error.message, error.exit_code, error.hint)
    if isinstance(error, MemoryError):
        hint = "Lower --max-memory-mb or --threads, or free memory."
        return _fail(f"out of memory: {error}" if str(error) else "out of memory", _MEMORY, hint)
    if isinstance(error, ImportError):
        return _fail(str(error), ConfigurationError.exit_code)
    if isinstance(error, Exception):
        text = f"{type(error).__name__}: {error}"
        return _fail(f"internal error: {text}", _BUG, "Run it again with --debug, and report it.")
    return None


def _fail(message: str, code: int, hint: str = "") -> int:
    lines = [f"error: {printable(message, keep_newlines=True)}"]
    lines += [f"hint: {printable(line)}" for line in hint.splitlines()]
    try:
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
    except OSError:
        pass  # stderr is closed as well; the exit code still tells
    return code


def _drop_stdout() -> None:
    """The reader of stdout has gone: let the interpreter's last flush go nowhere."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)
