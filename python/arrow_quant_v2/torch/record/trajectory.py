"""The tape of a calibration: what a network was given, and at which diffusion time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from arrow_quant_v2.config.settings import CALIBRATION

__all__ = ["Batch", "PerSample", "as_batches"]


class PerSample(list[Tensor]):
    """A list of tensors of which each belongs to one sample, as some denoisers take them."""


@dataclass(frozen=True)
class Batch:
    """One call of a network.

    Attributes
    ----------
    args, kwargs
        Of the call.
    timestep
        The diffusion time as the network gets it, or the ratio of masked tokens: a number, or a
        tensor with one for each sample.
    held_out
        Which samples are set aside, as booleans; None: every fifth, counted over all batches.
    valid
        Booleans of shape [samples, tokens]: tokens that count where an activation has that many;
        None: all.
    masked
        Booleans of the same shape: the tokens that a language model is asked about; None: its whole
        output counts.
    shared
        Names of keyword arguments that all samples share, whatever their lengths are.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    timestep: float | Tensor = 0.0
    held_out: Tensor | None = None
    valid: Tensor | None = None
    masked: Tensor | None = None
    shared: frozenset[str] = frozenset()

    @property
    def samples(self) -> int:
        """How many samples the batch has."""
        if isinstance(self.timestep, Tensor) and self.timestep.numel() > 1:
            return int(self.timestep.numel())
        named = [value for name, value in self.kwargs.items() if name not in self.shared]
        for value in (*self.args, *named):
            if isinstance(value, PerSample) or (isinstance(value, Tensor) and value.ndim > 0):
                return len(value)
        return 1

    def times(self) -> Tensor:
        """One timestep for each sample, float64."""
        times = torch.as_tensor(self.timestep, dtype=torch.float64, device="cpu").reshape(-1)
        return times.expand(self.samples) if len(times) == 1 else times

    def take(self, rows: Tensor) -> Batch:
        """The samples with the numbers `rows`, a tensor of integers."""
        count = self.samples
        return replace(
            self,
            args=rows_of(self.args, rows, count),
            kwargs={
                name: value if name in self.shared else rows_of(value, rows, count)
                for name, value in self.kwargs.items()
            },
            timestep=self.times()[rows],
            held_out=rows_of(self.held_out, rows, count),
            valid=rows_of(self.valid, rows, count),
            masked=rows_of(self.masked, rows, count),
        )


def as_batches(items: Iterable[Any], *, held_out: bool) -> list[Batch]:
    """Batches, or tuples ``(args, kwargs, timestep)``, with their held-out samples settled.

    Raises
    ------
    TypeError, ValueError
        An item is of another form, or there is none.
    """
    batches: list[Batch] = []
    seen = 0
    for batch in map(_as_batch, items):
        count = batch.samples
        kept = torch.zeros(count, dtype=torch.bool)
        if held_out and batch.held_out is None:
            kept = is_held_out(torch.arange(seen, seen + count))
        elif held_out and batch.held_out is not None:
            kept = torch.as_tensor(batch.held_out, dtype=torch.bool).reshape(-1)
            if len(kept) != count:
                raise ValueError(f"expected held_out for {count} samples, found {len(kept)}")
        batches.append(replace(batch, held_out=kept))
        seen += count
    if not batches:
        raise ValueError("expected at least one batch to calibrate on, found none")
    return batches


def has_held_out(batches: Iterable[Batch]) -> bool:
    """Whether any sample is set aside to judge by."""
    return any(batch.held_out is not None and bool(batch.held_out.any()) for batch in batches)


def is_held_out(numbers: Tensor) -> Tensor:
    """Whether samples or trajectories of these numbers are set aside."""
    return numbers % CALIBRATION.held_out_every == CALIBRATION.held_out_every - 1


def rows_of(value: Any, rows: Tensor, count: int) -> Any:
    """`value` with every tensor of `count` rows in it cut to `rows`, copied."""
    if isinstance(value, Tensor):
        if value.ndim > 0 and len(value) == count:
            return value.detach()[rows.to(value.device)]
        return value.detach().clone()
    if isinstance(value, PerSample):
        return PerSample(value[int(row)].detach().clone() for row in rows)
    if isinstance(value, Mapping):
        return {key: rows_of(item, rows, count) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(rows_of(item, rows, count) for item in value)
    return value


def copied(value: Any) -> Any:
    """`value` with every tensor in it copied."""
    return rows_of(value, torch.zeros(0, dtype=torch.long), -1)


def _as_batch(item: Any) -> Batch:
    if isinstance(item, Batch):
        return item
    if isinstance(item, tuple) and len(item) == 3:
        args, kwargs, timestep = item
        if isinstance(args, tuple | list) and isinstance(kwargs, Mapping):
            return Batch(tuple(args), kwargs, timestep)
    raise TypeError(
        "expected batches as (args, kwargs, timestep), with args a tuple and kwargs a dict; "
        f"found {type(item).__name__}"
    )


def batches_of(count: int, size: int) -> Iterator[range]:
    """Ranges of at most `size` that cover 0 .. count - 1."""
    for first in range(0, count, size):
        yield range(first, min(first + size, count))
