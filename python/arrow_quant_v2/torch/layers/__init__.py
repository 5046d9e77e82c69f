"""Layers that compute with packed weights."""

from arrow_quant_v2.torch.layers.packed_experts import PackedExperts
from arrow_quant_v2.torch.layers.packed_weight import PackedWeight
from arrow_quant_v2.torch.layers.quant_layers import (
    Execution,
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
    QuantEmbedding,
    QuantLinear,
)

__all__ = [
    "Execution",
    "PackedExperts",
    "PackedWeight",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantEmbedding",
    "QuantLinear",
]
