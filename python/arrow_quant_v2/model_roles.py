"""What the tensors of a model are for, as far as classes tell; the engine's names tell the rest."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from arrow_quant_v2.plan.class_roles import TensorRole, class_of, component_folders, known_roles

__all__ = ["model_roles"]


def model_roles(path: Path) -> list[TensorRole]:
    """Roles of the tensors of all components whose class is known.

    The table of classes is asked first. A class that it lacks is built without weights, where
    torch and its library are there.
    """
    roles: list[TensorRole] = []
    for component, folder in component_folders(path).items():
        try:
            name = class_of(json.loads((folder / "config.json").read_bytes()))
        except (OSError, ValueError):
            continue  # the engine says what is wrong with it
        if name is None:
            continue
        known = known_roles(component, name)
        if known is None and importlib.util.find_spec("torch") is not None:
            from arrow_quant_v2.torch.build.model_roles import built_roles

            known = built_roles(component, folder)
        roles += known or []
    return roles
