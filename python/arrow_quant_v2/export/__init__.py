"""Exports of an artefact for other programs, one module per format."""

from arrow_quant_v2.export.int8_dir import export_int8
from arrow_quant_v2.export.packed_dir import export_packed
from arrow_quant_v2.export.safetensors_dir import export_safetensors

__all__ = ["export_int8", "export_packed", "export_safetensors"]
