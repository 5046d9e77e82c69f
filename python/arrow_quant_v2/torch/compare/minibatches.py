"""Recorded samples in minibatches of mixed diffusion times, and how far predictions are apart.

The batches of a tape are those of the sampler that made it: a few states of one time each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from arrow_quant_v2.torch.compare.time_bins import first_output
from arrow_quant_v2.torch.layers.clock import TIME_ARGUMENTS
from arrow_quant_v2.torch.record.trajectory import Batch, PerSample

__all__ = ["distances", "gathered", "predict"]


def gathered(tape: Sequence[Batch], *, held_out: bool) -> list[Batch]:
    """The samples that are held out, or the others, in as few batches as possible.

    Batches of the same arguments become one; a diffusion time that several samples shared is
    repeated for each, as every denoiser of diffusers takes it.
    """
    parts: dict[Any, list[Batch]] = {}
    for batch in tape:
        chosen = torch.zeros(batch.samples, dtype=torch.bool)
        if batch.held_out is not None:
            chosen = batch.held_out
        rows = torch.nonzero(chosen if held_out else ~chosen)[:, 0]
        if len(rows):
            part = _timed(batch.take(rows))
            parts.setdefault(_form(part), []).append(part)
    return [_joined(found) for found in parts.values()]


def predict(network: nn.Module, batch: Batch) -> Tensor:
    """The first output of a network."""
    return first_output(network(*batch.args, **batch.kwargs))


def distances(batch: Batch, expected: Tensor, found: Tensor) -> Tensor:
    """How far predictions are apart, for each sample.

    The mean squared difference; for the masked tokens of a language model, the mean of their
    Kullback-Leibler divergences from what is expected.
    """
    if batch.masked is None:
        squares = (expected - found).square()
        if batch.valid is not None and batch.valid.shape == squares.shape[:2]:
            squares = squares * batch.valid[..., None]
        return squares.reshape(batch.samples, -1).mean(dim=1)
    p, q = expected[batch.masked].log_softmax(-1), found[batch.masked].log_softmax(-1)
    owners = torch.nonzero(batch.masked)[:, 0]
    sums = q.new_zeros(batch.samples).index_add(0, owners, (p.exp() * (p - q)).sum(-1))
    return sums / batch.masked.sum(dim=1).clamp(min=1)


def _timed(batch: Batch) -> Batch:
    """The batch with a time for each sample among its arguments."""
    kwargs = dict(batch.kwargs)
    for name in TIME_ARGUMENTS:
        time = kwargs.get(name)
        if time is None:
            continue
        given = torch.as_tensor(time)
        if given.numel() == 1:
            kwargs[name] = given.reshape(1).expand(batch.samples)
    return replace(batch, kwargs=kwargs)


def _form(batch: Batch) -> Any:
    """What batches must have in common to become one."""
    count = batch.samples

    def form(value: Any) -> Any:
        if isinstance(value, PerSample):
            return "per sample"
        if isinstance(value, Tensor):
            shared = value.ndim == 0 or len(value) != count
            return (tuple(value.shape[1:]), value.dtype, id(value) if shared else 0)
        if isinstance(value, Mapping):
            return tuple((key, form(item)) for key, item in value.items())
        if isinstance(value, tuple | list):
            return tuple(form(item) for item in value)
        return repr(value)

    shared = tuple((name, id(batch.kwargs[name])) for name in sorted(batch.shared))
    own = {name: value for name, value in batch.kwargs.items() if name not in batch.shared}
    return shared, tuple(form(v) for v in (batch.args, own, batch.valid, batch.masked))


def _joined(parts: Sequence[Batch]) -> Batch:
    counts = [part.samples for part in parts]

    def join(values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, PerSample):
            return PerSample(tensor for value in values for tensor in value)
        if isinstance(first, Tensor):
            alone = first.ndim == 0 or len(first) != counts[0]
            return first if alone else torch.cat(list(values))
        if isinstance(first, Mapping):
            return {key: join([value[key] for value in values]) for key in first}
        if isinstance(first, tuple | list):
            return type(first)(join(items) for items in zip(*values, strict=True))
        return first

    first = parts[0]
    return Batch(
        args=join([part.args for part in parts]),
        kwargs={
            name: value if name in first.shared else join([part.kwargs[name] for part in parts])
            for name, value in first.kwargs.items()
        },
        timestep=torch.cat([part.times() for part in parts]),
        held_out=join([part.held_out for part in parts]),
        valid=join([part.valid for part in parts]),
        masked=join([part.masked for part in parts]),
        shared=first.shared,
    )
