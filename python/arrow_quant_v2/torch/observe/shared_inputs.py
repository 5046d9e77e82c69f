"""Before anything is summed: which weights share an input, and how many tokens they will see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from arrow_quant_v2.torch.observe.tokens import Window, count_tokens
from arrow_quant_v2.torch.observe.watch import InputNumbers, watch
from arrow_quant_v2.torch.record.trajectory import Batch
from arrow_quant_v2.torch.text_models.routing import routed_tokens

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
    module: nn.Module,
    weights: list[Tensor],
    batches: list[Batch],
    check: Callable[[], None],
    more: Sequence[Batch] = (),
) -> Survey:
    """Run `module` on a few batches; `check` is called between them.

    Experts see some tokens only. Where a weight was not used and others were routed tokens, `more`
    batches are run, until none is left that was not used.
    """
    calls: list[list[tuple[int, int, Window]]] = [[] for _ in weights]
    tokens = [0] * len(weights)
    refused: dict[int, str] = {}
    experts = False
    looked_at = 0
    for number, batch in enumerate([*batches, *more]):
        if number >= len(batches) and (not experts or all(calls)):
            break
        inputs = InputNumbers()
        seen = frozenset(weight for weight, met in enumerate(calls) if met)
        looked_at += batch.samples

        def on_call(
            weight: int,
            x: Tensor,
            window: Window | str,
            number: int = number,
            inputs: InputNumbers = inputs,
            seen: frozenset[int] = seen,
        ) -> None:
            if isinstance(window, str):
                refused[weight] = window
                return
            if number >= len(batches) and weight in seen:
                return
            calls[weight].append((number, inputs(x), window))
            rows, per_row = count_tokens(x, window)
            tokens[weight] += rows * per_row
            nonlocal experts
            experts |= routed_tokens(rows) is not None

        with watch(weights, on_call):
            module(*batch.args, **batch.kwargs)
        check()
    sharing: dict[tuple[tuple[int, int, Window], ...], list[int]] = {}
    for weight, met in enumerate(calls):
        if weight not in refused and met:
            sharing.setdefault(tuple(met), []).append(weight)
        elif not met:
            refused.setdefault(weight, UNUSED)
    found = [
        ObservedInput(tuple(group), weights[group[0]][0].numel(), tokens[group[0]] / looked_at)
        for group in sharing.values()
    ]
    return Survey(tuple(found), refused)
