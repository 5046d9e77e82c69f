"""Two corpora of short items, English verse and Python functions, and the split of each.

``english``: the King James Version, from the ``bible`` program (Debian package ``bible-kjv``). An
item is a passage of consecutive whole verses of one chapter. ``python``: functions of the standard
library of the running interpreter, without docstrings and comments, as ``ast.unparse`` writes them.

Chapters and files are split three ways by a fixed seed: training, held out, and the text of the
judge (``zoo/ngram.py``). The last two are in the repository, so that evaluation needs nothing else;
``python -m zoo.corpora`` wrote them.
"""

from __future__ import annotations

import ast
import gzip
import itertools
import json
import re
import shutil
import subprocess
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CORPORA = ("english", "python")
HELD_OUT_FOLDER = Path(__file__).parent / "held_out"
SPLIT_SEED = 0
#: Parts of the chapters or files that are held out and that the judge reads.
HELD_OUT_PART = 0.04
JUDGE_PART = 0.06
#: How many items are kept of each of these parts, at most.
HELD_OUT_ITEMS = 600
JUDGE_ITEMS = 1000
#: Characters of an item, at most: about 80 tokens of English, about 110 of code.
LONGEST = {"english": 270, "python": 320}
SHORTEST = 30

_VERSE = re.compile(r"(.+?)(\d+):(\d+) +(.+)")


@dataclass(frozen=True)
class Corpus:
    """Items of each part of the split; no chapter or file is in two of them."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    judge: tuple[str, ...]


@dataclass(frozen=True)
class HeldOutText:
    """What evaluation needs, in random order."""

    items: tuple[str, ...]
    judge: tuple[str, ...]


def load_corpus(name: str) -> Corpus:
    """Read a corpus of this machine.

    Raises
    ------
    FileNotFoundError
        The ``bible`` program is not installed, or the standard library has no sources.
    ValueError
        There is no corpus ``name``.
    """
    documents = _documents(name)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(documents))
    held_out, judge = (round(part * len(documents)) for part in (HELD_OUT_PART, JUDGE_PART))
    parts = np.split(order, [held_out, held_out + judge])
    items = [_items(name, [documents[i] for i in part], p == 2) for p, part in enumerate(parts)]
    seen = set(items[2])
    fresh = [[item for item in part if item not in seen] for part in items[:2]]
    return Corpus(items[2], _shuffled(fresh[0], HELD_OUT_ITEMS), _shuffled(fresh[1], JUDGE_ITEMS))


def load_held_out_text(name: str) -> HeldOutText:
    """Read the held-out items of a corpus, which are in the repository.

    Raises
    ------
    ValueError
        There is no corpus ``name``.
    """
    _check(name)
    stored = json.loads(gzip.decompress(_held_out_file(name).read_bytes()))
    return HeldOutText(tuple(stored["items"]), tuple(stored["judge"]))


def write_held_out_text(name: str) -> Path:
    """Write the held-out items and the judge's text into the repository."""
    corpus = load_corpus(name)
    text = json.dumps({"items": corpus.held_out, "judge": corpus.judge}, indent=0)
    _held_out_file(name).write_bytes(gzip.compress(text.encode(), mtime=0))
    return _held_out_file(name)


def _documents(name: str) -> list[list[str]]:
    """Verses of each chapter, or functions of each file."""
    _check(name)
    return _chapters() if name == "english" else _files()


def _items(name: str, documents: list[list[str]], overlapping: bool) -> tuple[str, ...]:
    """Items of LONGEST at most; overlapping passages begin at every verse."""
    if name == "english":
        passages = [_passages(verses, overlapping) for verses in documents]
        return tuple(itertools.chain.from_iterable(passages))
    functions = itertools.chain.from_iterable(documents)
    return tuple(dict.fromkeys(f for f in functions if SHORTEST <= len(f) <= LONGEST[name]))


def _passages(verses: list[str], overlapping: bool) -> Iterator[str]:
    start = 0
    while start < len(verses):
        end = start + 1
        while end < len(verses) and _length(verses[start : end + 1]) <= LONGEST["english"]:
            end += 1
        if SHORTEST <= _length(verses[start:end]) <= LONGEST["english"]:
            yield "\n".join(verses[start:end])
        start = start + 1 if overlapping else end


def _length(verses: list[str]) -> int:
    return sum(map(len, verses)) + len(verses) - 1


def _chapters() -> list[list[str]]:
    program = shutil.which("bible")
    if program is None:
        raise FileNotFoundError("bible: not found. Install it: apt-get install bible-kjv")
    text = subprocess.run(
        [program, "-f", "gen1:1-rev22:21"], check=True, capture_output=True, text=True
    ).stdout
    chapters: dict[tuple[str, str], list[str]] = {}
    for line in text.splitlines():
        match = _VERSE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"bible printed {line!r}; expected a verse such as 'Ge1:1 In the ...'")
        book, chapter, _, verse = match.groups()
        chapters.setdefault((book, chapter), []).append(verse)
    return list(chapters.values())


def _files() -> list[list[str]]:
    root = Path(sysconfig.get_path("stdlib"))
    sources = sorted(f for f in root.rglob("*.py") if "site-packages" not in f.parts)
    if not sources:
        raise FileNotFoundError(f"{root}: no Python sources. Run an interpreter that has them.")
    files = []
    for source in sources:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(source.read_bytes())
        except (SyntaxError, ValueError):  # some files of the test suite are broken on purpose
            continue
        functions = [_unparsed(node) for node in _functions(tree)]
        if functions:
            files.append(functions)
    return files


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods in order, without those inside of them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        else:
            yield from _functions(node)


def _unparsed(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    if ast.get_docstring(function, clean=False) is not None:
        function.body = function.body[1:] or [ast.Pass()]
    return ast.unparse(function)


def _shuffled(items: list[str], count: int) -> tuple[str, ...]:
    order = np.random.default_rng(SPLIT_SEED).permutation(len(items))
    return tuple(items[i] for i in order[:count])


def _held_out_file(name: str) -> Path:
    return HELD_OUT_FOLDER / f"{name}.json.gz"


def _check(name: str) -> None:
    if name not in CORPORA:
        raise ValueError(f"no corpus {name!r}; there are {CORPORA}")


if __name__ == "__main__":
    for corpus_name in CORPORA:
        print(write_held_out_text(corpus_name))
