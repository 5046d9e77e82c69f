"""The page of model families, from the stored results of the journeys of tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reference_pages.markdown import NOTE, table

RESULTS = Path(__file__).parents[2] / "tests" / "python" / "families" / "results.json"
#: Column of the table, and the steps that must all have ended well for a "yes".
COLUMNS = {
    "plan": ("plan",),
    "INT4": ("quantize int4", "validate int4"),
    "INT2": ("quantize int2", "validate int2"),
    "runs": ("run int4", "run int2"),
    "runs, int8 activations": ("run int4 dynamic", "run int2 dynamic"),
    "export": ("export int4", "export int2"),
}
HEAD = f"""\
# Model families

{NOTE}
Every row is a tiny model of the true class with random weights. It is planned, calibrated on 5
samples, quantized, compared with the original on recorded inputs, loaded, run for two steps and
exported. *yes*: that ended well at 4 and at 2 bits. *no*: it did not, and the reason is below the
tables. The errors are the squared differences of the denoiser's outputs, as a share of the squares
of the original's. Tiny random models are harder to quantize than trained ones, so compare rows,
and not with the [benchmarks](../benchmarks.md).

In `tests/python`, with the project's root in `PYTHONPATH`, this command makes the results:
`python -m families.journey families/results.json`.
"""


def families_page() -> str:
    """A table for each group, and what did not end well."""
    results: dict[str, Any] = json.loads(RESULTS.read_text())
    groups: dict[str, list[Any]] = {}
    for found in results.values():
        groups.setdefault(found["group"], []).append(found)
    parts = [HEAD]
    for group, members in sorted(groups.items()):
        members.sort(key=lambda found: (found["kind"], found["name"]))
        rows = [_row(found) for found in members]
        head = ("model", "class", *COLUMNS, "error, INT4", "error, INT2")
        parts.append(f"## {group.replace('_', ' ').capitalize()}\n\n{table(head, rows)}")
    failures = [line for found in results.values() for line in _failures(found)]
    if failures:
        parts.append("## What did not end well\n\n" + "\n".join(failures) + "\n")
    return "\n".join(parts)


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    ends = [
        "yes" if all(found["steps"].get(step) == "ok" for step in steps) else "no"
        for steps in COLUMNS.values()
    ]
    errors = [found["figures"].get(f"output error int{bits}") for bits in (4, 2)]
    shown = ["-" if error is None else f"{error:.3g}" for error in errors]
    return (found["name"], f"`{found['kind']}`", *ends, *shown)


def _failures(found: dict[str, Any]) -> list[str]:
    return [
        f"- `{found['name']}`, {step}: {_plain(end)}"
        for step, end in found["steps"].items()
        if end != "ok"
    ]


def _plain(end: str) -> str:
    """An error in one line that Markdown leaves alone, without where it happened."""
    words = [word for word in end.split() if not word.startswith("/tmp")]
    return "`" + " ".join(words).replace("`", "'")[:160] + "`"
