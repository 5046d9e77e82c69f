"""V1 configuration files: names are replaced where they stand, comments and order stay."""

from __future__ import annotations

import os
from pathlib import Path

from arrow_quant_v2.config.settings import V1_NAMES, DiffusionQuantConfig
from arrow_quant_v2.config.yaml_file import Document, parse_mapping, read_text
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.migrate.migration import Migration


def migrate_yaml(path: str | os.PathLike[str]) -> Migration:
    """Give the settings of a V1 file their V2 names, and check that V2 accepts the result.

    Raises
    ------
    ConfigurationError
        The file is no configuration, sets something under both names, or V2 refuses a value.
    """
    file = Path(path)
    old = read_text(file)
    document = parse_mapping(file, old)
    _check_names(file, document)
    new = old
    # From the last to the first, so that the offsets of the others stay true.
    for name, (start, end) in sorted(document.spans.items(), key=lambda item: -item[1][0]):
        if name in V1_NAMES:
            new = new[:start] + V1_NAMES[name] + new[end:]
    DiffusionQuantConfig._from_document(parse_mapping(file, new), file)
    return Migration(str(path), old, new)


def _check_names(file: Path, document: Document) -> None:
    for name, new in V1_NAMES.items():
        if name in document.values and new in document.values:
            raise ConfigurationError(
                f"{file}, line {document.lines[name]}: '{name}' is the V1 name of '{new}', "
                f"which line {document.lines[new]} sets as well",
                path=str(file),
                hint="Keep one of the two lines.",
            )
    strategy = document.values.get("strategy")
    if strategy is not None and strategy not in ("r2q", "gptq"):
        raise ConfigurationError(
            f"{file}, line {document.lines['strategy']}: Invalid strategy: {strategy!r}. "
            "Must be 'r2q' or 'gptq'.",
            path=str(file),
            hint="Remove the line: V2 chooses the method by the modality of the model.",
        )
