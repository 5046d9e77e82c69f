"""The sizes of an artefact, in the words that every command and result uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arrow_quant_v2.artefact.model import QuantizedModel

__all__ = ["MANIFEST", "Sizes", "sizes_of"]

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Sizes:
    """Sizes in bytes.

    Attributes
    ----------
    stored_bytes
        Codes, parameters and kept tensors: what the tensors take in the weight files.
    weights_bytes
        The weight files of the quantized components (``weights.parquet``), as they are on disk.
    total_bytes
        Every file of the artefact.
    """

    stored_bytes: int
    weights_bytes: int
    total_bytes: int


def sizes_of(model: QuantizedModel) -> Sizes:
    """The sizes of an artefact, from its manifest and the footers of its weight files."""
    stored = sum(sum(part.stored_bytes.values()) for part in model.components.values())
    files = dict(_files(model))
    parts = {part for entry in model.manifest.get("components", ()) for part in entry["parts"]}
    weights = sum(
        size
        for name, size in files.items()
        if name in parts or (not parts and name.endswith(".parquet"))
    )
    return Sizes(stored, weights, sum(files.values()))


def _files(model: QuantizedModel) -> Iterator[tuple[str, int]]:
    """Every file by its path in the artefact; a model in an old layout has no manifest."""
    if "files" in model.manifest:
        for entry in model.manifest["files"]:
            yield entry["path"], entry["size"]
        yield MANIFEST, (model.path / MANIFEST).stat().st_size
        return
    if model.path.is_file():
        yield model.path.name, model.path.stat().st_size
        return
    for path in sorted(Path(model.path).rglob("*")):
        if path.is_file():
            yield path.relative_to(model.path).as_posix(), path.stat().st_size
