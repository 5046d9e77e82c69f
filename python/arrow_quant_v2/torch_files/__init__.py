"""Weights that torch saved (``.bin``, ``.pt``, ``.pth``, ``.ckpt``), read without torch."""

from arrow_quant_v2.torch_files.archive import StoredTensor, TorchArchive

__all__ = ["StoredTensor", "TorchArchive"]
