"""Weights that torch saved (``.bin``, ``.pt``, ``.pth``, ``.ckpt``), read without torch."""

from arrow_quant_v2.torch_files.convert import readable_model

__all__ = ["readable_model"]
