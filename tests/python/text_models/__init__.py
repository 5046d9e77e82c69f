"""Tiny masked-diffusion language models in the layouts that their authors publish."""
