"""V1 files to V2: configuration files and Python programs."""

from __future__ import annotations

import os
from pathlib import Path

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.migrate.migration import Migration
from arrow_quant_v2.migrate.python_file import migrate_python
from arrow_quant_v2.migrate.yaml_file import migrate_yaml

__all__ = ["Migration", "migrate_file", "migrate_python", "migrate_yaml"]


def migrate_file(path: str | os.PathLike[str]) -> Migration:
    """Migrate a configuration file (``.yaml``, ``.yml``) or a program (``.py``, ``.pyi``).

    Raises
    ------
    ConfigurationError
        The file is something else, cannot be read, or cannot be migrated.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".yaml", ".yml"):
        return migrate_yaml(path)
    if suffix in (".py", ".pyi"):
        return migrate_python(path)
    raise ConfigurationError(
        f"{path}: expected a name that ends in .yaml, .yml or .py", path=str(path)
    )
