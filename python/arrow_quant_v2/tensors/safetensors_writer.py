"""Writes safetensors files tensor by tensor: the header first, then bytes as they come."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 8


@dataclass(frozen=True)
class Entry:
    """A tensor to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class SafetensorsWriter:
    """One file. Bytes are appended in the order of `entries`, in pieces of any size."""

    def __init__(self, path: Path, entries: Sequence[Entry]) -> None:
        self._left = sum(entry.nbytes for entry in entries)
        self._file: BinaryIO = open(path, "xb", buffering=0)  # noqa: SIM115
        self._file.write(_header(entries))

    def append(self, array: npt.NDArray[Any]) -> None:
        """Write the bytes of a C-contiguous array."""
        data = array.reshape(-1).view(np.uint8).data
        self._left -= len(data)
        while data:
            data = data[self._file.write(data) or 0 :]

    def skip_rest(self) -> None:
        """Leave what has not been written as a hole: it reads as zeros and takes no space."""
        self._file.truncate(self._file.tell() + self._left)
        self._left = 0

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                if self._left:
                    raise AssertionError(f"{self._left} bytes of tensors are missing")
                os.fsync(self._file.fileno())
        finally:
            self._file.close()


def _header(entries: Iterable[Entry]) -> bytes:
    # "format" is what transformers and diffusers ask for.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.nbytes],
        }
        offset += entry.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
