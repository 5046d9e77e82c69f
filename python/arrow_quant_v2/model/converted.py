"""Weights written anew as safetensors: what torch saved, and scaled 8-bit floats as plain ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import numpy.typing as npt

from arrow_quant_v2.errors import MetadataError
from arrow_quant_v2.model.description import Component, TensorHeader
from arrow_quant_v2.model.headers import safetensors_headers
from arrow_quant_v2.model.quantized import scale_blocks
from arrow_quant_v2.tensors.dtypes import numpy_dtype
from arrow_quant_v2.tensors.safetensors_writer import Entry, SafetensorsWriter
from arrow_quant_v2.torch_files.archive import TorchArchive

__all__ = ["converted_bytes", "write_converted"]

#: Bytes that are read at a time.
_PIECE = 16 << 20
#: The type of weights that were scaled: that of nearly all models before they are scaled.
_PLAIN = "BF16"

_Bytes = npt.NDArray[Any]


def converted_bytes(component: Component) -> int:
    """What the weights of a component take when they are written anew."""
    return sum(entry.nbytes for entry in _entries(component).values())


def write_converted(component: Component, target: Path, *, headers_only: bool) -> None:
    """Write the weights of a component to one safetensors file, under their final names.

    Parameters
    ----------
    component
        Its files hold each tensor once.
    target
        The file to make.
    headers_only
        Leave a hole where the weights would be.

    Raises
    ------
    MetadataError
        Two files have the same tensor.
    OSError
        The file cannot be written.
    """
    entries = _entries(component)
    with ExitStack() as stack:
        readers = _readers(component, stack)
        # In the order of the files, which is that of the artefact.
        writer = stack.enter_context(SafetensorsWriter(target, list(entries.values())))
        if headers_only:
            writer.skip_rest()
            return
        for name in entries:
            scale = component.scales.get(name)
            header = component.tensors[name]
            if scale is None:
                for piece in readers[name]:
                    writer.append(piece)
            else:
                values = _whole(readers[scale], component.tensors[scale])
                for piece in _scaled(readers[name], header, values):
                    writer.append(piece)


def _entries(component: Component) -> dict[str, Entry]:
    """Every tensor that stays, by its name in the files."""
    found = {}
    for name, header in component.tensors.items():
        final = component.names.get(name, name)
        if name in component.dropped or not final:
            continue
        dtype = _PLAIN if name in component.scales else header.dtype
        kind = numpy_dtype(dtype)
        nbytes = header.nbytes
        if name in component.scales and kind is not None:
            nbytes = math.prod(header.shape) * kind.itemsize
        found[name] = Entry(final, dtype, header.shape, nbytes)
    return found


def _readers(component: Component, stack: ExitStack) -> dict[str, Iterator[_Bytes]]:
    """The bytes of every tensor in pieces, made when they are asked for."""
    assert component.weights is not None  # callers have looked
    readers: dict[str, Iterator[_Bytes]] = {}
    owners: dict[str, Path] = {}
    for path in component.weights.files:
        if component.weights.form == "torch":
            archive = stack.enter_context(TorchArchive(path))
            own = {name: archive.pieces(tensor) for name, tensor in archive.tensors.items()}
        else:
            file = stack.enter_context(path.open("rb"))
            own = {
                name: _pieces(file, header) for name, header in safetensors_headers(path).items()
            }
        for name in own:
            if name in owners:
                raise MetadataError(
                    f"{path}: tensor '{name}' is in {owners[name].name} as well",
                    path=str(path),
                    tensor=name,
                )
            owners[name] = path
        readers |= own
    return readers


def _pieces(file: BinaryIO, header: TensorHeader) -> Iterator[_Bytes]:
    position, end = header.begin, header.begin + header.nbytes
    while position < end:
        file.seek(position)
        data = file.read(min(_PIECE, end - position))
        if not data:
            raise MetadataError(f"{file.name}: the file became shorter while it was read")
        position += len(data)
        yield np.frombuffer(data, np.uint8)


def _whole(pieces: Iterator[_Bytes], header: TensorHeader) -> npt.NDArray[np.float32]:
    kind = numpy_dtype(header.dtype)
    assert kind is not None  # a scale of another type is none
    data = np.concatenate([*pieces])
    return data.view(kind).astype(np.float32).reshape(header.shape)


def _scaled(
    pieces: Iterator[_Bytes], header: TensorHeader, scale: npt.NDArray[np.float32]
) -> Iterator[_Bytes]:
    """Products of weights and their scales, piece by piece, in bfloat16."""
    kind = numpy_dtype(header.dtype)
    blocks = scale_blocks(header.shape, scale.shape)
    assert kind is not None  # every float has one
    assert blocks is not None  # the resolver has compared the shapes
    counts = [-(-n // block) for n, block in zip(header.shape, blocks, strict=True)]
    scale = scale.reshape(counts)
    if not header.shape:
        for piece in pieces:
            yield (piece.view(kind).astype(np.float32) * scale).astype(ml_dtypes.bfloat16)
        return
    *outer, width = header.shape
    first = 0
    for lines in _lines(pieces, width * kind.itemsize):
        values = lines.view(kind).astype(np.float32).reshape(-1, width)
        numbers = np.arange(first, first + len(values))
        first += len(values)
        where = np.unravel_index(numbers, outer) if outer else (np.zeros(1, np.int64),)
        rows = tuple(index // block for index, block in zip(where, blocks, strict=False))
        own = scale[rows] if outer else scale[None]
        values *= np.repeat(own, blocks[-1], axis=1)[:, :width]
        yield values.astype(ml_dtypes.bfloat16)


def _lines(pieces: Iterator[_Bytes], nbytes: int) -> Iterator[_Bytes]:
    """The same bytes in pieces of whole lines of `nbytes`."""
    rest = np.empty(0, np.uint8)
    for piece in pieces:
        joined = np.concatenate([rest, piece]) if rest.size else piece
        whole = joined.size // nbytes * nbytes
        rest = joined[whole:]
        if whole:
            yield joined[:whole]
