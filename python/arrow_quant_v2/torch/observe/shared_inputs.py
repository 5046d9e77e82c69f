"""Before anything is summed: which weights share an input, and how many tokens they will see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from arrow_quant_v2.torch.observe.tokens import Window, count_tokens
from arrow_quant_v2.torch.observe.watch import InputNumbers, watch
from arrow_quant_v2.torch.record.trajectory import Batch

__all__ = ["UNUSED", "ObservedInput", "Survey", "survey"]

#: Why nothing is known of a weight that no layer used.
UNUSED = "no linear map or convolution used it"


@dataclass(frozen=True)
class ObservedInput:
    """An input, the weights that meet it, and the tokens that one sample has for it, on average."""

    weights: tuple[int, ...]
    channels: int
    tokens_per_sample: float


@dataclass(frozen=True)
class Survey:
    """What a look at some batches found; `unseen` says of weights why nothing can be observed."""

    inputs: tuple[ObservedInput, ...]
    unseen: Mapping[int, str]


def survey(
    module: nn.Module, weights: list[Tensor], batches: list[Batch], check: Callable[[], None]
) -> Survey:
    """Run `module` on a few batches; `check` is called between them."""
    calls: list[list[tuple[int, int, Window]]] = [[] for _ in weights]
    tokens = [0] * len(weights)
    refused: dict[int, str] = {}
    for number, batch in enumerate(batches):
        inputs = InputNumbers()

        def on_call(
            weight: int,
            x: Tensor,
            window: Window | str,
            number: int = number,
            inputs: InputNumbers = inputs,
        ) -> None:
            if isinstance(window, str):
                refused[weight] = window
                return
            calls[weight].append((number, inputs(x), window))
            rows, per_row = count_tokens(x, window)
            tokens[weight] += rows * per_row

        with watch(weights, on_call):
            module(*batch.args, **batch.kwargs)
        check()
    sharing: dict[tuple[tuple[int, int, Window], ...], list[int]] = {}
    for weight, met in enumerate(calls):
        if weight not in refused and met:
            sharing.setdefault(tuple(met), []).append(weight)
        elif not met:
            refused.setdefault(weight, UNUSED)
    samples = sum(batch.samples for batch in batches)
    found = [
        ObservedInput(tuple(group), weights[group[0]][0].numel(), tokens[group[0]] / samples)
        for group in sharing.values()
    ]
    return Survey(tuple(found), refused)
