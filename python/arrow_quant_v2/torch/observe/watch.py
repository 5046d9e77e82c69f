"""Watching the weights of a module at work.

A weight is recognised where it is used, in a call of ``linear`` or of a convolution, and not by the
class of the module that holds it: attention blocks that use their weights directly, shared weights
and subclasses of torch's layers are all seen alike.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from arrow_quant_v2.torch.observe.tokens import Window

__all__ = ["InputNumbers", "every_operation", "watch"]

#: Gets the number of a weight, what is multiplied by it, and how; a string says why it cannot.
OnCall = Callable[[int, Tensor, "Window | str"], None]
#: Gets the number of a weight, what it made, and the dimension of its channels; what it returns
#: takes the place of the output.
OnOutput = Callable[[int, Tensor, int], Tensor]

_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED = (
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
)

# torch hands the whole of attention to a watching mode as one call, inside which the mode is off.
# The same code without that hand-over shows the projections within.
_attention = types.FunctionType(
    functional.multi_head_attention_forward.__code__,
    {**vars(functional), "has_torch_function": lambda *_: False},
    "multi_head_attention_forward",
    functional.multi_head_attention_forward.__defaults__,
)
_attention.__kwdefaults__ = functional.multi_head_attention_forward.__kwdefaults__


class _Watch(TorchFunctionMode):
    def __init__(
        self, numbers: Mapping[int, int], on_call: OnCall, on_output: OnOutput | None
    ) -> None:
        super().__init__()
        self._numbers = numbers
        self._on_call = on_call
        self._on_output = on_output

    def __torch_function__(
        self, func: Any, kinds: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            with self:
                return _attention(*args, **kwargs)
        if func is functional.linear or func in _CONVOLUTIONS or func in _TRANSPOSED:
            number = self._see(func, *args, **kwargs)
            if number is not None and self._on_output is not None:
                linear = func is functional.linear
                return self._on_output(number, func(*args, **kwargs), -1 if linear else 1)
        return func(*args, **kwargs)

    def _see(
        self, func: Any, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any
    ) -> int | None:
        number = self._numbers.get(id(weight))
        if number is None:
            return None
        if func is functional.linear:
            self._on_call(number, input, Window())
        elif func in _TRANSPOSED:
            self._on_call(number, input, "the rows of a transposed convolution are its inputs")
        else:
            self._on_call(number, input, _window(weight.shape[2:], *args, **kwargs))
        return number


def _window(
    kernel: tuple[int, ...],
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Window | str:
    if groups != 1:
        return "the groups of a grouped convolution have inputs of their own"

    def each(value: Any) -> tuple[int, ...]:
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * len(kernel) if len(values) == 1 else values

    pads = padding if isinstance(padding, str) else each(padding)
    return Window(tuple(kernel), each(stride), pads, each(dilation))


@contextmanager
def watch(
    weights: list[Tensor], on_call: OnCall, on_output: OnOutput | None = None
) -> Iterator[None]:
    """Call `on_call` and `on_output` where one of `weights` is used, by its number in the list."""
    numbers = {id(weight): i for i, weight in enumerate(weights)}
    with every_operation(), _Watch(numbers, on_call, on_output):
        yield


@contextmanager
def every_operation() -> Iterator[None]:
    """Without the fast path of attention, which would use weights unseen."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class InputNumbers:
    """Numbers tensors in the order in which they first appear; changed in place, they are new."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}
        self._count = 0

    def __call__(self, tensor: Tensor) -> int:
        """The number of a tensor."""
        version = 0 if tensor.is_inference() else tensor._version
        known = self._known.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == version:
            return known[2]
        number = self._count
        self._known[id(tensor)] = (weakref.ref(tensor), version, number)
        self._count += 1
        return number
