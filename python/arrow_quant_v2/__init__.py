"""Quantize diffusion models to small, self-contained, queryable Parquet artefacts."""

from arrow_quant_v2._native import __version__
from arrow_quant_v2.aio import AsyncArrowQuantV2
from arrow_quant_v2.api import ArrowQuantV2
from arrow_quant_v2.artefact import QuantizedComponent, QuantizedModel, open_quantized
from arrow_quant_v2.calibration import CalibrationStatistics, TimeStatistics
from arrow_quant_v2.config import PROFILES, DiffusionQuantConfig
from arrow_quant_v2.errors import (
    ArrowQuantError,
    ConfigurationError,
    MetadataError,
    ModelNotFoundError,
    OutputError,
    QuantizationError,
    ShapeMismatchError,
    ValidationError,
)
from arrow_quant_v2.export import export_safetensors
from arrow_quant_v2.plan import ModelPlan, PlannedTensor
from arrow_quant_v2.result import QuantizationResult, TensorResult, ValidationResult
from arrow_quant_v2.tensors import QuantizedTensor, TimeGroup

__all__ = [
    "PROFILES",
    "ArrowQuantError",
    "ArrowQuantV2",
    "AsyncArrowQuantV2",
    "CalibrationStatistics",
    "ConfigurationError",
    "DiffusionQuantConfig",
    "MetadataError",
    "ModelNotFoundError",
    "ModelPlan",
    "OutputError",
    "PlannedTensor",
    "QuantizationError",
    "QuantizationResult",
    "QuantizedComponent",
    "QuantizedModel",
    "QuantizedTensor",
    "ShapeMismatchError",
    "TensorResult",
    "TimeGroup",
    "TimeStatistics",
    "ValidationError",
    "ValidationResult",
    "__version__",
    "export_safetensors",
    "open_quantized",
]
