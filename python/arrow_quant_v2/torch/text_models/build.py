"""From the published files of a family to a module of transformers that computes the same."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.text_families import TextFamily
from arrow_quant_v2.torch.text_models.bidirectional import MaskedDiffusion
from arrow_quant_v2.torch.text_models.experts import separate_experts
from arrow_quant_v2.torch.text_models.joint_projection import join_projections
from arrow_quant_v2.torch.text_models.published_names import expanded, publish

__all__ = ["build"]


def build(family: TextFamily, config: Mapping[str, Any], path: Path) -> nn.Module:
    """The module that a published configuration describes, under published names.

    Parameters
    ----------
    config
        What its ``config.json`` holds.
    path
        Of that file, for messages.

    Raises
    ------
    ConfigurationError
        A setting is of no known value, or transformers has no such class.
    """
    unlike = family.unlike(config)
    if unlike:
        raise ConfigurationError(f"{path}: {unlike}", path=str(path), hint="Pass module=.")
    library = importlib.import_module("transformers")
    base = getattr(library, family.library_class, None)
    if base is None:
        raise ConfigurationError(
            f"{path}: {family.name} needs {family.library_class}, which transformers "
            f"{library.__version__} has not",
            path=str(path),
            hint="Install a newer transformers.",
        )
    settings = base.config_class(**family.library_config(config))
    settings.use_cache = False
    settings.name_or_path = str(path.parent)
    settings._attn_implementation = "sdpa"
    mask = config.get("mask_token_id")
    kind = type(
        config["architectures"][0],
        (MaskedDiffusion, base),
        {
            "mask_token_id": mask if isinstance(mask, int) else family.mask_token_id,
            "shifted": family.shifted,
            "block_length": family.block_length,
        },
    )
    model: nn.Module = kind(settings)
    separate_experts(model)
    if family.joint_projection:
        join_projections(model)
    publish(model, expanded(family.names, settings.num_hidden_layers))
    return model.eval()
