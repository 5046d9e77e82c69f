"""What an evaluation found: one plain struct, as JSON for programs and as a table for people."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.evaluate.bootstrap import CONFIDENCE, MARGIN, Interval

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Of the JSON; raised when a key changes its meaning or goes.
FORMAT = 1

_COLOURS = {"worse": "red", "equal": "green", "better": "cyan"}


@dataclass(frozen=True)
class BinReport:
    """One bin of timesteps or mask ratios; ``difference`` is in the unit of the loss."""

    label: str
    items: int
    loss: float
    reference_loss: float | None
    difference: Interval | None


@dataclass(frozen=True)
class Report:
    """A model, beside its reference if it has one; what belongs to the comparison is None if not.

    Attributes
    ----------
    model, reference
        Their folders, as they were given.
    weight_bytes, reference_weight_bytes
        Sizes of the files that hold the weights.
    items, samples, steps, seed
        What was measured; a smoke test measures little.
    loss, reference_loss
        Means over bins of the held-out loss, in ``loss_unit``.
    verdict
        "worse", "better" or "equal": the interval of ``difference`` lies above, below, around 0.
    difference, relative_difference
        Of the loss, with bootstrap intervals.
    scores, reference_scores
        Quality of the samples, by name.
    distances
        Of teacher-forced predictions from those of the reference, by name.
    sample_distances
        Of samples from those of the reference with the same seeds, by name.
    """

    model: str
    reference: str | None
    modality: str
    weight_bytes: int
    reference_weight_bytes: int | None
    items: int
    samples: int
    steps: int
    seed: int
    loss_name: str
    loss_unit: str
    loss: float
    reference_loss: float | None
    verdict: str | None
    difference: Interval | None
    relative_difference: Interval | None
    bins: tuple[BinReport, ...]
    scores: dict[str, float]
    reference_scores: dict[str, float] | None
    distances: dict[str, float]
    sample_distances: dict[str, float]

    def to_json(self) -> str:
        """The fields by name, with ``format`` before them; every number is finite."""
        fields: dict[str, Any] = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps(fields, indent=2, allow_nan=False)

    def headline(self) -> str:
        """One or two lines: the loss, and whether it differs from the reference's."""
        unit = f" {self.loss_unit}" if self.loss_unit else ""
        text = f"{self.loss_name} {number(self.loss)}{unit}"
        if self.relative_difference is None or self.reference_loss is None:
            return text
        return (
            f"{text}, reference {number(self.reference_loss)}: "
            f"{percent(self.relative_difference.estimate)} ({bounds(self.relative_difference)})"
        )

    def table(self) -> RenderableType:
        """For a terminal of 80 columns or more."""
        from rich.console import Group
        from rich.text import Text

        title = Text(f"{self.model}  {megabytes(self.weight_bytes)}", style="bold")
        if self.reference is not None and self.reference_weight_bytes is not None:
            title.append(
                f"\nreference {self.reference}  {megabytes(self.reference_weight_bytes)}",
                style="not bold",
            )
        lines: list[RenderableType] = [title, Text(self.headline())]
        if self.verdict is not None:
            style = f"bold {_COLOURS[self.verdict]}"
            lines.append(Text(f"{self.verdict.upper()} ({_MEANING[self.verdict]})", style=style))
        lines += [Text(), self._bin_table()]
        numbers = self._number_table()
        if numbers is not None:
            lines += [Text(), numbers]
        return Group(*lines)

    def _bin_table(self) -> RenderableType:
        table = _table()
        table.add_column("bin")
        for name in ("items", "loss", *(("reference", "difference") if self.reference else ())):
            table.add_column(name, justify="right")
        if self.reference:
            table.add_column(f"{CONFIDENCE:.0%} interval")
        total = BinReport(
            "mean over bins",
            sum(row.items for row in self.bins),
            self.loss,
            self.reference_loss,
            self.difference,
        )
        for row in (*self.bins, total):
            cells = [row.label, str(row.items), number(row.loss)]
            if row.reference_loss is not None and row.difference is not None:
                relative = row.difference.over(row.reference_loss)
                if row is total and self.relative_difference is not None:
                    relative = self.relative_difference
                cells += [number(row.reference_loss), percent(relative.estimate), bounds(relative)]
            if row is total:
                table.add_section()
            table.add_row(*cells)
        return table

    def _number_table(self) -> RenderableType | None:
        references = self.reference_scores or {}
        rows = [(name, value, references.get(name)) for name, value in self.scores.items()] + [
            (name, value, None)
            for name, value in (
                *self.distances.items(),
                *((f"samples: {name}", value) for name, value in self.sample_distances.items()),
            )
        ]
        if not rows:
            return None
        table = _table()
        table.add_column(f"{self.samples} samples, {self.steps} steps")
        table.add_column("model", justify="right")
        if self.reference:
            table.add_column("reference", justify="right")
        for name, value, reference in rows:
            cells = [name, number(value)]
            table.add_row(*cells, "" if reference is None else number(reference))
        return table


_MEANING = {
    "worse": "the interval lies above 0",
    "better": "the interval lies below 0",
    "equal": f"the interval holds 0, or lies within {MARGIN:.1%} of it",
}


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def percent(value: float) -> str:
    """A relative difference as a percentage, three digits."""
    return f"{100 * value:+.0f} %" if abs(value) >= 1 else f"{100 * value:+.3g} %"


def bounds(interval: Interval) -> str:
    """The ends of a relative difference."""
    return f"{percent(interval.low).removesuffix(' %')} to {percent(interval.high)}"


def megabytes(count: int) -> str:
    """Decimal megabytes."""
    return f"{count / 1e6:.2f} MB"


def _table() -> Any:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
