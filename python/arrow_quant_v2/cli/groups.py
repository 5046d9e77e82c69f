"""Tensors whose names differ in numbers alone, as one line of a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Group", "common", "grouped"]

_Item = TypeVar("_Item")

_NUMBER = re.compile(r"(?<![^./])\d+(?![^./])")  # a whole part of a dotted name


@dataclass(frozen=True)
class Group(Generic[_Item]):
    """Items that share a line.

    Attributes
    ----------
    label
        The name of the only item; or the pattern of all, with ranges of numbers, and their count.
    items
        In their order.
    """

    label: str
    items: tuple[_Item, ...]


def grouped(
    items: Iterable[_Item],
    name: Callable[[_Item], str],
    facts: Callable[[_Item], Hashable],
) -> list[Group[_Item]]:
    """Items in groups of one pattern of names and equal `facts`, in the order of first members."""
    groups: dict[Hashable, list[_Item]] = {}
    for item in items:
        groups.setdefault((_NUMBER.sub("*", name(item)), facts(item)), []).append(item)
    return [
        Group(_label([name(item) for item in group]), tuple(group)) for group in groups.values()
    ]


def common(values: Iterable[str]) -> str:
    """The value that all items of a group have, or that they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else "various"


def _label(names: list[str]) -> str:
    """The names in short: ``blocks.0-23.attn.to_q.weight x 24``."""
    if len(names) == 1:
        return names[0]
    numbers = [[int(number) for number in _NUMBER.findall(name)] for name in names]
    ranges = iter([_range(column) for column in zip(*numbers, strict=True)])
    return f"{_NUMBER.sub(lambda _: next(ranges), names[0])} x {len(names)}"


def _range(numbers: Iterable[int]) -> str:
    """``0-3`` for numbers without a gap, ``0,2`` for two, ``*`` for others."""
    found = sorted(set(numbers))
    if len(found) <= 2:
        joint = "-" if len(found) == 2 and found[1] == found[0] + 1 else ","
        return joint.join(map(str, found))
    return f"{found[0]}-{found[-1]}" if found[-1] - found[0] == len(found) - 1 else "*"
