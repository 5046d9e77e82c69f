"""Markdown that several pages need."""

from __future__ import annotations

import re
from collections.abc import Sequence

NOTE = "*Made from the code by `make docs`; do not edit.*\n"
_ROLE = re.compile(r":(?:class|meth|func|attr|mod|data):`~?([^`]+)`")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; pipes in cells are escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def prose(text: str) -> str:
    """Docstring text as Markdown: roles and double backquotes become code."""
    text = _ROLE.sub(lambda match: f"`{match[1].rpartition('.')[2]}`", text)
    return text.replace("``", "`")


def one_line(text: str) -> str:
    """Text without line ends, as a table cell wants it."""
    return " ".join(text.split())


def between_marks(page: str, name: str, text: str) -> str:
    """`page` with `text` between the marks called `name`."""
    begin = f"<!-- made by docs/generate.py from here: {name} -->"
    end = "<!-- to here -->"
    before, found, after = page.partition(begin)
    if not found:
        raise ValueError(f"the page has no mark {begin}")
    return f"{before}{begin}\n{text}{end}{after.partition(end)[2]}"
