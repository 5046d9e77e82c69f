"""Roles of the tensors of a model folder whose classes a library knows."""

from __future__ import annotations

from pathlib import Path

from arrow_quant_v2.plan.class_roles import TensorRole, roles_for_engine
from arrow_quant_v2.torch.build.empty_model import empty_model
from arrow_quant_v2.torch.build.roles import module_roles

__all__ = ["built_roles"]


def built_roles(component: str, folder: Path) -> list[TensorRole]:
    """Roles by the modules of a component, built without weights; empty where it cannot be."""
    try:
        network = empty_model(folder)
    except Exception:  # whatever a library finds wrong with a configuration: names tell instead
        return []
    return roles_for_engine(component, module_roles(network).items(), "class")
