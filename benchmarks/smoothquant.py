"""SmoothQuant with int8 weights and activations: what enters a layer is rounded and back.

Xiao et al. 2023 (arXiv 2211.10438), equation 4 with alpha = 0.5. Weights have one scale a row;
activations one a token, for convolutions one a sample, from what is there at run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Matrix = npt.NDArray[np.float32]

ALPHA = 0.5
_LEVELS = 127
_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)


def smoothing_factors(weights: Matrix, largest: Matrix) -> Matrix:
    """What each input channel is divided by, for weights [outputs, channels, ...]."""
    weight = np.abs(weights.reshape(len(weights), len(largest), -1)).max(axis=(0, 2))
    factors = np.maximum(largest, 1e-5) ** ALPHA / np.maximum(weight, 1e-5) ** (1 - ALPHA)
    return np.maximum(factors, 1e-5).astype(np.float32)


def smoothed_int8(weights: Matrix, factors: Matrix) -> Matrix:
    """Weights times their factors, rounded to int8 by row, and divided again."""
    spread = weights.reshape(len(weights), len(factors), -1) * factors[:, None]
    scale = np.abs(spread).max(axis=(1, 2), keepdims=True) / _LEVELS
    scale = np.where(scale == 0, 1, scale)
    return (np.rint(spread / scale) * scale / factors[:, None]).reshape(weights.shape)


class RoundedInputs(TorchFunctionMode):
    """While entered, inputs of the weights with these ids are int8 after division by factors."""

    def __init__(self, factors: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._factors = factors

    def __torch_function__(
        self, func: Any, kinds: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        linear = func is functional.linear
        if (linear or func in _CONVOLUTIONS) and id(args[1]) in self._factors:
            args = (_rounded(args[0], self._factors[id(args[1])], linear), *args[1:])
        return func(*args, **(kwargs or {}))


def _rounded(x: Tensor, factors: Tensor, linear: bool) -> Tensor:
    if not linear:
        factors = factors.reshape(-1, *(1,) * (x.ndim - 2))
    x = x / factors
    dims = (-1,) if linear else tuple(range(1, x.ndim))
    scale = x.abs().amax(dim=dims, keepdim=True).clamp_min(1e-12) / _LEVELS
    return torch.round(x / scale) * scale * factors
