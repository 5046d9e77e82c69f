"""Exports of an artefact for other programs, one module per format."""

from arrow_quant_v2.export.safetensors_dir import export_safetensors

__all__ = ["export_safetensors"]
