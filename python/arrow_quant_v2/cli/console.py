"""What commands print: tables and JSON on stdout, progress and warnings on stderr."""

from __future__ import annotations

import io
import json
import os
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_WIDTH = 80  # where no terminal and no COLUMNS says another
_LEAST_ROOM = 20  # of values beside their names
_MESSAGE_WIDTH = 30
_GAP = 2
_STDERR = 2  # the highest number of a standard stream


def prepare_streams() -> None:
    """Make stdout and stderr take whatever is written: any character, and nobody who reads.

    A character that the encoding of a terminal lacks is written as an escape. A stream that was
    closed before the start goes nowhere, and no file that is opened later gets its number.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def printable(text: str, *, keep_newlines: bool = False) -> str:
    """`text` with everything a terminal could act on written as an escape."""
    return "".join(
        char
        if unicodedata.category(char) not in _UNSAFE or (keep_newlines and char == "\n")
        else char.encode("unicode_escape").decode()
        if char < "\ud800" or char > "\udfff"
        else f"\\x{ord(char) & 0xFF:02x}"
        for char in text
    )


def print_json(text: str) -> None:
    """Write JSON text to stdout and nothing else."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:  # as escapes of JSON, not of Python
        text = "".join(char if char < "\x80" else json.dumps(char)[1:-1] for char in text)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_plain(text: str) -> None:
    """Write text as it is, apart from what a terminal could act on."""
    sys.stdout.write(printable(text, keep_newlines=True))


def warn(messages: Sequence[str]) -> None:
    """Write warnings to stderr, in lines of the terminal's width; further lines are indented."""
    for message in messages:
        lines = f"warning: {printable(message, keep_newlines=True)}".split("\n")
        for number, line in enumerate(lines):
            indent = "  " if number else ""
            for part in _wrapped(line, _stdout().width - len("  ")):
                sys.stderr.write(f"{indent}{part}\n")
                indent = "  "


def note(text: str) -> None:
    """Write a remark to stderr."""
    sys.stderr.write(f"note: {printable(text)}\n")


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()
) -> None:
    """Print rows under headings; columns named in `right` are aligned to the right.

    Where the rows are wider than the terminal, the first cell stands on a line of its own.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    if sum(widths) + _GAP * (len(widths) - 1) <= _stdout().width:
        for line in [columns, *cells]:
            _print_line(_aligned(line, columns, widths, right), heading=line is columns)
        return
    _print_line(columns[0], heading=True)
    _print_line("  " + _aligned(columns[1:], columns[1:], widths[1:], right), heading=True)
    for line in cells:
        _print_line(line[0])
        _print_line("  " + _aligned(line[1:], columns[1:], widths[1:], right))


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair a line; what does not fit goes on below the value."""
    width = max((len(name) for name, _ in facts), default=0) + _GAP
    room = max(_stdout().width - width, _LEAST_ROOM)
    for name, value in facts:
        text = Text(name.ljust(width if value else 0), style="bold")
        text.append(("\n" + " " * width).join(_wrapped(printable(value), room)), style="not bold")
        _stdout().print(text, soft_wrap=True)


def _wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of `width`, unless a single word is longer."""
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def print_blank() -> None:
    """Print an empty line."""
    _stdout().print()


def _aligned(
    line: Sequence[str], columns: Sequence[str], widths: Sequence[int], right: Sequence[str]
) -> str:
    padded = [
        cell.rjust(width) if column in right else cell.ljust(width)
        for cell, column, width in zip(line, columns, widths, strict=True)
    ]
    return (" " * _GAP).join(padded).rstrip()


def _print_line(line: str, *, heading: bool = False) -> None:
    _stdout().print(Text(line, style="bold" if heading else ""), soft_wrap=True)


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callable[[str, float], None] | None]:
    """A progress callback that draws on stderr; None when nobody would see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    bar = Progress(
        TextColumn("{task.description}", table_column=None),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )
    with bar:
        task = bar.add_task("", total=1.0)

        def show(message: str, fraction: float) -> None:
            text = printable(message)
            short = text if len(text) <= _MESSAGE_WIDTH else "…" + text[1 - _MESSAGE_WIDTH :]
            bar.update(task, completed=fraction, description=short.ljust(_MESSAGE_WIDTH))

        yield show


def size_text(count: int) -> str:
    """A number of bytes for people: decimal units, three digits or so."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def shape_text(shape: Sequence[int]) -> str:
    """``[320, 4, 3, 3]`` as ``320x4x3x3``."""
    return "x".join(map(str, shape)) if shape else "scalar"


class _Console(Console):
    """A console that leaves a closed pipe to the command."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _stdout() -> Console:
    if sys.stdout.isatty():
        return _Console()
    return _Console(width=_piped_width(), no_color=True)


def _piped_width() -> int:
    """COLUMNS; or the width of the terminal behind a pager, which stderr or stdin shows."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    for stream in (sys.stderr, sys.stdin):
        try:
            return os.get_terminal_size(stream.fileno()).columns or _WIDTH
        except (OSError, ValueError, AttributeError):
            continue
    return _WIDTH
