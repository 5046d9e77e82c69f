"""Pipelines of diffusers that write text: a language model, a tokenizer, a discrete scheduler."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.torch.text_models.tokens import read_tokens

__all__ = ["MODEL", "TOKENIZER", "is_text_pipeline", "text_pipeline"]

#: What such a pipeline calls its language model and its tokenizer.
MODEL, TOKENIZER = "model", "tokenizer"


def is_text_pipeline(index: Mapping[str, Any]) -> bool:
    """Whether a ``model_index.json`` is that of a text pipeline, by what it is made of."""
    return MODEL in index and TOKENIZER in index and "vae" not in index


def text_pipeline(folder: Path, model: Any) -> Any:
    """Build a text pipeline around its model.

    diffusers 0.42 loads neither a model whose class came with code nor a tokenizer here, so the
    parts are put together.

    Raises
    ------
    ConfigurationError
        diffusers has no such pipeline or part.
    """
    index = json.loads((folder / "model_index.json").read_bytes())
    parts: dict[str, Any] = {MODEL: model}
    parts[TOKENIZER] = read_tokens(folder / TOKENIZER, model=folder / MODEL).tokenizer
    for name, entry in index.items():
        if isinstance(entry, list) and name not in parts and entry[0] == "diffusers":
            parts[name] = _class(folder, entry[1]).from_pretrained(folder / name)
    kind = _class(folder, index["_class_name"])
    return kind(**parts)


def _class(folder: Path, name: str) -> Any:
    import diffusers

    found = getattr(diffusers, name, None)
    if found is None:
        raise ConfigurationError(
            f"{folder / 'model_index.json'}: diffusers {diffusers.__version__} has no class "
            f"{name!r}",
            path=str(folder),
            hint="Install the version that the pipeline was made with.",
        )
    return found
