"""Whether a quantization calibrates first, and why where it does not; told without running."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from arrow_quant_v2.calibration.model_kind import CannotRunError, detect_model_kind
from arrow_quant_v2.calibration.statistics_facts import read_facts
from arrow_quant_v2.config.settings import CALIBRATED_METHODS, DiffusionQuantConfig
from arrow_quant_v2.paths import StrPath

__all__ = ["expected_calibration", "wants_calibration", "why_not_wanted"]


def wants_calibration(config: DiffusionQuantConfig) -> bool:
    """Whether anything that was asked for needs to know what enters the layers.

    The plain methods do not: round-to-nearest, and search without time-aware and spatial parts.
    """
    if config.calibration_samples == 0 or config.method == "rtn":
        return False
    if config.method in CALIBRATED_METHODS:
        return True
    return config.enable_time_aware or config.enable_spatial


def expected_calibration(
    model_path: StrPath,
    config: DiffusionQuantConfig,
    statistics: StrPath | None = None,
    *,
    user_data: bool = False,
) -> tuple[str, str]:
    """What a quantization would work from, told without running anything.

    Returns ``("neutral" or "user", how)``, or ``("none", why)``.
    """
    if statistics is not None:
        facts = read_facts(statistics)
        how = f"statistics of {facts.layers} layers, up to {facts.tokens} tokens each: {statistics}"
        return facts.data, how
    if not wants_calibration(config):
        return "none", why_not_wanted(config, None)
    try:
        detect_model_kind(Path(model_path), trust_remote_code=config.trust_remote_code)
    except CannotRunError as error:
        return "none", error.message
    if importlib.util.find_spec("torch") is None:
        return "none", "torch is missing: pip install 'arrow-quant-v2[models]'"
    if user_data:
        return "user", "the model runs first, on your data"
    return "neutral", f"the model runs first, on {config.calibration_samples} samples"


def why_not_wanted(config: DiffusionQuantConfig, statistics: StrPath | None) -> str:
    """Why no calibration runs; empty where statistics were given."""
    if statistics is not None:
        return ""
    if config.calibration_samples == 0:
        return "calibration_samples is 0"
    return "the plain method does not need it"
