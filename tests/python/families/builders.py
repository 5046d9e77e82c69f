"""The table of builders: name to :class:`families.table.Builder`, over all groups."""

from __future__ import annotations

from families import audio, classic, flux, image, stable_diffusion, video  # noqa: F401
from families.table import BUILDERS, REPRESENTATIVE, Builder

__all__ = ["BUILDERS", "REPRESENTATIVE", "Builder"]
