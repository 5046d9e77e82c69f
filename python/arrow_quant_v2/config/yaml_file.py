"""A strict reader for flat configuration files.

YAML 1.2 scalars only: ``1e-2`` is a number, ``on`` and ``017`` and ``12:30`` are text. Aliases,
tags, duplicate keys, several documents, deep nesting and large files are refused: a configuration
needs none of them, and each has been used to surprise or to exhaust a reader.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from arrow_quant_v2.errors import ConfigurationError

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 20

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_CONSTANTS = {
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
    "null": None, "Null": None, "NULL": None, "~": None, "": None,
}  # fmt: skip


@dataclass(frozen=True)
class Document:
    """The top-level mapping of a file, and where in the text each key stands."""

    values: dict[str, Any]
    lines: dict[str, int]
    spans: dict[str, tuple[int, int]]


def load_mapping(path: Path) -> Document:
    """Read the file at `path`, which must hold one mapping.

    Raises
    ------
    ConfigurationError
        The file is absent, unreadable, too large, not UTF-8, or uses YAML beyond plain data.
    """
    return parse_mapping(path, read_text(path))


def parse_mapping(path: Path, text: str) -> Document:
    """Read `text`, which stands or will stand in the file at `path`."""
    return _Reader(path, text).document()


def read_text(path: Path) -> str:
    """The text of a configuration file.

    Raises
    ------
    ConfigurationError
        The file is absent, unreadable, too large, or not UTF-8.
    """
    try:
        if not path.is_file():
            reason = "is not a regular file" if path.exists() else "does not exist"
            raise ConfigurationError(
                f"{path}: the configuration file {reason}", path=str(path), hint=_neighbour(path)
            )
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ConfigurationError(
                f"{path}: expected at most {_MAX_BYTES} bytes, found {size}", path=str(path)
            )
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path}: expected UTF-8 text, found byte {error.object[error.start]:#04x} "
            f"at offset {error.start}",
            path=str(path),
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{path}: the configuration file cannot be read: {error.strerror}", path=str(path)
        ) from error


def _neighbour(path: Path) -> str:
    """A configuration file beside `path` that may have been meant."""
    try:
        names = [p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml")]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"Did you mean '{path.parent / near[0]}'?" if near else ""


#: What the parser says -> what to do about it.
_YAML_HINTS = {
    "found character '\\t' that cannot start any token": "Write spaces instead of tabs.",
    "mapping values are not allowed here": "One 'name: value' a line, all from the first column.",
}


class _Reader:
    """Builds plain data from the event stream of the YAML parser."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)

    def document(self) -> Document:
        try:
            return self._document()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f", line {mark.line + 1}" if mark else ""
            raise ConfigurationError(
                f"{self._path}{where}: not valid YAML: {error.problem or error.context}",
                path=str(self._path),
                hint=_YAML_HINTS.get(error.problem or "", ""),
            ) from None
        except yaml.YAMLError as error:
            text = " ".join(str(error).split())
            raise ConfigurationError(
                f"{self._path}: not valid YAML: {text}", path=str(self._path)
            ) from None

    def _document(self) -> Document:
        self._next()  # start of the stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            raise self._error("the file is empty", None, "Write at least one setting: bit_width: 4")
        first = self._next()
        if not isinstance(first, yaml.MappingStartEvent):
            raise self._error("expected 'name: value' lines at the top level", first)
        marks: dict[str, yaml.Event] = {}
        values = self._mapping(first, 1, marks)
        self._next()  # end of the document
        end = self._next()
        if not isinstance(end, yaml.StreamEndEvent):
            raise self._error("expected one document, found a second one", end)
        return Document(
            values,
            {key: _line(event) for key, event in marks.items()},
            {key: _span(event) for key, event in marks.items()},
        )

    def _next(self) -> yaml.Event:
        return next(self._events)

    def _value(self, event: yaml.Event, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise self._error(f"values are nested more than {_MAX_DEPTH} levels deep", event)
        self._check_plain(event)
        if isinstance(event, yaml.ScalarEvent):
            return scalar(event.value) if event.implicit[0] else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return list(self._items(depth))
        return self._mapping(event, depth)

    def _check_plain(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self._error("anchors and aliases are not accepted", event, "Write the value out.")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise self._error(f"the tag {tag!r} is not accepted", event, "Write plain data.")

    def _items(self, depth: int) -> Iterator[Any]:
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            yield self._value(event, depth + 1)

    def _mapping(
        self, start: yaml.Event, depth: int, marks: dict[str, yaml.Event] | None = None
    ) -> dict[str, Any]:
        self._check_plain(start)
        values: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._value(event, depth + 1)
            if not isinstance(key, str):
                raise self._error(f"expected a name before ':', found {key!r}", event)
            if key in values:
                raise self._error(f"{key!r} is set twice", event, "Keep one of the two lines.")
            values[key] = self._value(self._next(), depth + 1)
            if marks is not None:
                marks[key] = event
        return values

    def _error(self, what: str, event: yaml.Event | None, hint: str = "") -> ConfigurationError:
        line = f", line {_line(event)}" if event is not None else ""
        return ConfigurationError(f"{self._path}{line}: {what}", path=str(self._path), hint=hint)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 0


def _span(event: yaml.Event) -> tuple[int, int]:
    start, end = event.start_mark, event.end_mark
    return (start.index, end.index) if start is not None and end is not None else (0, 0)


def scalar(text: str) -> Any:
    """The value of an unquoted scalar by the core schema of YAML 1.2, without octal and hex."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.match(text):
        return int(text) if len(text) <= 20 else float(text)
    if _FLOAT.match(text):
        return float(text)
    if _INFINITE.match(text):
        return float(text.replace(".", "", 1))
    return text
