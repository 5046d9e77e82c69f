"""Matrix products by ggml, through the libraries that an installed wheel carries.

Weights lie in ggml's plain layouts; programs that load GGUF files may have its CPU backend repack
some for faster kernels. Inputs are quantized by ggml. Threads are its own.
"""

from __future__ import annotations

import ctypes
import site
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.peers import Ggml

__all__ = ["ggml_layers"]

#: Bytes for descriptions of tensors and a graph; their data come on top.
_OVERHEAD = 16 << 20
_F32 = 0

Codes = npt.NDArray[np.uint8]


class _InitParams(ctypes.Structure):
    """``ggml_init_params``."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function


class _Library:
    """The functions of libggml-base and libggml-cpu that a product takes."""

    def __init__(self, base_path: Path, cpu_path: Path) -> None:
        base = ctypes.CDLL(str(base_path), mode=ctypes.RTLD_GLOBAL)
        cpu = ctypes.CDLL(str(cpu_path))
        at, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
        self.init = _function(base, "ggml_init", at, _InitParams)
        self.free = _function(base, "ggml_free", None, at)
        self.data = _function(base, "ggml_get_data", at, at)
        self.matrix = _function(base, "ggml_new_tensor_2d", at, at, number, size, size)
        self.mul_mat = _function(base, "ggml_mul_mat", at, at, at, at)
        self.graph = _function(base, "ggml_new_graph", at, at)
        self.expand = _function(base, "ggml_build_forward_expand", None, at, at)
        self.compute = _function(cpu, "ggml_graph_compute_with_ctx", number, at, at, number)
        _function(cpu, "ggml_cpu_init", None)()


class _Layer:
    """``x @ weight.T``, every call a graph of one node in memory of its own."""

    def __init__(self, library: _Library, kind: int, packed: Codes, cols: int) -> None:
        self._library = library
        self._shape = len(packed), cols
        self._memory = library.init(_InitParams(_OVERHEAD + packed.nbytes, None, False))
        self._weight = library.matrix(self._memory, kind, cols, len(packed))
        ctypes.memmove(library.data(self._weight), packed.ctypes.data, packed.nbytes)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        call = self._library
        rows, cols = self._shape
        # Inputs, outputs, and room for the inputs as ggml quantizes them.
        room = _OVERHEAD + 4 * len(x) * (rows + 2 * cols)
        memory = call.init(_InitParams(room, None, False))
        try:
            inputs = call.matrix(memory, _F32, cols, len(x))
            ctypes.memmove(call.data(inputs), x.data_ptr(), x.nbytes)
            outputs = call.mul_mat(memory, self._weight, inputs)
            graph = call.graph(memory)
            call.expand(graph, outputs)
            if call.compute(memory, graph, torch.get_num_threads()):
                raise RuntimeError("ggml did not compute the product")
            y = torch.empty(len(x), rows)
            ctypes.memmove(y.data_ptr(), call.data(outputs), y.nbytes)
            return y
        finally:
            call.free(memory)

    def __del__(self) -> None:
        self._library.free(self._memory)


def ggml_layers(weight: torch.Tensor) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Layers on `weight` by name; none where no libggml is installed."""
    base, cpu = _find("libggml-base.so"), _find("libggml-cpu.so")
    if base is None or cpu is None:
        return {}
    library, quantizer = _Library(base, cpu), Ggml(base)
    matrix = weight.numpy()
    layers = {}
    for kind in ("q8_0", "q4_0"):
        packed = quantizer.buffer(kind, matrix)
        quantizer.quantize_into(kind, matrix, packed, torch.get_num_threads())
        layers[f"ggml {kind}"] = _Layer(library, Ggml.TYPES[kind], packed, matrix.shape[1])
    return layers


def _find(name: str) -> Path | None:
    for folder in site.getsitepackages():
        for path in Path(folder).glob(name):
            return path
    return None
