"""Where equalization scales can be fused into parameters: found, and proved by running."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from arrow_quant_v2.calibration.statistics import Fold, FoldSource
from arrow_quant_v2.torch.observe.fold_trace import FoldTrace
from arrow_quant_v2.torch.observe.watch import every_operation
from arrow_quant_v2.torch.record.trajectory import Batch

__all__ = ["find_folds"]

#: Of the output, relative: what may differ in a network that computes in single precision.
_ROUNDING = 1e-4
_LARGEST = 2  # exponent of the factors that folds are tried with


def find_folds(
    module: nn.Module,
    tape: Sequence[Batch],
    layers: Collection[str],
    check: Callable[[], None] = lambda: None,
) -> list[Fold] | None:
    """Folds of inputs of `layers`, which are weights of `module`; `check` is called between runs.

    One batch shows which parameters make an input and nothing else. Every fold is then tried on
    some batches with random factors; one that moves outputs by more than rounding is dropped.

    Returns
    -------
    list of Fold or None
        None where the module cannot be followed: it cannot run operation by operation, or returns
        nothing that could be compared.
    """
    names: dict[int, list[str]] = {}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), []).append(name)
    # What has two names in the module may have one or both in the weight file.
    single = [name for name in parameters if len(names[id(parameters[name])]) == 1]
    trace = FoldTrace(
        [parameters[name] for name in single],
        [number for number, name in enumerate(single) if name in layers],
    )
    batch = tape[0]
    try:
        with every_operation(), trace:
            output = module(*batch.args, **batch.kwargs)
    except Exception:  # compiled code, say: it runs, but not under a watching mode
        return None
    if not _tensors(output):
        return None
    trace.finish(output)
    folds = [
        Fold(
            tuple(single[layer] for layer in members),
            tuple(FoldSource(single[s.parameter], s.row, s.offset) for s in way),
        )
        for members, way in trace.folds()
    ]
    return _proved(module, _spread(tape), folds, check)


@contextmanager
def _folded(module: nn.Module, folds: Sequence[tuple[Fold, Tensor]]) -> Iterator[None]:
    """`module` with factors, powers of two, folded in place: a large one has no room for a copy."""
    parameters = dict(module.named_parameters())
    undo: list[Callable[[], object]] = []
    try:
        with torch.no_grad():
            for fold, given in folds:
                for name in fold.layers:
                    weight = parameters[name]
                    factors = given.to(weight).view(1, -1, *[1] * (weight.ndim - 2))
                    weight.mul_(factors)
                    undo.append(partial(weight.div_, factors))
                for source in fold.sources:
                    rows = parameters[source.name][source.row : source.row + len(given)]
                    factors = given.to(rows).view(-1, *[1] * (rows.ndim - 1))
                    if source.offset:
                        undo.append(partial(rows.copy_, rows.clone()))
                    else:
                        undo.append(partial(rows.mul_, factors))
                    rows.add_(source.offset).div_(factors).sub_(source.offset)
        yield
    finally:
        with torch.no_grad():
            for step in reversed(undo):
                step()


def _spread(tape: Sequence[Batch]) -> list[Batch]:
    """The first batch, one in the middle, and the last."""
    return [tape[i] for i in sorted({0, len(tape) // 2, len(tape) - 1})]


def _proved(
    module: nn.Module, batches: list[Batch], folds: list[Fold], check: Callable[[], None]
) -> list[Fold]:
    """Those that leave the outputs as they are: all together, or else those that do so alone."""
    if not folds:
        return []

    def outputs() -> list[list[Tensor]]:
        found = []
        for batch in batches:
            check()
            found.append(_tensors(module(*batch.args, **batch.kwargs)))
        return found

    expected = outputs()

    def holds(some: list[Fold]) -> bool:
        widths = [module.get_parameter(fold.layers[0]).shape[1] for fold in some]
        factors = [_random_factors(width) for width in widths]
        with _folded(module, list(zip(some, factors, strict=True))):
            found = outputs()
        return all(_distance(f, e) <= _ROUNDING for f, e in zip(found, expected, strict=True))

    if holds(folds):
        return folds
    sound = [fold for fold in folds if holds([fold])]
    return sound if sound and holds(sound) else []


def _random_factors(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(-_LARGEST, _LARGEST + 1, (count,), generator=generator).double().exp2()


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest of the relative distances of some outputs."""
    largest = 0.0
    for f, e in zip(found, expected, strict=True):
        size = float(e.double().norm())
        distance = float((f.double() - e.double()).norm())
        largest = max(largest, distance / size if size > 0 else (math.inf if distance else 0.0))
    return largest
