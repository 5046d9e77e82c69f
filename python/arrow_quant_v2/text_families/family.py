"""What is published about a family of masked-diffusion language models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["TextFamily"]


@dataclass(frozen=True)
class TextFamily:
    """A family that publishes weights beside code of its own, on an architecture that is known.

    Attributes
    ----------
    name
        What its authors call it.
    architectures
        What ``architectures`` in its ``config.json`` say.
    library_class
        The causal language model of transformers whose modules compute the same.
    mask_token_id, mask_tokens
        The token of hidden positions as published, and its spellings in tokenizers. Files that say
        another one are believed.
    library_config
        Makes the configuration of `library_class` from the published one.
    required
        Values of published settings that `library_class` can compute, by setting; a setting that
        is absent has one of them.
    names
        Published names of modules and tensors whose names in the library differ, and these. ``{}``
        stands for the number of a layer.
    shifted
        The output at a position predicts the next one, as in the causal model that training began
        with.
    block_length
        Positions attend to their own block of so many and to earlier ones; 0: to all.
    joint_projection
        Queries, keys and values come from one layer, named ``qkv_proj`` in `names`.
    tokenizer_class
        The class of transformers for a tokenizer that is published with code.
    """

    name: str
    architectures: tuple[str, ...]
    library_class: str
    mask_token_id: int
    mask_tokens: tuple[str, ...]
    library_config: Callable[[Mapping[str, Any]], dict[str, Any]]
    required: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    shifted: bool = False
    block_length: int = 0
    joint_projection: bool = False
    tokenizer_class: str = ""

    def unlike(self, config: Mapping[str, Any]) -> str:
        """Say which setting of a published configuration cannot be computed; empty: none."""
        for key, accepted in self.required.items():
            if key in config and config[key] not in accepted:
                known = " or ".join(repr(value) for value in accepted)
                return f"{self.name} with {key} = {config[key]!r} is not known here, only {known}"
        return ""
