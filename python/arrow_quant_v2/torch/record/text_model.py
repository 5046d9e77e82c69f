"""Float masked language models from their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.calibration.model_kind import CannotRunError, read_json
from arrow_quant_v2.model import resolve
from arrow_quant_v2.text_families import family_of
from arrow_quant_v2.torch.build.empty_model import empty_model
from arrow_quant_v2.torch.record.renamed import load_renamed
from arrow_quant_v2.torch.text_models.bidirectional import MaskedDiffusion
from arrow_quant_v2.torch.text_models.experts import has_own_experts, separate_experts
from arrow_quant_v2.torch.text_models.tokens import TextTokens, read_tokens

__all__ = ["load_text_model"]


def load_text_model(
    folder: Path,
    *,
    tokenizer: Path | None = None,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> tuple[nn.Module, TextTokens]:
    """The model of a folder in `dtype`, and its tokenizer, which may be in another folder.

    Raises
    ------
    CannotRunError
        Weights are missing.
    """
    config = read_json(folder / "config.json")
    tokens = read_tokens(tokenizer or folder, model=folder, trust_remote_code=trust_remote_code)
    if family_of(config) is not None:
        model = empty_model(folder)
        _fill(model, folder, dtype)
        if isinstance(model, MaskedDiffusion) and tokens.mask_token_id is not None:
            model.mask_token_id = tokens.mask_token_id
    else:
        model = _from_library(folder, config, dtype, trust_remote_code)
    return model, tokens


def _from_library(
    folder: Path, config: dict[str, Any], dtype: torch.dtype, trust_remote_code: bool
) -> nn.Module:
    import transformers

    kind: Any = transformers.AutoModelForMaskedLM
    name = str((config.get("architectures") or [""])[0])
    if not name.endswith("ForMaskedLM"):  # in a pipeline, which takes any class
        kind = getattr(transformers, name, kind)
    settings: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    if trust_remote_code and config.get("auto_map"):
        from arrow_quant_v2.torch.text_models.remote import remote_class

        kind, settings["config"] = remote_class(folder, config)
    (stored,) = resolve(folder).components
    if stored.names:
        model = load_renamed(stored, dtype)
    else:
        model = kind.from_pretrained(str(folder), dtype=dtype, **settings)
    if has_own_experts(name for file in _weight_files(folder) for name in _names(file)):
        separate_experts(model)
    return model


def _names(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as stored:
        return list(stored.keys())


def _fill(model: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import load_file

    expected = dict(model.state_dict())
    (own,) = resolve(folder).components
    for file in _weight_files(folder):
        stored = load_file(file)
        known = {
            name: t.to(dtype)
            for name, t in ((own.names.get(n, n), t) for n, t in stored.items())
            if expected.pop(name, None) is not None
        }
        model.load_state_dict(known, strict=False, assign=True)
    if expected:
        raise CannotRunError(
            f"{len(expected)} tensors of {type(model).__name__} are not in the weights, the first "
            f"is '{next(iter(expected))}'"
        )
    model.requires_grad_(False)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [
            folder / n for n in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        ]
    return sorted(folder.glob("*.safetensors"))
