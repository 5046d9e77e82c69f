"""Weights that are neither a pipeline nor a transformers model: one file of tensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

    Network = TypeVar("Network", bound=nn.Module)

#: Of an autoencoder that is stored as two files.
HALVES = ("encoder", "decoder")

Tensors = dict[str, "Tensor"]


def single_file(directory: Path) -> Path | None:
    """The only .safetensors file of a folder, or None."""
    found = sorted(directory.glob("*.safetensors"))
    return found[0] if len(found) == 1 else None


def tensor_names(path: Path) -> set[str]:
    """Names in a .safetensors file.

    Raises
    ------
    ValueError
        The header is not that of a .safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise ValueError(f"{path}: not a .safetensors file: the header ends after the file")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise ValueError(f"{path}: not a .safetensors file: {error}") from error
    return set(header) - {"__metadata__"}


def read_tensors(directory: Path) -> Tensors:
    """Read the only .safetensors file of a folder."""
    from safetensors.torch import load_file

    path = single_file(directory)
    if path is None:
        raise FileNotFoundError(f"{directory}: expected one .safetensors file")
    return load_file(path)


def load_into(network: Network, tensors: Tensors) -> Network:
    """Fill ``network`` in float32, ready to be run.

    Raises
    ------
    ValueError
        Names or shapes do not fit.
    """
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"the tensors do not fit {type(network).__name__}: {error}") from error
    return network.float().eval()


def is_autoencoder(directory: Path) -> bool:
    """Whether a folder holds both halves."""
    return all(
        (directory / f"{half}.safetensors").is_file() or (directory / half).is_dir()
        for half in HALVES
    )
