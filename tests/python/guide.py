"""The migration guide as data: its Python blocks, cut to what they say about V2."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from support import ROOT

GUIDE = Path(
    os.environ.get("ARROW_QUANT_GUIDE", ROOT.parent / "shared" / "seed" / "migration_guide.md")
)
_FENCE = re.compile(r"^(\s*)```(\w+)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block: the line it begins in, its language, and the text without indentation."""

    line: int
    language: str
    text: str
    before: str  # the last line of text above it


def blocks() -> list[Block]:
    found = []
    lines = GUIDE.read_text().splitlines()
    i = 0
    before = ""
    while i < len(lines):
        fence = _FENCE.match(lines[i])
        if not fence:
            before = lines[i].strip() or before
            i += 1
            continue
        indent, language = len(fence[1]), fence[2]
        start = i + 1
        while lines[i + 1].strip() != "```":
            i += 1
        text = "\n".join(line[indent:] for line in lines[start : i + 1])
        found.append(Block(start + 1, language, text, before))
        i += 2
    return found


def v2_python() -> list[Block]:
    """The Python blocks that V2 runs, without the parts that show V1 beside them."""
    found = []
    for block in blocks():
        if block.language != "python" or "(V1)" in block.before:
            continue
        text = _v2_part(block.text)
        is_program = "from arrow_quant import" not in text and not _is_data(text)
        if text and is_program:
            found.append(Block(block.line, "python", text, block.before))
    return found


def _is_data(text: str) -> bool:
    """Whether a block shows a value instead of a program."""
    code = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip()
    return code.startswith(("{", "result = {"))


def _v2_part(text: str) -> str:
    """What stands under `# V2...` or `# New`, where a block shows both."""
    shown = True
    kept = []
    for line in text.splitlines():
        if re.match(r"# (V1\b|Old\b)", line):
            shown = False
        elif re.match(r"# (V2\b|New\b)", line):
            shown = True
        if shown and not line.endswith("# Old"):
            kept.append(line)
    return "\n".join(kept).strip()


def yaml_named(name: str) -> str:
    """The YAML block that begins with a comment with this file name."""
    return next(block.text for block in blocks() if block.text.startswith(f"# {name}"))
