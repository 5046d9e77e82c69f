"""Layers made for tests: an ordinary one, its packed stand-in, and the float twin of that."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from arrow_quant_v2 import ArrowQuantV2, QuantizedTensor
from arrow_quant_v2.torch import Execution, PackedWeight
from arrow_quant_v2.torch.layers.quant_layers import quantized_layer

#: Float activations.
FLOATS = Execution()
#: (bits, param_encoding) of every way to store a weight.
FORMATS = [
    (2, "two_level"),
    (2, "residual_binary"),
    (4, "two_level"),
    (2, "fp16"),
    (4, "fp16"),
    (8, "fp16"),
    (8, "row"),
]

LAYERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "linear": lambda: (nn.Linear(75, 40), torch.randn(3, 5, 75)),
    "linear without bias": lambda: (nn.Linear(64, 33, bias=False), torch.randn(7, 64)),
    "conv1d": lambda: (nn.Conv1d(6, 8, 5, padding=2, stride=2), torch.randn(2, 6, 31)),
    "conv2d": lambda: (nn.Conv2d(6, 8, 3, padding=1), torch.randn(2, 6, 9, 7)),
    "conv2d strided": lambda: (
        nn.Conv2d(8, 12, (3, 5), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
        torch.randn(3, 8, 11, 14),
    ),
    "conv2d same": lambda: (nn.Conv2d(6, 8, 4, padding="same"), torch.randn(2, 6, 9, 7)),
    "conv2d reflect": lambda: (
        nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"),
        torch.randn(2, 6, 9, 7),
    ),
    "conv3d": lambda: (nn.Conv3d(4, 8, 3, padding=1), torch.randn(2, 4, 5, 6, 7)),
    "conv1d transposed": lambda: (nn.ConvTranspose1d(6, 8, 4, stride=2), torch.randn(2, 6, 9)),
    "conv2d transposed": lambda: (
        nn.ConvTranspose2d(6, 8, 4, stride=2, padding=1, output_padding=1, groups=2),
        torch.randn(2, 6, 5, 6),
    ),
    "conv3d transposed": lambda: (nn.ConvTranspose3d(4, 6, 2), torch.randn(1, 4, 3, 4, 5)),
}


def quantized(weight: Tensor, bits: int = 4, encoding: str = "two_level", group: int = 32) -> Any:
    tensor = ArrowQuantV2(mode="base").quantize(
        weight.detach(), bits, group_size=group, param_encoding=encoding
    )
    assert isinstance(tensor, QuantizedTensor)
    return tensor


def pair(
    layer: nn.Module,
    bits: int = 4,
    encoding: str = "two_level",
    execution: Execution = FLOATS,
    group: int = 32,
) -> tuple[Any, nn.Module]:
    """The packed stand-in of `layer`, and a copy of `layer` with the restored weight."""
    tensor = quantized(layer.weight, bits, encoding, group)
    packed = quantized_layer(layer, PackedWeight.from_tensor(tensor), execution)
    assert packed is not None
    twin = copy.deepcopy(layer).requires_grad_(False)
    twin.weight.copy_(torch.from_numpy(tensor.dequantize()))
    return packed, twin


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    expected = expected.detach().double()
    return float((found.detach().double() - expected).norm() / expected.norm().clamp_min(1e-30))
