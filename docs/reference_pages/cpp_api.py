"""The page of the public C++ names, from the comments of the headers; and what headers lack."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from reference_pages.markdown import NOTE, one_line, table

INCLUDE = Path(__file__).resolve().parents[2] / "include" / "arrow_quant"

HEAD = f"""\
# C++ API

{NOTE}
All names are in the namespace `arrow_quant`. Link `ArrowQuant::arrow_quant` ([use it from
C++](../how-to/cpp.md)). Failures are exceptions of the type `Error`; [`error.h`](#errorh) has its
codes.
"""

_TYPE = re.compile(r"\b(struct|class|enum class|enum)\s+(?:ARROW_QUANT_API\s+)?(\w+)")
_FORWARD = re.compile(r"(?:struct|class)\s+\w+")
_ACCESS = re.compile(r"\b(public|private|protected)\s*$")


@dataclass
class Item:
    """A declaration and the comment that belongs to it."""

    name: str
    text: str
    doc: str
    kind: str  # "type", "enum", "enumerator", "field" or "function"
    members: list[Item] = field(default_factory=list)


@dataclass
class _Scope:
    kind: str  # "namespace", "type" or "enum"
    items: list[Item]
    public: bool = True
    item: Item | None = None


class _Parser:
    """Reads one header: enough of C++ for declarations as clang-format writes them."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._declaration = ""
        self._doc: list[str] = []
        self._last: Item | None = None
        self.items: list[Item] = []
        self._scopes = [_Scope("namespace", self.items)]

    def parse(self) -> list[Item]:
        depth = 0
        while self._at < len(self._text):
            char = self._text[self._at]
            if self._text.startswith("//", self._at):
                self._comment()
                continue
            if char == "#" and not self._declaration.strip():
                self._skip_line()
                continue
            if char in "([":
                depth += 1
            elif char in ")]":
                depth -= 1
            if depth == 0 and char in "{};,:":
                self._mark(char)
            else:
                self._declaration += char
                self._at += 1
        return self.items

    def _comment(self) -> None:
        end = self._text.find("\n", self._at)
        line = self._text[self._at : end]
        if line.startswith("///<"):
            if self._last is not None:
                self._last.doc = f"{self._last.doc} {line[4:].strip()}".strip()
        elif line.startswith("///") and not self._declaration.strip():
            self._doc.append(line[3:].strip())
        self._at = end + 1

    def _skip_line(self) -> None:
        end = self._text.find("\n", self._at)
        while self._text[end - 1] == "\\":
            end = self._text.find("\n", end + 1)
        self._at = end + 1

    def _skip_block(self) -> None:
        """Step over a balanced pair of braces."""
        depth = 0
        while True:
            char = self._text[self._at]
            depth += (char == "{") - (char == "}")
            self._at += 1
            if depth == 0:
                return

    def _mark(self, char: str) -> None:
        scope = self._scopes[-1]
        words = self._declaration.strip()
        if char == ":" and (access := _ACCESS.search(words)):
            scope.public = access[1] == "public"
            self._reset()
        elif char == "," and scope.kind == "enum":
            self._record("enumerator")
        elif char == "{":
            self._open(words)
            return
        elif char == "}":
            if scope.kind == "enum" and words:
                self._record("enumerator")
            self._last = self._scopes.pop().item
            self._declaration = ""
        elif char == ";":
            if words:
                self._record("function" if "(" in words.split("{")[0] else "field")
            self._reset()
        else:  # a colon or comma within a declaration
            self._declaration += char
        self._at += 1

    def _open(self, words: str) -> None:
        found = _TYPE.search(words)
        if words.startswith("namespace"):
            self._scopes.append(_Scope("namespace", self._scopes[-1].items))
            self._reset()
            self._at += 1
        elif found and "(" not in words:
            kind = "enum" if found[1].startswith("enum") else "type"
            item = self._record(kind, found[2])
            opened = _Scope(kind, item.members, public=found[1] != "class", item=item)
            if not self._scopes[-1].public:
                opened.public = False
            self._scopes.append(opened)
            self._at += 1
        elif ")" in words and not words.endswith("="):
            self._record("function")
            self._skip_block()
            self._reset()
        else:  # a value in braces
            begin = self._at
            self._skip_block()
            self._declaration += self._text[begin : self._at]

    def _record(self, kind: str, name: str = "") -> Item:
        scope = self._scopes[-1]
        text = one_line(self._declaration)
        item = Item(name or _name_of(text, kind), text, " ".join(self._doc).strip(), kind)
        hidden = text.startswith(("static_assert", "friend", "template <> ", "extern "))
        hidden = hidden or (kind == "field" and bool(_FORWARD.fullmatch(text)))
        if scope.public and not hidden and item.name:
            if kind == "function" and scope.items and not item.doc:
                before = scope.items[-1]
                item.doc = before.doc if before.name == item.name else ""
            scope.items.append(item)
        self._last = item
        self._declaration = ""
        self._doc = []
        return item

    def _reset(self) -> None:
        self._declaration = ""
        self._doc = []


def _name_of(text: str, kind: str) -> str:
    if kind == "enumerator":
        return text.split("=")[0].strip()
    if text.startswith("using "):
        return text.split()[1]
    if "operator" in text:
        return "operator" + text.partition("operator")[2].split("(")[0].strip()
    head = text.split("=")[0] if kind == "field" else text.split("(")[0]
    words = re.findall(r"~?\w+", re.sub(r"<[^<>]*>|\[[^\]]*\]|\{[^{}]*\}", " ", head))
    return words[-1] if words else ""


def headers() -> list[Path]:
    """All public headers."""
    return sorted(INCLUDE.glob("*.h"))


def parse_header(path: Path) -> list[Item]:
    """Its public declarations."""
    return _Parser(path.read_text()).parse()


def summary(path: Path) -> str:
    """The comment at the top of a header."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("//"):
            break
        lines.append(line[2:].strip())
    return "\n".join(lines).strip()


def cpp_page() -> str:
    """All of docs/reference/cpp-api.md."""
    parts = [HEAD, table(["header", "what it has"], [_overview(path) for path in headers()])]
    for path in headers():
        parts.append(f"## {path.name}\n\n{summary(path)}\n")
        parts += [_entry(item) for item in parse_header(path)]
    return "\n".join(parts)


def _overview(path: Path) -> list[str]:
    first = one_line(summary(path)).split(". ")[0].rstrip(".")
    return [f"[`{path.name}`](#{path.name.replace('.', '')})", f"{first}."]


def _entry(item: Item, owner: str = "") -> str:
    heading = f"### `{owner}{item.name}`\n"
    if item.kind not in ("type", "enum"):
        text = item.text.removeprefix("ARROW_QUANT_API ")
        return f"{heading}\n```cpp\n{text};\n```\n\n{item.doc}\n"
    parts = [heading, f"{item.doc}\n"] if item.doc else [heading]
    shown = [member for member in item.members if not _special(member, item.name)]
    if shown:
        rows = [[f"`{member.text}`", member.doc] for member in shown]
        parts.append(table(["member", "meaning"], rows))
    nested = [member for member in shown if member.members]
    parts += [_entry(member, f"{owner}{item.name}::") for member in nested]
    return "\n".join(parts)


def undocumented() -> list[str]:
    """Public names without a comment, one a line."""
    found = []
    for path in headers():
        if not summary(path):
            found.append(f"{path.name}: no comment at its top")
        found += [f"{path.name}: {name}" for name in _lacking(parse_header(path))]
    return found


def _lacking(items: list[Item], owner: str = "") -> Iterator[str]:
    for item in items:
        told = item.kind == "enum" and all(member.doc for member in item.members)
        if not (item.doc or told or _special(item, owner)):
            yield f"{owner}{'::' if owner else ''}{item.name}"
        if item.kind == "type" or (item.kind == "enum" and not item.doc):
            yield from _lacking(item.members, item.name)


def _special(item: Item, owner: str) -> bool:
    """Constructors, destructors, operators, and what is default or deleted."""
    special = item.name in (owner, f"~{owner}") or item.name.startswith("operator")
    return special or item.text.endswith(("= default", "= delete"))
