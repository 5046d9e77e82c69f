"""An artefact as the directory it came from: dequantized safetensors that other libraries load."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._native import core
from arrow_quant_v2.artefact.model import QuantizedComponent
from arrow_quant_v2.artefact.old_layouts import OldComponent
from arrow_quant_v2.export.artefact_directory import Content, Piece, export_directory, kept_piece
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.tensors.dtypes import float_dtype, numpy_dtype, safetensors_name
from arrow_quant_v2.tensors.safetensors_writer import Entry

__all__ = ["corrected_piece", "export_safetensors", "float_piece"]

#: Weights that are dequantized at a time.
_BLOCK_WEIGHTS = 16 << 20


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

    Configurations, schedulers, tokenizers and other components are copied. Tensors that are not
    quantized keep their bytes, except biases: they take up the mean of their layer's bias
    corrections by time. This works tensor by tensor, in little memory. The destination appears
    complete or not at all. Models in the old Parquet layouts are exported too; their integers
    become float32.

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

    def content(component: QuantizedComponent) -> Content:
        return Content(
            [
                float_piece(component, name, target, num_threads)
                if tensor.is_quantized
                else corrected_piece(component, name)
                for name, tensor in component.items()
            ]
        )

    return export_directory(
        path,
        destination,
        content,
        int2_order=int2_order,
        num_threads=num_threads,
        progress_callback=progress_callback,
    )


def float_piece(
    component: QuantizedComponent, name: str, target: str | None, num_threads: int
) -> Piece:
    """A quantized tensor as floats of the safetensors type `target`, or of the type it had."""
    tensor = component[name]
    kind = target or tensor.source_dtype
    if kind.startswith("F8"):
        kind = "BF16"
    dtype = numpy_dtype(kind)
    assert dtype is not None  # every type that can be quantized has one
    entry = Entry(name, kind, tensor.shape, tensor.size * dtype.itemsize)

    def blocks() -> Iterator[npt.NDArray[Any]]:
        if isinstance(component, OldComponent):
            for values in component.value_blocks(name):
                yield values.astype(dtype, copy=False)
            return
        for chunk in component.row_blocks(name):
            yield from _dequantized(chunk, dtype, num_threads)

    return Piece(entry, blocks)


def corrected_piece(component: QuantizedComponent, name: str) -> Piece:
    """A kept tensor; a bias with what makes up for the mean error of its weight beside it."""
    piece = kept_piece(component, name)
    weight = name.removesuffix("bias") + "weight"
    dtype = numpy_dtype(piece.entry.dtype)
    time_aware = component.metadata.get("time_aware_quant")
    corrected = isinstance(time_aware, dict) and time_aware.get("bias_corrected_layers", 0) > 0
    if not corrected or weight not in component or dtype is None or name == weight:
        return piece

    def blocks() -> Iterator[npt.NDArray[Any]]:
        correction = component[weight].mean_output_bias
        for codes in piece.blocks():
            bias = codes.reshape(-1).view(dtype)
            if correction is None or correction.shape != bias.shape:
                yield codes
            else:
                yield (bias.astype(np.float32) + correction).astype(dtype)

    return Piece(piece.entry, blocks)


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
