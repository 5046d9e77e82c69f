"""An artefact as safetensors with packed weights, for ``from_pretrained`` with a plug-in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2.artefact.model import QuantizedComponent
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.export.artefact_directory import (
    Content,
    Piece,
    export_directory,
    kept_piece,
    piece_of,
)
from arrow_quant_v2.export.safetensors_dir import float_piece
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.tensors.safetensors_writer import Entry
from arrow_quant_v2.tensors.weight_format import (
    FORMAT_VERSION,
    QUANT_METHOD,
    format_of,
    time_arrays,
    weight_arrays,
)

__all__ = ["export_packed"]

_SAFETENSORS_NAMES = {"uint8": "U8", "int16": "I16", "int32": "I32"}
_SUFFIX = ".weight"


def export_packed(
    path: StrPath,
    destination: StrPath,
    *,
    num_threads: int = 0,
    progress_callback: ProgressCallback | None = None,
) -> Path:
    """Write a copy of an artefact that ``from_pretrained`` loads with its weights packed.

    That needs ``import arrow_quant_v2.integrations.diffusers`` or ``.transformers`` first; without
    it, loading fails. The buffers of a layer are named ``<layer>.weight.codes`` and so on
    (:mod:`arrow_quant_v2.tensors.weight_format`), and ``quantization_config`` in ``config.json``
    lists the layers.

    Parameters
    ----------
    path
        The artefact.
    destination
        Folder to create.
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
    ConfigurationError
        A quantized component has no ``config.json``.
    ValidationError
        The artefact is damaged.
    OutputError
        The destination exists, or cannot be written.
    """

    def content(component: QuantizedComponent) -> Content:
        return _content(component, num_threads)

    return export_directory(
        path,
        destination,
        content,
        num_threads=num_threads,
        progress_callback=progress_callback,
    )


def _content(component: QuantizedComponent, num_threads: int) -> Content:
    pieces: list[Piece] = []
    layers: dict[str, dict[str, Any]] = {}
    for name, tensor in component.items():
        if not tensor.is_quantized:
            pieces.append(kept_piece(component, name))
        elif not name.endswith(_SUFFIX) or tensor.param_encoding is None:
            pieces.append(float_piece(component, name, None, num_threads))
        else:
            layer = name.removesuffix(_SUFFIX)
            found, layers[layer] = _packed_pieces(component, layer)
            pieces += found
    if not layers:
        raise ConfigurationError(f"component '{component.name}': has no packed layer to export")
    pieces.append(_guard(min(layers)))
    config = {"quant_method": QUANT_METHOD, "format_version": FORMAT_VERSION, "layers": layers}
    return Content(pieces, {"quantization_config": config})


def _packed_pieces(component: QuantizedComponent, layer: str) -> tuple[list[Piece], dict[str, Any]]:
    """The buffers of a layer, read when they are written, and their description."""
    name = layer + _SUFFIX
    tensor = component[name]
    fmt = format_of(tensor)
    pieces = []
    for buffer, (kind, shape) in fmt.buffers.items():
        nbytes = math.prod(shape) * np.dtype(kind).itemsize
        entry = Entry(f"{name}.{buffer}", _SAFETENSORS_NAMES[kind], shape, nbytes)
        pieces.append(Piece(entry, _reader(component, name, buffer)))
    description = fmt.to_dict()
    if tensor.time_groups:
        arrays = time_arrays(tensor.time_groups)
        description["time_parameters"] = {key: list(a.shape) for key, a in arrays.items()}
        pieces += [
            piece_of(f"{layer}.time_parameters.{key}", a, "I32") for key, a in arrays.items()
        ]
    return pieces, description


def _reader(
    component: QuantizedComponent, name: str, buffer: str
) -> Callable[[], Iterator[npt.NDArray[Any]]]:
    return lambda: iter([weight_arrays(component[name])[buffer]])


def _guard(layer: str) -> Piece:
    """A tensor that no ordinary layer takes for its weight.

    transformers ignores a quantization method that it does not know, and would start from random
    weights; a weight of the wrong shape stops it.
    """
    return piece_of(layer + _SUFFIX, np.empty(0, np.uint8), "U8")
