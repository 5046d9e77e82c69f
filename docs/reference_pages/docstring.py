"""Docstrings in numpy's form, taken apart."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from typing import Any

#: Sections whose lines are names with an indented text below each.
LISTS = ("Parameters", "Attributes", "Returns", "Yields", "Raises")
_HEADING = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.MULTILINE)


@dataclass(frozen=True)
class Docstring:
    """The text before the first section, and the sections."""

    text: str
    items: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)

    def names(self, *sections: str) -> set[str]:
        """What the sections describe; several names may share a text (``begin, end``)."""
        found = [name for section in sections for name, _ in self.items.get(section, [])]
        return {part.strip().lstrip("*") for name in found for part in name.split(",")}


def docstring(thing: Any) -> Docstring:
    """The docstring of a thing itself, not that of a class above it."""
    raw = thing.__doc__ if isinstance(thing, type) else getattr(thing, "__doc__", None)
    return parse(inspect.cleandoc(raw or ""))


def parse(text: str) -> Docstring:
    """Take apart what `inspect.cleandoc` returned."""
    pieces = _HEADING.split(text)
    items: dict[str, list[tuple[str, str]]] = {}
    others: dict[str, str] = {}
    for heading, body in zip(pieces[1::2], pieces[2::2], strict=True):
        if heading in LISTS:
            items[heading] = _items(body)
        else:
            others[heading] = body.strip()
    return Docstring(pieces[0].strip(), items, others)


def _items(body: str) -> list[tuple[str, str]]:
    found: list[tuple[str, list[str]]] = []
    for line in body.strip("\n").splitlines():
        if line and not line.startswith(" "):
            found.append((line.strip(), []))
        elif found:
            found[-1][1].append(line.strip())
    return [(name, " ".join(filter(None, lines))) for name, lines in found]
