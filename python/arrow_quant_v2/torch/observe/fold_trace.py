"""Which parameters of a network could be divided so that inputs of layers come out divided.

One call is followed operation by operation. Of every tensor that appears, the trace knows *ways*:
rows of parameters that, divided together, divide its elements, each by what its row is divided by.
Where an operation is not known to pass that on, the rows *escape*: dividing them would change
something else. What is not understood is left alone.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["FoldTrace", "Source", "Way"]

aten = torch.ops.aten
_MOST_WAYS = 4  # of one tensor


@dataclass(frozen=True)
class Source:
    """Rows of a parameter that make the channels of an input, in order.

    Attributes
    ----------
    parameter
        Its number.
    row
        The first of them.
    offset
        What is added to every channel behind the parameter.
    """

    parameter: int
    row: int
    offset: float


#: What divides an input: all of it together.
Way = tuple[Source, ...]


@dataclass(frozen=True)
class _Term:
    """Rows of one parameter in a tensor.

    Attributes
    ----------
    parameter
        Its number.
    rows
        Of each element, the row that it is divided with; in the shape of the tensor.
    own
        The tensor is the parameter, or a view of it.
    added
        Each element is that row plus something else, so that the row can take up a constant.
    offset
        The constant that it has taken up.
    """

    parameter: int
    rows: Tensor
    own: bool = False
    added: bool = False
    offset: float = 0.0


_Terms = tuple[_Term, ...]


class FoldTrace(TorchDispatchMode):
    """Follows one call of a network.

    Parameters
    ----------
    parameters
        All of them.
    layers
        Numbers of those that are weights of layers whose inputs may be divided.
    """

    def __init__(self, parameters: Sequence[Tensor], layers: Iterable[int]) -> None:
        super().__init__()
        self._parameters = parameters
        self._layers = set(layers)
        self._escaped = [torch.zeros(len(p) if p.ndim else 1, dtype=torch.bool) for p in parameters]
        self._known: dict[int, tuple[weakref.ref[Tensor], int, list[_Terms]]] = {}
        self._uses: dict[int, list[list[Way]]] = {}
        for number, parameter in enumerate(parameters):
            if parameter.ndim > 0:
                rows = torch.arange(len(parameter)).view(-1, *[1] * (parameter.ndim - 1))
                term = _Term(number, rows.expand(parameter.shape), own=True, added=True)
                self.set(parameter, [(term,)])

    def finish(self, output: Any) -> None:
        """The call is over; what it returned must stay as it is."""
        self.escape(*tree_leaves(output))

    def folds(self) -> list[tuple[list[int], Way]]:
        """Layers, and the rows that make their input and nothing else."""
        common = {
            layer: [way for way in calls[0] if all(way in call for call in calls)]
            for layer, calls in self._uses.items()
        }
        found = []
        taken: set[int] = set()
        for way in dict.fromkeys(itertools.chain.from_iterable(common.values())):
            members = [n for n, ways in common.items() if way in ways and n not in taken]
            if members and self._is_private(way, members):
                taken.update(members)
                found.append((members, way))
                for source in way:
                    self._rows(source, members[0]).fill_(True)
        return found

    def _rows(self, source: Source, layer: int) -> Tensor:
        """Whether rows have escaped, of those that make the input of `layer`."""
        count = self._parameters[layer].shape[1]
        return self._escaped[source.parameter][source.row : source.row + count]

    def _is_private(self, way: Way, members: list[int]) -> bool:
        """Whether these rows are there for these layers alone."""
        if any(self._rows(source, members[0]).any() for source in way):
            return False
        used = [torch.zeros_like(rows) for rows in self._escaped]
        for layer, calls in self._uses.items():
            if layer not in members:
                for source in itertools.chain.from_iterable(itertools.chain.from_iterable(calls)):
                    count = self._parameters[layer].shape[1]
                    used[source.parameter][source.row : source.row + count] = True
        count = self._parameters[members[0]].shape[1]
        return not any(used[s.parameter][s.row : s.row + count].any() for s in way)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not self._is_followed(func, args, kwargs, output):
            self.escape(*tree_leaves((args, kwargs)))
        return output

    def _is_followed(self, func: Any, args: Any, kwargs: Any, output: Any) -> bool:
        packet = func.overloadpacket
        attention = packet.__name__.startswith("_scaled_dot_product")
        rule = _attention if attention else _RULES.get(packet)
        if rule is None or func._schema.is_mutable:
            return False
        try:
            return rule(self, func, args, kwargs, output)
        except (IndexError, RuntimeError, TypeError, ValueError):
            return False  # the rows cannot be rearranged like the elements

    # What rules ask and say.

    def ways(self, value: Any) -> list[_Terms]:
        """Of a tensor; nothing is known of what was changed in place since."""
        known = self._known.get(id(value))
        if known is None or known[0]() is not value:
            return []
        if known[1] != _version(value):
            del self._known[id(value)]
            self.let_go(known[2])
            return []
        return [terms for terms in known[2] if not self._is_dead(terms)]

    def set(self, tensor: Tensor, ways: list[_Terms], base: Tensor | None = None) -> None:
        """What is known of a new tensor; a view of `base` will count the changes of that."""
        self.let_go(ways[_MOST_WAYS:])
        if ways:
            key = id(tensor)
            gone = weakref.ref(tensor, lambda _: self._known.pop(key, None))
            self._known[key] = (gone, _version(tensor if base is None else base), ways[:_MOST_WAYS])

    def escape(self, *values: Any) -> None:
        """What these tensors hold must stay as it is."""
        for value in values:
            self.let_go(self.ways(value))

    def let_go(self, ways: list[_Terms]) -> None:
        """The rows of these ways are read by something that cannot do with divided ones."""
        for term in itertools.chain.from_iterable(ways):
            self._escaped[term.parameter][_distinct(term.rows)] = True
            if term.own:
                self._layers.discard(term.parameter)
                self._forget(term.parameter)

    def _forget(self, layer: int) -> None:
        """A layer's weight is used in a way that is not understood: so are its inputs."""
        width = self._parameters[layer].shape[1] if self._parameters[layer].ndim > 1 else 0
        for source in itertools.chain.from_iterable(
            itertools.chain.from_iterable(self._uses.pop(layer, []))
        ):
            self._escaped[source.parameter][source.row : source.row + width] = True

    def _is_dead(self, terms: _Terms) -> bool:
        return any(
            self._escaped[t.parameter].any() and self._escaped[t.parameter][_distinct(t.rows)].any()
            for t in terms
        )

    def use(self, weight: int, input: Tensor, dim: int) -> None:
        """A layer reads `input`, whose channels lie along `dim`."""
        width = self._parameters[weight].shape[1]
        if input.shape[dim] != width:
            raise ValueError("a part of a weight")
        ways = []
        for terms in self.ways(input):
            way = _way(terms, dim, width)
            if way is None:
                self.let_go([terms])
            else:
                ways.append(way)
        self._uses.setdefault(weight, []).append(ways)

    def layer(self, value: Any) -> int | None:
        """The number of the parameter whose rows the columns of `value` are, if it is a layer's."""
        ways = self.ways(value)
        if len(ways) != 1 or len(ways[0]) != 1 or not ways[0][0].own:
            return None
        number = ways[0][0].parameter
        return number if number in self._layers else None


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _distinct(rows: Tensor) -> Tensor:
    """The rows, most of those that come up often once."""
    for dim, stride in enumerate(rows.stride()):
        if stride == 0:
            rows = rows.narrow(dim, 0, min(1, rows.shape[dim]))
    return rows


def _constant(rows: Tensor, dim: int) -> Tensor:
    """The first of equal parts along `dim`; raises ValueError where they are not equal."""
    first = rows.narrow(dim, 0, 1)
    if rows.stride(dim) != 0 and not (rows == first).all():
        raise ValueError("different rows")
    return first


def _source(term: _Term, dim: int) -> Source | None:
    """Where the channels come from; None unless they are neighbouring rows, in order."""
    rows = _distinct(term.rows.movedim(dim, -1))
    if rows.shape[-1] != term.rows.shape[dim]:
        return None  # one row for several channels
    rows = rows.reshape(-1, rows.shape[-1])
    first = int(rows[0, 0])
    if not (rows == torch.arange(first, first + rows.shape[1])).all():
        return None
    return Source(term.parameter, first, term.offset)


def _way(terms: _Terms, dim: int, width: int) -> Way | None:
    """The sources of `terms`; None where one has another order, or a row would be divided twice."""
    found: set[Source] = set()
    for term in terms:
        source = _source(term, dim)
        if source is None:
            return None
        found.add(source)
    way = tuple(sorted(found, key=lambda s: (s.parameter, s.row, s.offset)))
    for a, b in itertools.pairwise(way):
        if a.parameter == b.parameter and b.row < a.row + width:
            return None
    return way


def _same(trace: FoldTrace, func: Any, args: Any, kwargs: Any, output: Tensor) -> bool:
    if not output.is_floating_point():
        return False
    trace.set(output, trace.ways(args[0]), _base(func, args))
    return True


def _rearranged(trace: FoldTrace, func: Any, args: Any, kwargs: Any, output: Any) -> bool:
    """The elements in another order: so are their rows."""
    return _moved(trace, lambda rows: func(rows, *args[1:], **kwargs), args, output, func)


def _reshaped(trace: FoldTrace, func: Any, args: Any, kwargs: Any, output: Tensor) -> bool:
    return _moved(trace, lambda rows: rows.reshape(output.shape), args, output, func)


def _moved(
    trace: FoldTrace, move: Callable[[Tensor], Any], args: Any, output: Any, func: Any
) -> bool:
    base = _base(func, args)
    results = [output] if isinstance(output, Tensor) else list(output)
    found: list[list[_Terms]] = [[] for _ in results]
    for terms in trace.ways(args[0]):
        moved = []
        for term in terms:
            rows = move(term.rows)
            moved.append([rows] if isinstance(rows, Tensor) else list(rows))
        for ways, parts in zip(found, zip(*moved, strict=True), strict=True):
            ways.append(tuple(replace(t, rows=r) for t, r in zip(terms, parts, strict=True)))
    for tensor, ways in zip(results, found, strict=True):
        trace.set(tensor, ways, base)
    return True


def _base(func: Any, args: Any) -> Tensor | None:
    """What the output is a view of."""
    base: Tensor | None = args[0] if func._schema.returns[0].alias_info is not None else None
    return base


def _grown(terms: _Terms, output: Tensor, **changes: Any) -> _Terms:
    """Terms in the shape of what an operation made of their tensor."""
    return tuple(replace(t, rows=t.rows.expand(output.shape), own=False, **changes) for t in terms)


def _multiplied(trace: FoldTrace, func: Any, args: Any, kwargs: Any, output: Tensor) -> bool:
    a, b = args
    # What grows with the same rows on both sides grows with their square.
    for first, second in itertools.product(trace.ways(a), trace.ways(b)):
        if _overlap(first, second):
            trace.let_go([first, second])
    found = (*trace.ways(a), *trace.ways(b))
    trace.set(output, [_grown(terms, output, added=False) for terms in found])
    return True


def _overlap(first: _Terms, second: _Terms) -> bool:
    return any(
        bool(torch.isin(_distinct(a.rows), _distinct(b.rows)).any())
        for a, b in itertools.product(first, second)
        if a.parameter == b.parameter
    )


def _divided(trace: FoldTrace, func: Any, args: Any, kwargs: Any, output: Tensor) -> bool:
    a, b = args[:2]
    if len(args) > 2 or kwargs:
        return False  # rounded
    trace.escape(b)
    trace.set(output, [_grown(t, output, added=False) for t in trace.ways(a)])
    return True


def _negated(trace: FoldTrace, func: Any, args: Any, kwargs: Any, output: Tensor) -> bool:
    trace.set(output, [_grown(t, output, added=False) for t in trace.ways(args[0])])
    return True


def _added(trace: FoldTrace, func: Any, args: Any, kwargs: Any, output: Tensor) -> bool:
    a, b = args[:2]
    factor = args[2] if len(args) > 2 else kwargs.get("alpha", 1)
    if func.overloadpacket is aten.sub:
        factor = -factor
    return _sum(trace, a, b, factor, output)


def _sum(trace: FoldTrace, a: Any, b: Any, factor: float, output: Tensor) -> bool:
    """Of a + factor * b, both must be divided, or b is a constant that a row takes up."""
    ways = []
    if isinstance(b, Tensor):
        for first, second in itertools.product(trace.ways(a), trace.ways(b)):
            right = _grown(second, output) if factor == 1 else _grown(second, output, added=False)
            ways.append(_grown(first, output) + right)
        if not ways:
            return False
    else:
        for terms in trace.ways(a):
            found = _taken_up(terms, float(b) * factor)
            if found is None:
                trace.let_go([terms])
            else:
                ways.append(_grown(found, output))
    trace.set(output, ways)
    return True


def _taken_up(terms: _Terms, constant: float) -> _Terms | None:
    for i, term in enumerate(terms):
        if term.added:
            changed = replace(term, offset=term.offset + constant)
            return (*terms[:i], changed, *terms[i + 1 :])
    return None


def _product(trace: FoldTrace, a: Any, b: Any, output: Tensor) -> list[_Terms]:
    """Ways of the matrix product through `b`, whose columns become those of the output."""
    number = trace.layer(b)
    if number is None:
        trace.escape(a)
    else:
        trace.use(number, a, -1)
    ways = []
    for terms in trace.ways(b):
        try:
            ways.append(_without(terms, -2, output))
        except ValueError:
            trace.let_go([terms])
    return ways


def _without(terms: _Terms, dim: int, output: Tensor) -> _Terms:
    """The terms of sums along `dim`, whose rows must be the same along it."""
    return tuple(
        replace(t, rows=_constant(t.rows, dim).expand(output.shape), own=False, added=False)
        for t in terms
    )


def _along(terms: _Terms, dim: int, output: Tensor, **changes: Any) -> _Terms:
    """The terms of a parameter of one dimension, in a tensor whose channels lie along `dim`."""
    shape = [1] * output.ndim
    shape[dim] = -1
    return tuple(
        replace(t, rows=t.rows.reshape(shape).expand(output.shape), own=False, **changes)
        for t in terms
    )


def _biased(
    trace: FoldTrace, ways: list[_Terms], biases: list[_Terms] | None, output: Tensor
) -> bool:
    """Ways of a sum with a bias; None: there is none."""
    if biases is None:
        trace.set(output, ways)
        return True
    both = [way + bias for way, bias in itertools.product(ways, biases)]
    if not both:
        trace.let_go([*ways, *biases])
    trace.set(output, both)
    return True


def _matrix_product(trace: FoldTrace, func: Any, args: Any, kwargs: Any, output: Tensor) -> bool:
    trace.set(output, _product(trace, args[0], args[1], output))
    return True


def _product_added(trace: FoldTrace, func: Any, args: Any, kwargs: Any, output: Tensor) -> bool:
    bias, a, b = args
    if kwargs:
        return False  # factors of the two
    ways = _product(trace, a, b, output)
    return _biased(trace, ways, [_grown(terms, output) for terms in trace.ways(bias)], output)


def _convolved(trace: FoldTrace, func: Any, args: Any, kwargs: Any, output: Tensor) -> bool:
    x, weight, bias, _, _, _, transposed, _, groups = args
    if transposed:
        return False
    number = trace.layer(weight)
    if number is None or groups != 1:
        trace.escape(x)
    else:
        trace.use(number, x, 1)
    ways = [
        _along((replace(terms[0], rows=terms[0].rows.flatten(1)[:, 0], added=False),), 1, output)
        for terms in trace.ways(weight)
        if terms[0].own
    ]
    biases = None if bias is None else [_along(t, 1, output) for t in trace.ways(bias)]
    return _biased(trace, ways, biases, output)


def _normalized(trace: FoldTrace, func: Any, args: Any, kwargs: Any, output: Any) -> bool:
    """A norm with a factor for each channel, and perhaps a bias."""
    by_group = func.overloadpacket is aten.native_group_norm
    x, weight = args[0], args[1 if by_group else 2]
    bias = None if func.overloadpacket is aten._fused_rms_norm else args[2 if by_group else 3]
    if weight is None or weight.ndim != 1:
        return False
    trace.escape(x)
    result, dim = output[0], 1 if by_group else -1
    ways = [_along(terms, dim, result, added=False) for terms in trace.ways(weight)]
    biases = None if bias is None else [_along(t, dim, result) for t in trace.ways(bias)]
    return _biased(trace, ways, biases, result)


def _attention(trace: FoldTrace, func: Any, args: Any, kwargs: Any, output: Any) -> bool:
    """Each head is a mean of its values."""
    queries, keys, values, *others = args
    trace.escape(queries, keys, *tree_leaves((others, kwargs)))
    result = output[0] if isinstance(output, tuple | list) else output
    trace.set(result, [_without(terms, -2, result) for terms in trace.ways(values)])
    return True


_Rule = Callable[[FoldTrace, Any, Any, Any, Any], bool]
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys((aten._to_copy, aten.clone, aten.alias, aten.detach, aten.lift_fresh), _same),
    **dict.fromkeys((aten.view, aten._unsafe_view, aten.reshape), _reshaped),
    **dict.fromkeys(
        (
            aten.t,
            aten.transpose,
            aten.permute,
            aten.unsqueeze,
            aten.squeeze,
            aten.expand,
            aten.slice,
            aten.select,
            aten.split,
            aten.split_with_sizes,
            aten.unbind,
        ),
        _rearranged,
    ),
    aten.mul: _multiplied,
    aten.div: _divided,
    aten.neg: _negated,
    aten.add: _added,
    aten.sub: _added,
    aten.mm: _matrix_product,
    aten.bmm: _matrix_product,
    aten.addmm: _product_added,
    aten.convolution: _convolved,
    aten.native_layer_norm: _normalized,
    aten._fused_rms_norm: _normalized,
    aten.native_group_norm: _normalized,
}
