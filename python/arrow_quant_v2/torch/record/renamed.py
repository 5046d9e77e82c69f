"""Networks whose files have other names for tensors than their class: loaded by our own names."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from arrow_quant_v2.calibration.model_kind import CannotRunError
from arrow_quant_v2.model.description import Component
from arrow_quant_v2.torch.build.empty_model import empty_model

__all__ = ["load_renamed"]


def load_renamed(component: Component, dtype: torch.dtype) -> nn.Module:
    """The network of a component, with the names that the resolver gives to its tensors.

    Raises
    ------
    CannotRunError
        The library has no such class.
    """
    kind = getattr(importlib.import_module(component.library), component.class_name, None)
    if kind is None:
        raise CannotRunError(f"{component.library} has no class {component.class_name!r}")
    state = _state_dict(component, dtype)
    if component.library == "transformers":
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(str(component.folder), local_files_only=True)
        network: nn.Module = kind.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype
        )
        return network.eval()
    network = empty_model(component.folder)
    network.load_state_dict(state, strict=False, assign=True)
    return network


def _state_dict(component: Component, dtype: torch.dtype) -> dict[str, Tensor]:
    from safetensors import safe_open

    state = {}
    assert component.weights is not None  # names come from weights
    for path in component.weights.files:
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                final = component.names.get(name, name)
                if final:
                    tensor = file.get_tensor(name)
                    state[final] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return state
