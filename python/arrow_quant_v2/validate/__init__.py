"""Comparing an artefact with the model it was made from."""

from arrow_quant_v2.validate.quality import validate_quality

__all__ = ["validate_quality"]
