"""Peers of the weight quantizer behind one interface, for measuring in the same run.

Each peer quantizes a float32 matrix and gives back the reconstruction and its true bits per weight
(every parameter counted). A peer whose package is missing is left out of the tables, by name.
"""

from __future__ import annotations

import ctypes
import importlib.util
import site
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Peer:
    """One method of one peer; ``run`` maps a matrix to (reconstruction, bits per weight)."""

    name: str
    run: Callable[[Matrix], tuple[Matrix, float]]


class Ggml:
    """``ggml_quantize_chunk`` of a libggml that some installed wheel carries."""

    TYPES: ClassVar = {"q4_0": 2, "q4_1": 3, "q8_0": 8, "q2_K": 10, "q4_K": 12}

    def __init__(self, library: Path) -> None:
        self._lib = ctypes.CDLL(str(library))
        self._quantize = self._lib.ggml_quantize_chunk
        self._quantize.restype = ctypes.c_size_t
        self._quantize.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_void_p,
        ]
        self._row_size = self._lib.ggml_row_size
        self._row_size.restype = ctypes.c_size_t
        self._row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
        for kind in self.TYPES.values():
            self._lib.ggml_quantize_init(kind)

    @classmethod
    def find(cls) -> Ggml | None:
        """The first libggml-base found in site-packages, or None."""
        for folder in site.getsitepackages():
            for path in sorted(Path(folder).rglob("libggml-base*.so*")):
                return cls(path)
        return None

    def buffer(self, kind: str, matrix: Matrix) -> npt.NDArray[np.uint8]:
        """An output buffer, touched, so that a timing does not count page faults."""
        row = int(self._row_size(self.TYPES[kind], matrix.shape[1]))
        return np.ones((matrix.shape[0], row), np.uint8)

    def quantize_into(
        self,
        kind: str,
        matrix: Matrix,
        out: npt.NDArray[np.uint8],
        threads: int,
        importance: Matrix | None = None,
    ) -> None:
        """Quantize all rows with ``threads`` threads (ggml's function is one-threaded).

        ``importance`` is ggml's importance matrix: one number a column.
        """
        rows, cols = matrix.shape
        step = -(-rows // threads)

        def part(first: int) -> None:
            count = min(step, rows - first)
            # `start` counts elements from the beginning of src and places the output accordingly.
            self._quantize(
                self.TYPES[kind],
                matrix.ctypes.data,
                out.ctypes.data,
                first * cols,
                count,
                cols,
                None if importance is None else importance.ctypes.data,
            )

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, range(0, rows, step)))

    def reconstruct(self, kind: str, packed: npt.NDArray[np.uint8]) -> Matrix:
        """Decode with the gguf package, which is independent of libggml."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        return np.asarray(
            dequantize(packed, GGMLQuantizationType(self.TYPES[kind])), dtype=np.float32
        )

    def peer(self, kind: str) -> Peer:
        def run(matrix: Matrix) -> tuple[Matrix, float]:
            out = self.buffer(kind, matrix)
            self.quantize_into(kind, matrix, out, 2)
            return self.reconstruct(kind, out), out.shape[1] * 8 / matrix.shape[1]

        return Peer(f"ggml {kind}", run)


def _hqq(bits: int, group: int) -> Peer:
    def run(matrix: Matrix) -> tuple[Matrix, float]:
        import torch
        from hqq.core.quantize import Quantizer

        # Codes of a byte come from rows that lie far apart, so the rows have to go into that.
        padding = -len(matrix) % (8 // bits)
        packed, meta = Quantizer.quantize(
            torch.from_numpy(np.pad(matrix, ((0, padding), (0, 0)))),
            nbits=bits,
            group_size=group,
            axis=1,
            device="cpu",
            compute_dtype=torch.float32,
        )
        # 16-bit scale and 16-bit zero per group, as HQQ stores them for inference.
        restored = Quantizer.dequantize(packed, meta).float().numpy()[: len(matrix)]
        return restored, bits + 32 / group

    return Peer(f"HQQ {bits} bit g{group}", run)


def _quanto(bits: int, group: int) -> Peer:
    def run(matrix: Matrix) -> tuple[Matrix, float]:
        import torch
        from optimum.quanto import MaxOptimizer, qint2, qint4, quantize_weight

        weight = torch.from_numpy(matrix)
        qtype = {2: qint2, 4: qint4}[bits]
        scale, shift = MaxOptimizer()(weight, qtype, 0, group, zeropoint=False)
        quantized = quantize_weight(weight, qtype, 0, scale, shift, group)
        # quanto stores a scale and a shift per group in the weight's own type: 32 bits for fp16.
        return quantized.dequantize().numpy(), bits + 32 / group

    return Peer(f"quanto qint{bits} g{group}", run)


def _nf4() -> Peer:
    def run(matrix: Matrix) -> tuple[Matrix, float]:
        import torch
        from bitsandbytes import functional as bnb

        packed, state = bnb.quantize_4bit(
            torch.from_numpy(matrix), blocksize=64, quant_type="nf4", compress_statistics=True
        )
        return bnb.dequantize_4bit(packed, state).numpy(), 4 + 8 / 64 + 32 / (64 * 256)

    return Peer("bitsandbytes NF4 g64", run)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def peers() -> Iterator[Peer]:
    """Every peer that is installed, narrow formats last."""
    ggml = Ggml.find()
    if ggml is not None and _installed("gguf"):
        for kind in Ggml.TYPES:
            yield ggml.peer(kind)
    if _installed("bitsandbytes") and _installed("torch"):
        yield _nf4()
    if _installed("hqq"):
        yield _hqq(4, 64)
        yield _hqq(2, 64)
    if _installed("optimum"):
        yield _quanto(4, 64)
        yield _quanto(2, 64)
