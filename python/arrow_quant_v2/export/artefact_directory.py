"""What exports that are directories share: everything but the form of the tensors.

Configurations, schedulers, tokenizers and kept components are copied; the tensors of quantized
components go into safetensors files, sharded as the libraries that load them do.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2.artefact.model import QuantizedComponent, QuantizedModel
from arrow_quant_v2.artefact.old_layouts import OldComponent, OldModel
from arrow_quant_v2.artefact.open import open_quantized
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.export.staged_directory import staged_directory
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.tensors.dtypes import numpy_dtype
from arrow_quant_v2.tensors.safetensors_writer import Entry, SafetensorsWriter

__all__ = ["Content", "Piece", "export_directory", "kept_piece", "piece_of"]

#: Files larger than this are split, as the libraries that load them do.
_SHARD_BYTES = 5_000_000_000
_WEIGHTS = "weights.parquet"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Piece:
    """A tensor to be written, and its bytes in pieces of any size, made when they are written."""

    entry: Entry
    blocks: Callable[[], Iterator[Array]]


@dataclass
class Content:
    """What is written of a component: tensors, and what is added to its ``config.json``."""

    pieces: list[Piece]
    config: dict[str, Any] = field(default_factory=dict)


def export_directory(
    path: StrPath,
    destination: StrPath,
    content: Callable[[QuantizedComponent], Content],
    *,
    num_threads: int,
    progress_callback: ProgressCallback | None,
    int2_order: str = "lsb",
) -> Path:
    """Write an artefact with the tensors that `content` makes of each quantized component.

    The destination appears complete or not at all.

    Raises
    ------
    ValidationError
        The artefact is damaged.
    OutputError
        The destination exists, or cannot be written.
    """
    model = open_quantized(path, int2_order, num_threads=num_threads)
    folder = Path(destination)
    _check_apart(model.path, folder)
    if not isinstance(model, OldModel):  # which has no hashes
        model.verify()
    contents = [content(component) for component in model.components.values()]
    total = sum(piece.entry.nbytes for made in contents for piece in made.pieces)
    progress = _Progress(progress_callback, total)
    with staged_directory(folder) as staging:
        _copy_other_files(model, staging)
        for component_folder, made in zip(_component_folders(model), contents, strict=True):
            _export_component(made, staging / component_folder, progress)
    return folder


def piece_of(name: str, array: Array, dtype: str) -> Piece:
    """A tensor that is at hand."""
    return Piece(Entry(name, dtype, array.shape, array.nbytes), lambda: iter([array]))


def kept_piece(component: QuantizedComponent, name: str) -> Piece:
    """The bytes of a kept tensor."""
    tensor = component[name]
    entry = Entry(name, tensor.source_dtype, tensor.shape, component.stored_bytes[name])
    if isinstance(component, OldComponent):
        return Piece(entry, lambda: component.value_blocks(name))
    return Piece(entry, lambda: (c.chunks[0].codes for c in component.row_blocks(name)))


class _Progress:
    """Counts bytes."""

    def __init__(self, callback: ProgressCallback | None, total: int) -> None:
        self._callback = callback
        self._total = total
        self._done = 0

    def add(self, name: str, nbytes: int) -> None:
        self._done += nbytes
        if self._callback is not None:
            self._callback(name, min(1.0, self._done / self._total) if self._total else 1.0)


def _check_apart(artefact: Path, destination: Path) -> None:
    source = os.path.realpath(artefact)
    target = os.path.realpath(destination)
    if os.path.commonpath([source, target]) in (source, target):
        raise ConfigurationError(
            f"{destination}: the destination and the artefact {artefact} contain each other",
            path=str(destination),
            hint="Choose a destination outside the artefact.",
        )


def _copy_other_files(model: QuantizedModel, staging: Path) -> None:
    """Copy every file of the artefact but the weights of quantized components and the manifest."""
    if isinstance(model, OldModel):
        others = model.other_files
        modality = model.metadata.get("modality")
        if modality:  # the old metadata.json also names the old layout
            text = json.dumps({"modality": modality}, indent=2) + "\n"
            (staging / "metadata.json").write_text(text, encoding="utf-8")
    else:
        others = [Path(record["path"]) for record in model.manifest["files"]]
        others = [path for path in others if _WEIGHTS not in path.parts]
    for relative in others:
        target = staging / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.path / relative, target)


def _component_folders(model: QuantizedModel) -> list[Path]:
    """The folder of each component, relative to that of the model."""
    if isinstance(model, OldModel):
        return [Path(name) for name in model.components]
    return [_folder_of(record["parts"][0]) for record in model.manifest["components"]]


def _folder_of(part: str) -> Path:
    """The folder of a component, from the path of one of its Parquet files."""
    steps = Path(part).parts
    return Path(*steps[: steps.index(_WEIGHTS)])


def _export_component(content: Content, folder: Path, progress: _Progress) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _add_to_config(folder / "config.json", content.config)
    # Wide types first, so that every tensor is aligned.
    shards = _shards(sorted(content.pieces, key=lambda piece: -_itemsize(piece.entry.dtype)))
    stem = _weights_stem(folder)
    names = _shard_names(stem, len(shards))
    for name, pieces in zip(names, shards, strict=True):
        with SafetensorsWriter(folder / name, [piece.entry for piece in pieces]) as writer:
            for piece in pieces:
                for block in piece.blocks():
                    writer.append(np.ascontiguousarray(block))
                    progress.add(piece.entry.name, block.nbytes)
    if len(shards) > 1:
        _write_index(folder / f"{stem}.safetensors.index.json", names, shards)


def _add_to_config(path: Path, added: dict[str, Any]) -> None:
    if not added:
        return
    if not path.is_file():
        raise ConfigurationError(
            f"the component has no {path.name} that could say how its weights are packed",
            hint="Export it with format 'safetensors', which needs none.",
        )
    config = {**json.loads(path.read_bytes()), **added}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _itemsize(dtype: str) -> int:
    found = numpy_dtype(dtype)
    return found.itemsize if found is not None else 1


def _shards(pieces: Sequence[Piece]) -> list[list[Piece]]:
    shards: list[list[Piece]] = [[]]
    size = 0
    for piece in pieces:
        if shards[-1] and size + piece.entry.nbytes > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(piece)
        size += piece.entry.nbytes
    return shards


def _shard_names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]


def _weights_stem(folder: Path) -> str:
    """The name that the library of the component looks for."""
    config = folder / "config.json"
    if config.is_file() and "_class_name" in json.loads(config.read_bytes()):
        return "diffusion_pytorch_model"
    return "model"


def _write_index(path: Path, names: Sequence[str], shards: Sequence[Sequence[Piece]]) -> None:
    total = sum(piece.entry.nbytes for shard in shards for piece in shard)
    weight_map = {
        piece.entry.name: name for name, shard in zip(names, shards, strict=True) for piece in shard
    }
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    path.write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
