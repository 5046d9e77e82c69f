"""What needs torch: calibration on a running model, layers with packed weights, loading models.

Importing it imports torch.
"""

from arrow_quant_v2._runnable import CannotRunError
from arrow_quant_v2.packed import WeightFormat
from arrow_quant_v2.torch.calibrate import CalibrationRun, calibrate
from arrow_quant_v2.torch.capture import capture
from arrow_quant_v2.torch.layers import (
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
from arrow_quant_v2.torch.learn_module import quantize_learned
from arrow_quant_v2.torch.loading import load_quantized
from arrow_quant_v2.torch.tape import Batch
from arrow_quant_v2.torch.timestep import timestep
from arrow_quant_v2.torch.weight import PackedWeight

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
    "timestep",
]
