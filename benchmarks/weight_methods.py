"""Methods that quality is measured with: peers, run for real, and plain references.

Each takes a layer's float32 matrix [outputs, inputs] (convolutions unfolded) and what calibration
saw of its inputs, and gives back the restored matrix and its bits per weight, every parameter
counted. Group methods run over the rows in one piece, so that sizes that no group divides cost no
peer anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.peers import Ggml, _hqq, _installed, _quanto
from benchmarks.reference_gptq import gptq

Matrix = npt.NDArray[np.float32]

_SUPER_BLOCK = 256


@dataclass(frozen=True)
class Layer:
    """A weight and the sum x x^T of its inputs, None where nothing is known of them."""

    name: str
    weights: Matrix
    gram: Matrix | None


@dataclass(frozen=True)
class WeightMethod:
    """``family`` is what it competes in: "INT8", "INT4", "INT2"."""

    name: str
    family: str
    calibrated: bool
    run: Callable[[Layer], tuple[Matrix, float]]


def in_groups(weights: Matrix, group: int) -> Matrix:
    """All rows in one piece, as [groups, group], padded with zeros."""
    padding = -weights.size % group
    return np.pad(weights.reshape(-1), (0, padding)).reshape(-1, group)


def out_of_groups(restored: Matrix, like: Matrix) -> Matrix:
    return restored.reshape(-1)[: like.size].reshape(like.shape).astype(np.float32)


def grouped(run: Callable[[Matrix], tuple[Matrix, float]], group: int) -> Callable:
    """A method on [groups, group] as one on layers; padding counts as stored."""

    def on_layer(layer: Layer) -> tuple[Matrix, float]:
        pieces = in_groups(layer.weights, group)
        restored, bits = run(pieces)
        return out_of_groups(restored, layer.weights), bits * pieces.size / layer.weights.size

    return on_layer


def round_to_nearest(pieces: Matrix, bits: int) -> tuple[Matrix, float]:
    """Minimum and maximum of a group become the first and the last level; fp16 parameters."""
    low = pieces.min(axis=1, keepdims=True)
    step = (pieces.max(axis=1, keepdims=True) - low) / ((1 << bits) - 1)
    step, low = (p.astype(np.float16).astype(np.float32) for p in (step, low))
    safe = np.where(step == 0, 1, step)
    codes = np.clip(np.rint((pieces - low) / safe), 0, (1 << bits) - 1)
    return codes * step + low, bits + 32 / pieces.shape[1]


def int8_rows(layer: Layer) -> tuple[Matrix, float]:
    """One scale a row."""
    scale = np.abs(layer.weights).max(axis=1, keepdims=True) / 127
    scale = np.where(scale == 0, 1, scale)
    return (np.rint(layer.weights / scale) * scale).astype(np.float32), 8 + 16 / len(
        layer.weights[0]
    )


def torchao_groups(bits: int, group: int) -> Callable[[Layer], tuple[Matrix, float]]:
    def run(pieces: Matrix) -> tuple[Matrix, float]:
        import torch
        from torchao.quantization import IntxWeightOnlyConfig, quantize_
        from torchao.quantization.granularity import PerGroup

        linear = torch.nn.Linear(group, len(pieces), bias=False)
        linear.weight.data = torch.from_numpy(pieces.copy())
        kind = {2: torch.int2, 4: torch.int4, 8: torch.int8}[bits]
        quantize_(linear, IntxWeightOnlyConfig(weight_dtype=kind, granularity=PerGroup(group)))
        # Symmetric: a scale of 16 bits a group and no zero point.
        return linear.weight.dequantize().detach().numpy(), bits + 16 / group

    return grouped(run, group)


def ggml_blocks(kind: str, *, with_importance: bool) -> Callable[[Layer], tuple[Matrix, float]]:
    def run(layer: Layer) -> tuple[Matrix, float]:
        ggml = Ggml.find()
        assert ggml is not None
        size = layer.weights.size
        row = np.pad(layer.weights.reshape(1, -1), ((0, 0), (0, -size % _SUPER_BLOCK)))
        importance = None
        if with_importance and layer.gram is not None:
            diagonal = np.tile(np.diag(layer.gram), len(layer.weights))
            importance = np.pad(diagonal, (0, row.size - size), constant_values=1e-8)
            importance = np.ascontiguousarray(importance, np.float32)
        out = ggml.buffer(kind, row)
        ggml.quantize_into(kind, np.ascontiguousarray(row), out, 1, importance)
        restored = ggml.reconstruct(kind, out)
        return out_of_groups(restored, layer.weights), out.nbytes * 8 / size

    return run


def reference_gptq(bits: int, group: int) -> Callable[[Layer], tuple[Matrix, float]]:
    plain = grouped(lambda pieces: round_to_nearest(pieces, bits), group)

    def run(layer: Layer) -> tuple[Matrix, float]:
        if layer.gram is None:
            return plain(layer)
        return gptq(layer.weights, layer.gram, bits, group)

    return run


def weight_methods() -> Iterator[WeightMethod]:
    """Every method whose package is installed."""
    yield WeightMethod("round to nearest, row", "INT8", False, int8_rows)
    for bits, groups in ((4, (64, 128)), (2, (64, 128))):
        family = f"INT{bits}"
        for group in groups:

            def nearest(pieces: Matrix, bits: int = bits) -> tuple[Matrix, float]:
                return round_to_nearest(pieces, bits)

            run = grouped(nearest, group)
            yield WeightMethod(f"round to nearest g{group}", family, False, run)
            yield WeightMethod(
                f"reference GPTQ g{group}", family, True, reference_gptq(bits, group)
            )
        if _installed("hqq"):
            yield WeightMethod("HQQ g64", family, False, grouped(_hqq(bits, 64).run, 64))
        if _installed("optimum"):
            for group in groups:
                yield WeightMethod(
                    f"quanto g{group}", family, False, grouped(_quanto(bits, group).run, group)
                )
        if _installed("torchao"):
            yield WeightMethod("torchao g64", family, False, torchao_groups(bits, 64))
    if Ggml.find() is not None and _installed("gguf"):
        for kind, family in (
            ("q8_0", "INT8"),
            ("q4_0", "INT4"),
            ("q4_K", "INT4"),
            ("q2_K", "INT2"),
        ):
            yield WeightMethod(
                f"ggml {kind}", family, False, ggml_blocks(kind, with_importance=False)
            )
            if kind != "q8_0":
                yield WeightMethod(
                    f"ggml {kind}, importance",
                    family,
                    True,
                    ggml_blocks(kind, with_importance=True),
                )


def mean_bits(found: list[tuple[int, float]]) -> float:
    """Bits per weight over layers of (weights, bits per weight)."""
    return math.fsum(count * bits for count, bits in found) / sum(count for count, _ in found)
