"""What needs torch: calibration on a running model, layers with packed weights, loading models.

Importing it imports torch.
"""

from arrow_quant_v2.calibration.model_kind import CannotRunError
from arrow_quant_v2.quantize.module import quantize_learned
from arrow_quant_v2.tensors.weight_format import WeightFormat
from arrow_quant_v2.torch.collect.calibrate import CalibrationRun, calibrate
from arrow_quant_v2.torch.collect.capture import capture
from arrow_quant_v2.torch.layers.clock import timestep
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
from arrow_quant_v2.torch.load.loading import load_quantized
from arrow_quant_v2.torch.record.trajectory import Batch
from arrow_quant_v2.torch.sample_text import sample_text

__all__ = [
    "Batch",
    "CalibrationRun",
    "CannotRunError",
    "Execution",
    "PackedWeight",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantEmbedding",
    "QuantLinear",
    "WeightFormat",
    "calibrate",
    "capture",
    "load_quantized",
    "quantize_learned",
    "sample_text",
    "timestep",
]
