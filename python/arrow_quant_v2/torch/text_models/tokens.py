"""The tokenizer of a masked language model, and the token of hidden positions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arrow_quant_v2.text_families import TextFamily, family_of

__all__ = ["TextTokens", "added_around", "read_tokens"]


@dataclass(frozen=True)
class TextTokens:
    """A tokenizer of transformers, and the token that stands for a hidden one; None: there is none.

    The tokenizer can pad.
    """

    tokenizer: Any
    mask_token_id: int | None

    @property
    def special_ids(self) -> list[int]:
        """Tokens that are never hidden."""
        return [t for t in self.tokenizer.all_special_ids if t != self.mask_token_id]


def read_tokens(
    folder: Path, *, model: Path | None = None, trust_remote_code: bool = False
) -> TextTokens:
    """Load the tokenizer of a model folder.

    A family's tokenizer that is published with code is loaded as the class of transformers that
    does the same. `model` is the folder of the model where that is another one, in a pipeline.
    """
    model = model or folder
    config = _read(model / "config.json")
    family = family_of(config)
    tokenizer = (
        _plain_tokenizer(folder, family)
        if family is not None
        else _auto_tokenizer(folder, trust_remote_code)
    )
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return TextTokens(tokenizer, _mask_token_id(model, config, tokenizer, family))


def added_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What a tokenizer puts before and behind every text."""
    coded = tokenizer("a", return_special_tokens_mask=True)
    ids, special = list(coded["input_ids"]), coded["special_tokens_mask"]
    text_at = [n for n, flag in enumerate(special) if not flag] or [len(special)]
    return ids[: text_at[0]], ids[text_at[-1] + 1 :]


def _auto_tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=trust_remote_code
    )


def _plain_tokenizer(folder: Path, family: TextFamily) -> Any:
    import transformers

    name = "PreTrainedTokenizerFast"
    if not (folder / "tokenizer.json").is_file():
        stored = _read(folder / "tokenizer_config.json").get("tokenizer_class")
        known = hasattr(transformers, str(stored))
        name = str(stored) if known else family.tokenizer_class or name
    return getattr(transformers, name).from_pretrained(str(folder), local_files_only=True)


def _mask_token_id(
    folder: Path, config: Mapping[str, Any], tokenizer: Any, family: TextFamily | None
) -> int | None:
    """What the settings of the model say, else the tokenizer, else what is known of the family."""
    for settings in (config, _read(folder / "generation_config.json")):
        if isinstance(settings.get("mask_token_id"), int) and family is not None:
            return int(settings["mask_token_id"])
    if tokenizer.mask_token_id is not None or family is None:
        found: int | None = tokenizer.mask_token_id
        return found
    vocabulary = tokenizer.get_vocab()
    return next(
        (vocabulary[t] for t in family.mask_tokens if t in vocabulary), family.mask_token_id
    )


def _read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_bytes()) if path.is_file() else {}
    return found if isinstance(found, dict) else {}
