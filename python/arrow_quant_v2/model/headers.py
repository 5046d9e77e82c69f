"""Types and shapes of the tensors in a weight file, without reading weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from arrow_quant_v2.model.description import TensorHeader
from arrow_quant_v2.torch_files.archive import TorchArchive

__all__ = ["safetensors_headers", "torch_headers"]

_LENGTH = 8
_MOST = 100_000_000


def safetensors_headers(path: Path) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file; none where it is malformed, which the engine names."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            size = file.seek(0, 2)
            if not 2 <= length <= min(_MOST, size - _LENGTH):
                return {}
            file.seek(_LENGTH)
            header = json.loads(file.read(length))
        entries = header.items()
        return {
            name: _header(entry, _LENGTH + length, size)
            for name, entry in entries
            if name != "__metadata__"
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return {}


def torch_headers(path: Path) -> tuple[dict[str, TensorHeader], list[str]]:
    """The tensors of a file of torch, and remarks about what else it has.

    Raises
    ------
    ModelNotFoundError, MetadataError
        It is absent, or no state dict.
    """
    with TorchArchive(path) as archive:
        found = {
            name: TensorHeader(tensor.dtype, tensor.shape, nbytes=tensor.nbytes)
            for name, tensor in archive.tensors.items()
        }
        return found, archive.notes


def _header(entry: dict[str, Any], data: int, size: int) -> TensorHeader:
    begin, end = entry["data_offsets"]
    if not 0 <= begin <= end <= size - data:
        raise ValueError("outside the file")
    shape = tuple(entry["shape"])
    if not all(type(size) is int and 0 <= size < 1 << 62 for size in shape):
        raise ValueError("no shape")
    return TensorHeader(str(entry["dtype"]), shape, data + begin, end - begin)
