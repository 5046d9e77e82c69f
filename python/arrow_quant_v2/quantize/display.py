"""Results for people: text at a prompt, HTML in a notebook."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any

#: Facts as (name, text); the names are keys of the result.
Facts = Sequence[tuple[str, str]]
#: A titled table: title, headings, rows.
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]

_COLUMNS = 80
_STYLE = (
    "<style>.arrow-quant table{border-collapse:collapse;color:inherit;font-size:inherit}"
    ".arrow-quant th,.arrow-quant td{padding:.15em .9em .15em 0;text-align:left;"
    "vertical-align:top;font-weight:normal}"
    ".arrow-quant th{opacity:.65}"
    ".arrow-quant td.n,.arrow-quant th.n{text-align:right;font-variant-numeric:tabular-nums}"
    ".arrow-quant summary{cursor:pointer;margin-top:.3em}</style>"
)


def value_text(value: Any) -> str:
    """A value in a few characters: four significant digits, lists without brackets."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e-2 and value else f"{value:.4f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def as_text(headline: str, facts: Facts) -> str:
    """A headline and one fact per line, in 80 columns unless a single word is longer."""
    width = max((len(name) for name, _ in facts), default=0) + 4
    lines = [headline]
    for name, text in facts:
        wrapped = [line for part in text.split("\n") for line in _wrapped(part, _COLUMNS - width)]
        lines.append(f"  {name}".ljust(width) + wrapped[0])
        lines += [" " * width + line for line in wrapped[1:]]
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def as_html(headline: str, facts: Facts, tables: Sequence[Table]) -> str:
    """The same in HTML, in the colours of whatever page it is on; tables fold away."""
    rows = "".join(
        f"<tr><th>{_escaped(name)}</th><td>{_escaped(text)}</td></tr>" for name, text in facts
    )
    folded = "".join(_html_table(*table) for table in tables if table[2])
    return (
        f"{_STYLE}<div class='arrow-quant'><strong>{_escaped(headline)}</strong>"
        f"<table>{rows}</table>{folded}</div>"
    )


def _html_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = _html_row("th", headings) + "".join(_html_row("td", row) for row in rows)
    return f"<details><summary>{_escaped(title)}</summary><table>{lines}</table></details>"


def _html_row(tag: str, cells: Sequence[str]) -> str:
    """A row; everything but its first cell is a number."""
    first, *others = (_escaped(cell) for cell in cells)
    numbers = "".join(f"<{tag} class='n'>{cell}</{tag}>" for cell in others)
    return f"<tr><{tag}>{first}</{tag}>{numbers}</tr>"


def _escaped(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")
