"""Why a model cannot be calibrated by running it."""

from __future__ import annotations

from arrow_quant_v2.errors import ConfigurationError

__all__ = ["CannotRunError"]


class CannotRunError(ConfigurationError):
    """The model cannot be run here; quantization goes on without calibration and says why."""
