"""The table of builders: name to :class:`families.table.Builder`, over all groups."""

from __future__ import annotations

import json
from pathlib import Path

from families import (  # noqa: F401
    audio,
    classic,
    flux,
    image,
    stable_diffusion,
    text_models,
    video,
)
from families.table import BUILDERS, REPRESENTATIVE, Builder

#: Pipeline of diffusers to the reason why the table has no entry for it.
NOT_BUILT: dict[str, str] = json.loads((Path(__file__).parent / "not_built.json").read_text())

__all__ = ["BUILDERS", "NOT_BUILT", "REPRESENTATIVE", "Builder"]
