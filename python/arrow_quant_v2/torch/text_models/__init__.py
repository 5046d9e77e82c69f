"""Masked-diffusion language models on modules of transformers."""
