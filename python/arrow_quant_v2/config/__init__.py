"""Settings of a quantization: their definitions, presets, files and environment variables."""

from arrow_quant_v2.config.settings import PROFILES, DiffusionQuantConfig

__all__ = ["PROFILES", "DiffusionQuantConfig"]
