"""Quantize diffusion models to small, self-contained, queryable Parquet artefacts."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from arrow_quant_v2._native import __version__
from arrow_quant_v2.aio import AsyncArrowQuantV2
from arrow_quant_v2.api import ArrowQuantV2
from arrow_quant_v2.artefact.model import QuantizedComponent, QuantizedModel
from arrow_quant_v2.artefact.open import open_quantized
from arrow_quant_v2.calibration.statistics import (
    CalibrationStatistics,
    Fold,
    FoldSource,
    TimeStatistics,
)
from arrow_quant_v2.config.settings import PROFILES, DiffusionQuantConfig
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
from arrow_quant_v2.export import export_int8, export_packed, export_safetensors
from arrow_quant_v2.plan.model_plan import ModelPlan, PlannedTensor
from arrow_quant_v2.quantize.result import QuantizationResult, TensorResult, ValidationResult
from arrow_quant_v2.tensors.tensor import QuantizedTensor, TimeGroup

if TYPE_CHECKING:
    from arrow_quant_v2.torch import load_quantized

__all__ = [
    "PROFILES",
    "ArrowQuantError",
    "ArrowQuantV2",
    "AsyncArrowQuantV2",
    "CalibrationStatistics",
    "ConfigurationError",
    "DiffusionQuantConfig",
    "Fold",
    "FoldSource",
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
    "export_int8",
    "export_packed",
    "export_safetensors",
    "load_quantized",
    "open_quantized",
]


def __dir__() -> list[str]:
    """What there is to use, what is imported when it is first used included."""
    return sorted({*__all__, "torch", *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is first used."""
    if name not in ("load_quantized", "torch"):
        raise AttributeError(f"module 'arrow_quant_v2' has no attribute {name!r}")
    try:
        package = importlib.import_module("arrow_quant_v2.torch")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"arrow_quant_v2.{name} needs torch. "
            "Install it with: pip install 'arrow-quant-v2[models]'"
        ) from error
    return package if name == "torch" else getattr(package, name)
