"""What the tensors of known classes are for, from a table; neither torch nor the library is needed.

``known_classes.json`` is made from the libraries' own modules by
``python -m arrow_quant_v2.torch.build.class_table``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

__all__ = [
    "Role",
    "TensorRole",
    "class_of",
    "component_folders",
    "known_roles",
    "roles_for_engine",
]


@dataclass(frozen=True)
class Role:
    """What a tensor is to its network, and whether such tensors are quantized.

    `row_dimensions`: how many of its dimensions make the rows of the matrix that is quantized.
    """

    name: str
    quantize: bool
    row_dimensions: int = 1


#: For the engine: component, glob of names, role (empty: as the shape tells), whether it is
#: quantized, where that is known from, and how many dimensions make its rows (0: as name and shape
#: tell). The first that fits a tensor counts.
TensorRole = tuple[str, str, str, bool, str, int]


def class_of(config: Any) -> str | None:
    """The class that the content of a ``config.json`` names; None where it names none."""
    if not isinstance(config, dict):
        return None
    architectures = config.get("architectures")
    name = config.get("_class_name")
    if name is None and isinstance(architectures, list) and architectures:
        name = architectures[0]
    return name if isinstance(name, str) else None


def known_roles(component: str, class_name: str) -> list[TensorRole] | None:
    """Roles of the tensors of a class; None where the table does not have it."""
    table = _table().get(class_name)
    if table is None:
        return None
    return [
        *(
            (component, pattern, role, False, "class", 0)
            for role, patterns in table.items()
            for pattern in patterns
        ),
        (component, "*", "", True, "class", 0),
    ]


def component_folders(path: Path) -> dict[str, Path]:
    """Folders with a ``config.json``, by component; a model that is one component has ``""``."""
    if not os.path.isdir(path):  # False also of a name that is too long
        return {}
    if not (path / "model_index.json").is_file():
        return {"": path} if (path / "config.json").is_file() else {}
    return {
        folder.name: folder
        for folder in sorted(path.iterdir())
        if (folder / "config.json").is_file()
    }


def roles_for_engine(
    component: str, roles: Iterable[tuple[str, Role]], known_from: str
) -> list[TensorRole]:
    """Roles of single tensors in the form of the engine."""
    return [
        (component, name, role.name, role.quantize, known_from, role.row_dimensions)
        for name, role in roles
    ]


@cache
def _table() -> dict[str, dict[str, list[str]]]:
    text = resources.files("arrow_quant_v2.plan").joinpath("known_classes.json").read_text("utf-8")
    table: dict[str, dict[str, list[str]]] = json.loads(text)["classes"]
    return table
