"""Every public name of the C++ library has a comment that says what it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADERS = sorted((ROOT / "include").rglob("*.h"))

#: Lines that declare nothing which needs a comment of its own.
NO_NAME = re.compile(
    r"^\s*(#|//|\}|namespace|public:|private:|template|static_assert|k\w+,?$|(struct|class) \w+;)"
    r"|= (default|delete);|operator|^\s*~|^\s*$"
)
TYPE = re.compile(r"\s*(struct|class|enum)\b")
END = re.compile(r"[;{},]\s*$")


def without_comments(lines: list[str]) -> str:
    return "\n".join(line.split("//")[0].rstrip() for line in lines)


def complete(lines: list[str]) -> bool:
    """Whether a declaration, or the head of what it opens, ends with the last line."""
    code = without_comments(lines)
    return bool(END.search(code)) and code.count("(") == code.count(")")


def declarations(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, line above and whole text of every public declaration, without function bodies."""
    lines = text.split("\n")
    depth, hidden, body = 0, None, None
    number = 0
    while number < len(lines):
        first = number
        line = lines[number]
        if body is None:
            if re.match(r"\s*private:", line):
                hidden = depth
            elif re.match(r"\s*public:", line):
                hidden = None
            elif hidden is None and not NO_NAME.search(line):
                while not complete(lines[first : number + 1]) and number + 1 < len(lines):
                    number += 1
                above = first - 1
                while lines[above].strip().startswith("template"):
                    above -= 1
                yield first + 1, lines[above], "\n".join(lines[first : number + 1])
        code = without_comments(lines[first : number + 1])
        opened = code.count("{") - code.count("}")
        if body is None and opened > 0 and not TYPE.match(line) and "namespace" not in line:
            body = depth
        depth += opened
        if body is not None and depth <= body:
            body = None
        if hidden is not None and depth < hidden:
            hidden = None
        number += 1


def undocumented(text: str) -> list[str]:
    return [
        f"{number}: {declaration.strip()}"
        for number, above, declaration in declarations(text)
        if "///" not in declaration and not above.strip().startswith("///")
    ]


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.name)
def test_every_public_name_is_documented(path: Path) -> None:
    assert undocumented(path.read_text()) == []


def test_a_name_without_a_comment_is_found() -> None:
    text = """
/// A pair.
struct Pair {
  int first = 0;  ///< the first
  int second = 0;
  int sum() const { return first + second; }

 private:
  int hidden_ = 0;
};

/// Documented.
void f(int a,
       int b);
void g();
"""
    assert [line.split(":")[0] for line in undocumented(text)] == ["5", "6", "15"]
