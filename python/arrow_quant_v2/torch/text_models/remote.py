"""Classes that a model folder brings as Python code; only for users who said that they trust it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arrow_quant_v2.errors import ConfigurationError

__all__ = ["remote_class"]

#: What ``auto_map`` may call a model that predicts tokens, the likeliest first.
_MODELS = ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel")


def remote_class(folder: Path, config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Import the folder's code; give the class of the model and its configuration.

    Raises
    ------
    ConfigurationError
        ``auto_map`` names no model.
    """
    from transformers import AutoConfig
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    code = config["auto_map"]
    reference = next((code[name] for name in _MODELS if name in code), None)
    if reference is None:
        raise ConfigurationError(
            f"{folder / 'config.json'}: auto_map names no model",
            path=str(folder),
            hint="Pass module=.",
        )
    kind = get_class_from_dynamic_module(reference, str(folder), local_files_only=True)
    settings = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=True)
    return kind, settings
