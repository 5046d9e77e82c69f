"""Sizes and quality as every command prints them: the same words for the same figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arrow_quant_v2.cli.console import size_text

__all__ = ["quality_lines", "weights_lines"]


def weights_lines(
    weights_bytes: int,
    source_bytes: int | None,
    total_bytes: int | None = None,
    *,
    about: bool = False,
) -> list[tuple[str, str]]:
    """The weight files of an artefact against those of the source; and all of its files."""
    text = ("about " if about else "") + size_text(weights_bytes)
    if source_bytes and weights_bytes:
        text += f", {source_bytes / weights_bytes:.2f} times smaller"
    lines = [("weights", text)]
    if total_bytes is not None:
        lines.append(("whole model", size_text(total_bytes)))
    return lines


def quality_lines(facts: Mapping[str, Any], wanted: float | None = None) -> list[tuple[str, str]]:
    """Mean and worst of what layers are judged by; of the weights, what they must reach."""
    goal = "" if wanted is None else f", at least {wanted} wanted"
    text = f"{facts['weight_cosine_similarity']:.6f} (weights{goal})"
    if facts["cosine_kind"] == "outputs":
        text = f"{facts['cosine_similarity']:.6f} (layer outputs), {text}"
    worst = f"{facts['min_cosine_similarity']:.6f}  {facts['worst_layer']}"
    return [("cosine", f"mean {text}"), ("worst layer", worst)]
