"""Which method runs, and the words for it: from settings and modality alone."""

from __future__ import annotations

from collections.abc import Mapping

from arrow_quant_v2.config.settings import CALIBRATED_METHODS, DiffusionQuantConfig

__all__ = ["engine_method", "method_warnings", "strategy", "strategy_name", "strategy_used"]

_PLAIN = "plain"


def engine_method(method: str, *, calibrated: bool = False) -> str:
    """What the engine runs for a method of the configuration; learning starts from its choice."""
    if calibrated:
        return "auto" if method == "learned" else method
    return "search" if method in CALIBRATED_METHODS else method


def strategy(modality: str, config: DiffusionQuantConfig, *, calibrated: bool) -> str:
    """The strategy of a modality, and what of it runs."""
    name = strategy_name(modality, config)
    if calibrated:
        return name if config.method == "auto" else f"{name} (method: {config.method})"
    method = engine_method(config.method)
    return f"{name} (data-free: {'search' if method == 'auto' else method})"


def strategy_name(modality: str, config: DiffusionQuantConfig) -> str:
    """The strategy of a modality, as the contract names it, without what is turned off."""
    if not (config.enable_time_aware or config.enable_spatial):
        return _PLAIN
    if modality in ("text", "code"):
        return "r2q + time-aware" if config.enable_time_aware else "r2q"
    return "gptq + spatial" if config.enable_spatial else "gptq"


def strategy_used(
    modality: str,
    config: DiffusionQuantConfig,
    methods: Mapping[str, int],
    *,
    equalized: int,
    by_time: int,
) -> str:
    """The strategy of a calibrated run, and what the layers of the artefact have of it.

    Parameters
    ----------
    methods
        How many layers have each method.
    equalized, by_time
        How many layers have equalized channels, and parameters by time.
    """
    ranked = sorted(methods.items(), key=lambda item: -item[1])
    used = [f"{method} in {_layers(count)}" for method, count in ranked]
    used += [
        f"{feature} in {_layers(count)}"
        for feature, count in (("equalization", equalized), ("parameters by time", by_time))
        if count
    ]
    name = strategy_name(modality, config)
    tried = "" if name == _PLAIN or config.method not in ("auto", "learned") else "tried; "
    return f"{name} ({tried}used: {', '.join(used) or 'nothing'})"


def _layers(count: int) -> str:
    return f"{count} layer" if count == 1 else f"{count} layers"


def method_warnings(method: str) -> list[str]:
    """That another method runs than the one asked for."""
    if engine_method(method) == method:
        return []
    return [f"method '{method}' needs calibration; without it, '{engine_method(method)}' runs"]
