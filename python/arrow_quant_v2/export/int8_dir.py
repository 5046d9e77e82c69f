"""An artefact as safetensors with int8 weights and one scale per row, for int8 runtimes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2.artefact.model import QuantizedComponent
from arrow_quant_v2.export.artefact_directory import (
    Content,
    Piece,
    export_directory,
    piece_of,
)
from arrow_quant_v2.export.safetensors_dir import corrected_piece, float_piece
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.tensors.safetensors_writer import Entry
from arrow_quant_v2.tensors.tensor import QuantizedTensor

__all__ = ["export_int8"]

#: What ComfyUI looks for beside an int8 weight: JSON text as bytes.
_COMFYUI_MARKER = b'{"format": "int8_tensorwise"}'


def export_int8(
    path: StrPath,
    destination: StrPath,
    *,
    comfyui: bool = False,
    num_threads: int = 0,
    progress_callback: ProgressCallback | None = None,
) -> Path:
    """Write weights as int8 with one scale per row, where they have exactly that form.

    ``<layer>.weight`` is I8 in the shape of the weight and ``<layer>.weight_scale`` F32
    ``[rows, 1, ...]``; their product is the weight that ``dequantize()`` gives. Weights with
    ``fp16`` parameters or equalization have no such form; they become floats of the type they had.
    With ``fold_equalization=True``, fused layers have no equalization scales and do have it.

    Parameters
    ----------
    path
        The artefact.
    destination
        Folder to create.
    comfyui
        The layout that ComfyUI reads as ``int8_tensorwise``: linear layers only, each with a
        ``<layer>.comfy_quant`` marker; convolutions become floats. ComfyUI wants its own tensor
        names, so the source must have had them.
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

    def content(component: QuantizedComponent) -> Content:
        pieces: list[Piece] = []
        for name, tensor in component.items():
            if not tensor.is_quantized:
                pieces.append(corrected_piece(component, name))
            elif _has_int8_form(name, tensor, comfyui):
                pieces += _int8_pieces(component, name, comfyui)
            else:
                pieces.append(float_piece(component, name, None, num_threads))
        return Content(pieces)

    return export_directory(
        path,
        destination,
        content,
        num_threads=num_threads,
        progress_callback=progress_callback,
    )


def _has_int8_form(name: str, tensor: QuantizedTensor, comfyui: bool) -> bool:
    if tensor.param_encoding in ("fp16", None) or tensor.equalization is not None:
        return False
    return name.endswith(".weight") and (not comfyui or len(tensor.shape) == 2)


def _int8_pieces(component: QuantizedComponent, name: str, comfyui: bool) -> list[Piece]:
    shape, row_dimensions = component[name].shape, component[name].row_dimensions
    ones = [1] * (len(shape) - row_dimensions)

    def values() -> Iterator[npt.NDArray[Any]]:
        yield component[name].as_int8()[0]

    scales = component[name].row_scales
    assert scales is not None
    pieces = [
        Piece(Entry(name, "I8", shape, int(np.prod(shape))), values),
        piece_of(f"{name}_scale", scales.reshape(*shape[:row_dimensions], *ones), "F32"),
    ]
    if comfyui:
        marker = np.frombuffer(_COMFYUI_MARKER, np.uint8)
        pieces.append(piece_of(name.removesuffix(".weight") + ".comfy_quant", marker, "U8"))
    return pieces
