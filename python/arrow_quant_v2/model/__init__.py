"""What a path means: the files, classes and tensor names of a model, found in one place.

:func:`resolve` describes a model without reading weights. :func:`readable_model` hands out a folder
that the engine, diffusers and transformers read alike.
"""

from arrow_quant_v2.model.description import Component, ResolvedModel
from arrow_quant_v2.model.resolve import resolve
from arrow_quant_v2.model.view import View, readable_model

__all__ = ["Component", "ResolvedModel", "View", "readable_model", "resolve"]
