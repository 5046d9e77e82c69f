"""Pipelines of diffusers that write text: a language model, a tokenizer and a discrete scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arrow_quant_v2.torch.text_models.tokens import read_tokens

__all__ = ["MODEL", "TOKENIZER", "is_text_pipeline", "text_parts"]

#: What such a pipeline calls its language model and its tokenizer.
MODEL, TOKENIZER = "model", "tokenizer"


def is_text_pipeline(index: Mapping[str, Any]) -> bool:
    """Whether a ``model_index.json`` is that of a text pipeline, by what it is made of."""
    return MODEL in index and TOKENIZER in index and "vae" not in index


def text_parts(folder: Path) -> dict[str, Any]:
    """The tokenizer of a text pipeline, which diffusers 0.42 does not load itself."""
    tokens = read_tokens(folder / TOKENIZER, model=folder / MODEL)
    return {TOKENIZER: tokens.tokenizer}
