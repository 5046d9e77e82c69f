"""What the loaders of adapters ask of a model beyond its layers.

The layers themselves are subclasses of those of torch, so that PEFT wraps them as they are.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from arrow_quant_v2.torch.layers.packed_weight import PackedWeight, refuse_fusing

__all__ = ["accept_adapters"]

#: Methods of models of diffusers that would write into weights.
_FUSING = ("fuse_lora", "fuse_qkv_projections")


def accept_adapters(model: nn.Module) -> None:
    """Let LoRA be loaded into a model with packed layers, and nothing be fused into it.

    Parameters
    ----------
    model
        Its layers are packed already. Methods that fuse are refused before they change the first
        layer; a model without packed layers is left as it is.
    """
    if not any(isinstance(module, PackedWeight) for module in model.modules()):
        return
    for name in _FUSING:
        if hasattr(model, name):
            setattr(model, name, refuse_fusing)
    model._register_state_dict_hook(_with_shapes)


class _StateDict(OrderedDict[str, Any]):
    """A state dict that tells the shape of a packed weight by the name of the weight.

    diffusers looks there before it loads LoRA into FLUX. The weight is no entry of its own: it is
    not in the keys, and is not saved.
    """

    def __init__(self, entries: Any, model: nn.Module) -> None:
        super().__init__(entries)
        self._metadata = getattr(entries, "_metadata", None)
        self._model = ref(model)

    def __missing__(self, name: str) -> Tensor:
        path, _, leaf = name.rpartition(".")
        model = self._model()
        if model is not None and leaf == "weight":
            try:
                weight = model.get_submodule(path).weight
            except AttributeError:
                raise KeyError(name) from None
            if isinstance(weight, PackedWeight):
                return torch.empty((), dtype=weight.dtype, device=weight.device).expand(
                    weight.shape
                )
        raise KeyError(name)

    def __reduce__(self) -> Any:
        return OrderedDict, (), {"_metadata": self._metadata}, None, iter(self.items())

    def copy(self) -> Any:
        """A state dict like any other; loading one changes a copy."""
        return OrderedDict(self)


def _with_shapes(model: nn.Module, state: Any, prefix: str, local_metadata: Any) -> Any:
    return _StateDict(state, model)
