"""The weights of a network in stages, in the order in which it uses them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from arrow_quant_v2.torch.observe import InputNumbers, evaluating, watch
from arrow_quant_v2.torch.tape import Batch
from arrow_quant_v2.torch.tokens import Window

__all__ = ["stages_of"]


def stages_of(
    network: nn.Module, batch: Batch, names: Sequence[str], count: int
) -> list[list[str]]:
    """Names of weights in at most `count` stages of about as many inputs each.

    Weights that share an input are in one stage; weights that `batch` does not meet are in none.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    known = [name for name in names if name in parameters]
    inputs = InputNumbers()
    met: dict[int, int] = {}

    def on_call(weight: int, x: Tensor, window: Window | str) -> None:
        met.setdefault(weight, inputs(x))

    with evaluating(network), watch([parameters[name] for name in known], on_call):
        network(*batch.args, **batch.kwargs)
    sharing: dict[int, list[str]] = {}
    for weight in met:
        sharing.setdefault(met[weight], []).append(known[weight])
    groups = list(sharing.values())
    count = min(count, len(groups))
    ends = [len(groups) * (i + 1) // count for i in range(count)]
    return [
        [name for group in groups[begin:end] for name in group]
        for begin, end in zip([0, *ends], ends, strict=False)
    ]
