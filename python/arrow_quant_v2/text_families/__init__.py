"""Masked-diffusion language models that are published with code of their own.

Their code is never run: what is known of a family says which modules of transformers compute the
same. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arrow_quant_v2.text_families.dream import DREAM
from arrow_quant_v2.text_families.family import TextFamily
from arrow_quant_v2.text_families.llada import LLADA
from arrow_quant_v2.text_families.llada2 import LLADA2
from arrow_quant_v2.text_families.llada_moe import LLADA_MOE

__all__ = ["FAMILIES", "TextFamily", "family_of"]

FAMILIES = (LLADA, LLADA_MOE, LLADA2, DREAM)


def family_of(config: Mapping[str, Any]) -> TextFamily | None:
    """The family of a published configuration, or None."""
    names = config.get("architectures")
    if not isinstance(names, list):
        return None
    return next((f for f in FAMILIES if any(name in f.architectures for name in names)), None)
