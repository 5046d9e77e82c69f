"""An artefact as the directory it came from: dequantized safetensors that other libraries load."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._engine import ProgressCallback, StrPath
from arrow_quant_v2._native import core
from arrow_quant_v2.artefact import QuantizedComponent, QuantizedModel, open_quantized
from arrow_quant_v2.dtypes import float_dtype, numpy_dtype, safetensors_name
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.export._safetensors_writer import Entry, SafetensorsWriter
from arrow_quant_v2.export._staging import staged_directory
from arrow_quant_v2.old_layouts import OldComponent, OldModel

__all__ = ["export_safetensors"]

#: Files larger than this are split, as the libraries that load them do.
_SHARD_BYTES = 5_000_000_000
#: Weights that are dequantized at a time.
_BLOCK_WEIGHTS = 16 << 20
_MANIFEST = "manifest.json"
_WEIGHTS = "weights.parquet"


def export_safetensors(
    path: StrPath,
    destination: StrPath,
    *,
    dtype: str | None = None,
    int2_order: str = "lsb",
    num_threads: int = 0,
    progress_callback: ProgressCallback | None = None,
) -> Path:
    """Write a dequantized copy of an artefact that diffusers and transformers load.

    Configurations, schedulers, tokenizers and kept components are copied; kept tensors keep their
    bytes, but for biases that take up the mean of their layer's corrections by time. Works tensor
    by tensor, in little memory. The destination appears complete or not at all. Models in the old
    Parquet layouts are exported too; their integers become float32.

    Parameters
    ----------
    path
        The artefact.
    destination
        Folder to create.
    dtype
        ``"float32"``, ``"float16"`` or ``"bfloat16"`` for the quantized tensors; None takes the
        element type that each had, and bfloat16 for those that had 8 bits.
    int2_order
        For old models, as in :func:`~arrow_quant_v2.open_quantized`.
    num_threads
        Threads to use; 0 means all cores.
    progress_callback
        Called with a message and a fraction.

    Returns
    -------
    pathlib.Path
        The destination.

    Raises
    ------
    ValidationError
        The artefact is damaged.
    OutputError
        The destination exists, or cannot be written.
    """
    target = None if dtype is None else safetensors_name(float_dtype(dtype))
    model = open_quantized(path, int2_order, num_threads=num_threads)
    folder = Path(destination)
    _check_apart(model.path, folder)
    if not isinstance(model, OldModel):  # which has no hashes
        model.verify()
    progress = _Progress(progress_callback, sum(_bytes_of(model, target).values()))
    with staged_directory(folder) as staging:
        _copy_other_files(model, staging)
        for component_folder, component in zip(
            _component_folders(model), model.components.values(), strict=True
        ):
            _export_component(component, staging / component_folder, target, num_threads, progress)
    return folder


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


def _export_component(
    component: QuantizedComponent,
    folder: Path,
    target: str | None,
    num_threads: int,
    progress: _Progress,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(_entries(component, target))
    stem = _weights_stem(folder)
    names = _shard_names(stem, len(shards))
    for name, entries in zip(names, shards, strict=True):
        with SafetensorsWriter(folder / name, entries) as writer:
            for entry in entries:
                for block in _values(component, entry, num_threads):
                    writer.append(block)
                    progress.add(entry.name, block.nbytes)
    if len(shards) > 1:
        _write_index(folder / f"{stem}.safetensors.index.json", names, shards)


def _entries(component: QuantizedComponent, target: str | None) -> list[Entry]:
    """What to write, wide types first so that every tensor is aligned."""
    entries = []
    sizes = component.stored_bytes
    for name, tensor in component.items():
        if tensor.is_quantized:
            dtype = target or tensor.source_dtype
            if dtype.startswith("F8"):
                dtype = "BF16"
            nbytes = tensor.size * _itemsize(dtype)
        else:
            dtype = tensor.source_dtype
            nbytes = sizes[name]
        entries.append(Entry(name, dtype, tensor.shape, nbytes))
    return sorted(entries, key=lambda entry: -_itemsize(entry.dtype))


def _itemsize(dtype: str) -> int:
    found = numpy_dtype(dtype)
    return found.itemsize if found is not None else 1


def _bytes_of(model: QuantizedModel, target: str | None) -> dict[str, int]:
    return {
        f"{name}/{entry.name}": entry.nbytes
        for name, component in model.components.items()
        for entry in _entries(component, target)
    }


def _shards(entries: Sequence[Entry]) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.nbytes > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.nbytes
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


def _write_index(path: Path, names: Sequence[str], shards: Sequence[Sequence[Entry]]) -> None:
    total = sum(entry.nbytes for shard in shards for entry in shard)
    weight_map = {
        entry.name: name for name, shard in zip(names, shards, strict=True) for entry in shard
    }
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    path.write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _values(
    component: QuantizedComponent, entry: Entry, num_threads: int
) -> Iterator[npt.NDArray[Any]]:
    """The bytes of a tensor, a bounded number of rows at a time."""
    if isinstance(component, OldComponent):
        quantized = component[entry.name].is_quantized
        for values in component.value_blocks(entry.name):
            yield values.astype(numpy_dtype(entry.dtype), copy=False) if quantized else values
        return
    for chunk in component.row_blocks(entry.name):
        if chunk.info.encoding == "copy":
            yield _kept(component, entry, chunk.chunks[0].codes)
            continue
        dtype = numpy_dtype(entry.dtype)
        assert dtype is not None  # every type that can be quantized has one
        yield from _dequantized(chunk, dtype, num_threads)


def _kept(
    component: QuantizedComponent, entry: Entry, codes: npt.NDArray[np.uint8]
) -> npt.NDArray[Any]:
    """A kept tensor; a bias with what makes up for the mean error of its weight beside it."""
    weight = entry.name.removesuffix("bias") + "weight"
    dtype = numpy_dtype(entry.dtype)
    time_aware = component.metadata.get("time_aware_quant")
    corrected = isinstance(time_aware, dict) and time_aware.get("bias_corrected_layers", 0) > 0
    if not corrected or weight not in component or dtype is None or entry.name == weight:
        return codes
    correction = component[weight].mean_output_bias
    bias = codes.reshape(-1).view(dtype)
    if correction is None or correction.shape != bias.shape:
        return codes
    return (bias.astype(np.float32) + correction).astype(dtype)


def _dequantized(
    chunk: core.Tensor, dtype: np.dtype[Any], num_threads: int
) -> Iterator[npt.NDArray[Any]]:
    rows = chunk.info.shape[0]
    cols = math.prod(chunk.info.shape[1:])
    step = max(1, _BLOCK_WEIGHTS // max(1, cols))
    for first in range(0, rows, step):
        count = min(step, rows - first)
        block = np.empty(count * cols, np.float32)
        chunk.slice_rows(first, count).dequantize(block, num_threads)
        yield block.astype(dtype, copy=False)
