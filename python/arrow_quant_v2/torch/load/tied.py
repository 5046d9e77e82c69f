"""Parameters that several modules of a model share, when some of these modules become packed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from arrow_quant_v2.torch.layers.packed_experts import PackedExperts
from arrow_quant_v2.torch.layers.quant_layers import replace_module

__all__ = ["Tied", "tied_parameters"]


@dataclass(frozen=True)
class Tied:
    """Groups of names that stand for one parameter, and the class of the module that holds each."""

    groups: tuple[tuple[str, ...], ...]
    kinds: dict[str, type]

    def share(self, model: nn.Module, stored: Collection[str]) -> None:
        """Give every module of a group what the module has whose weights were stored.

        A float parameter and packed experts are shared; where a packed layer has come in the place
        of the module, its fellows of the same class are replaced by that layer.
        """
        for names in self.groups:
            source = next((name for name in names if name in stored), None)
            if source is None:
                continue
            path, _, leaf = source.rpartition(".")
            module = model.get_submodule(path)
            for other in names:
                if other in stored:
                    continue
                place, _, own_leaf = other.rpartition(".")
                if leaf in module._parameters:
                    model.get_submodule(place)._parameters[own_leaf] = module._parameters[leaf]
                elif isinstance(module._modules.get(leaf), PackedExperts):
                    replace_module(model, other, module.get_submodule(leaf))
                elif self.kinds[other] is self.kinds[source]:
                    model.set_submodule(place, module)


def tied_parameters(model: nn.Module) -> Tied:
    """What a model without weights ties when it is told to."""
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    groups = tuple(tuple(group) for group in names.values() if len(group) > 1)
    kinds = {
        name: type(model.get_submodule(name.rpartition(".")[0]))
        for group in groups
        for name in group
    }
    return Tied(groups, kinds)
