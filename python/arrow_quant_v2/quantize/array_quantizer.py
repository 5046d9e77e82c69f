"""Base mode: arrays in memory, or the tensors of weight files, one by one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._native import core
from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError, ShapeMismatchError
from arrow_quant_v2.model import readable_model
from arrow_quant_v2.paths import checked_path, path_bytes
from arrow_quant_v2.plan.engine_options import plan_options
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.tensors.array_input import PlainArray, plain_array
from arrow_quant_v2.tensors.dtypes import FLOAT_NAMES
from arrow_quant_v2.tensors.tensor import QuantizedTensor

__all__ = ["quantize_array", "quantize_arrays", "quantize_file"]


def quantize_array(
    weights: Any,
    config: DiffusionQuantConfig,
    *,
    importance: Any = None,
    progress_callback: ProgressCallback | None = None,
) -> QuantizedTensor:
    """Quantize one array of any shape.

    An array of one dimension counts as one row; one of more is a matrix of its first dimension by
    the product of the others.
    """
    array = plain_array(weights)
    if array.dtype not in FLOAT_NAMES:
        raise TypeError(f"expected floating-point weights; found an array of {array.dtype}")
    return _quantize("", array, config, importance, progress_callback)


def quantize_arrays(
    weights: Mapping[str, Any],
    config: DiffusionQuantConfig,
    progress_callback: ProgressCallback | None = None,
) -> dict[str, QuantizedTensor]:
    """Quantize every floating-point array of at least two dimensions, and keep the others."""
    for name in weights:
        if not isinstance(name, str):
            raise TypeError(f"expected names as keys of the mapping, found {name!r}")
    arrays = ((name, plain_array(array, name)) for name, array in weights.items())
    return _quantize_all(arrays, len(weights), config, progress_callback)


def quantize_file(
    path: str | os.PathLike[str],
    config: DiffusionQuantConfig,
    progress_callback: ProgressCallback | None = None,
) -> dict[str, QuantizedTensor]:
    """Quantize the tensors of a weight file, or of a directory with such files.

    Weights that are quantized already are kept as they are; those of adapters are quantized.
    """
    with readable_model(checked_path(path, "weights"), refuse=False) as view:
        model = core.SourceModel(path_bytes(view.path, "weights"), view.names)
        done = {c.name for c in view.model.components if c.refusal and not c.is_adapter}
        several = len({tensor.component for tensor in model.tensors}) > 1

        def name_of(tensor: core.SourceTensor) -> str:
            return f"{tensor.component}/{tensor.name}" if several else tensor.name

        def arrays() -> Iterator[tuple[str, PlainArray]]:
            for tensor in model.tensors:
                data = np.empty(tensor.nbytes, np.uint8)
                model.read(tensor, data)
                yield name_of(tensor), PlainArray(data, tensor.dtype, tuple(tensor.shape))

        kept = {name_of(tensor) for tensor in model.tensors if tensor.component in done}
        return _quantize_all(arrays(), len(model.tensors), config, progress_callback, kept)


def _quantize_all(
    arrays: Iterator[tuple[str, PlainArray]],
    count: int,
    config: DiffusionQuantConfig,
    progress_callback: ProgressCallback | None,
    kept_names: Set[str] = frozenset(),
) -> dict[str, QuantizedTensor]:
    result: dict[str, QuantizedTensor] = {}
    for name, array in arrays:
        is_matrix = len(array.shape) >= 2 and math.prod(array.shape) > 0
        if array.dtype in FLOAT_NAMES and is_matrix and name not in kept_names:
            result[name] = _quantize(name, array, config)
        else:
            kept = core.keep_array(name, array.shape, array.dtype, array.data)
            result[name] = _in_memory(kept, array.shape, config.num_threads)
        if progress_callback is not None:
            progress_callback(name, len(result) / count)
    return result


def _quantize(
    name: str,
    array: PlainArray,
    config: DiffusionQuantConfig,
    importance: Any = None,
    progress_callback: ProgressCallback | None = None,
) -> QuantizedTensor:
    rows, cols = _matrix_shape(array.shape)
    tensor = core.quantize_array(
        name=name,
        shape=[rows, cols],
        dtype=array.dtype,
        data=array.data,
        # An empty matrix has no codes; it is planned as the smallest one that has.
        spec=core.plan_array(max(rows, 1), max(cols, 1), plan_options(config)),
        importance=_importance(importance, cols),
        num_threads=config.num_threads,
        callback=progress_callback,
    )
    return _in_memory(tensor, array.shape, config.num_threads)


def quantize_planned(
    name: str, weights: Any, spec: core.AffineSpec, num_threads: int = 0
) -> QuantizedTensor:
    """Quantize one array as a plan says."""
    array = plain_array(weights, name)
    tensor = core.quantize_array(
        name=name,
        shape=list(_matrix_shape(array.shape)),
        dtype=array.dtype,
        data=array.data,
        spec=spec,
        importance=None,
        num_threads=num_threads,
        callback=None,
    )
    return _in_memory(tensor, array.shape, num_threads)


def _in_memory(tensor: core.Tensor, shape: tuple[int, ...], num_threads: int) -> QuantizedTensor:
    """Wrap a tensor whose data is there already."""
    return QuantizedTensor(tensor.info, lambda: tensor, shape=shape, num_threads=num_threads)


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


def _importance(importance: Any, cols: int) -> npt.NDArray[np.float32] | None:
    if importance is None:
        return None
    values = np.ascontiguousarray(importance, dtype=np.float32)
    if values.shape != (cols,):
        raise ShapeMismatchError(
            f"importance: expected one value for each of {cols} columns, found {values.shape}"
        )
    if not np.isfinite(values).all() or (values < 0).any():
        raise ConfigurationError("importance: expected finite values of at least 0")
    return values
