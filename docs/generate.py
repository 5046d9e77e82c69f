"""Writes the pages that say what is in the code: ``make docs``, or ``python docs/generate.py``.

The pages of settings, commands and names are made whole. In other pages what lies between two marks
is made: the table of variables, and the tables of the benchmarks that several pages show.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
for folder in (DOCS, ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from reference_pages.command_line import command_line_page  # noqa: E402
from reference_pages.configuration import configuration_page, environment_table  # noqa: E402
from reference_pages.cpp_api import cpp_page  # noqa: E402
from reference_pages.cpp_api import undocumented as undocumented_cpp  # noqa: E402
from reference_pages.families import families_page  # noqa: E402
from reference_pages.markdown import between_marks  # noqa: E402
from reference_pages.python_api import python_page  # noqa: E402
from reference_pages.python_api import undocumented as undocumented_python  # noqa: E402

from benchmarks import summary  # noqa: E402

__all__ = ["pages", "undocumented_cpp", "undocumented_python"]

#: Pages that are made whole.
WHOLE: dict[str, Callable[[], str]] = {
    "docs/reference/configuration.md": configuration_page,
    "docs/reference/command-line.md": command_line_page,
    "docs/reference/python-api.md": python_page,
    "docs/reference/cpp-api.md": cpp_page,
    "docs/reference/families.md": families_page,
}
#: Parts of pages: where, the name of the mark, and what makes it.
PARTS: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ("docs/reference/environment.md", "variables", environment_table),
    ("README.md", "widths", summary.widths),
    ("docs/how-to/choose-bits.md", "widths", summary.widths),
    ("docs/how-to/run-fast.md", "steps", summary.steps),
)


def pages() -> dict[str, str]:
    """Every page with what the code makes now, by its path."""
    made = {path: write() for path, write in WHOLE.items()}
    for path, name, write in PARTS:
        before = made.get(path) or (ROOT / path).read_text()
        made[path] = between_marks(before, name, write())
    return made


def main() -> None:
    """Write the pages."""
    for path, text in pages().items():
        (ROOT / path).write_text(text)


if __name__ == "__main__":
    main()
