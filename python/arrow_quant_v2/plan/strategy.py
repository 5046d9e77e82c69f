"""Which method runs, and the words for it: from settings and modality alone."""

from __future__ import annotations

from arrow_quant_v2.config.settings import CALIBRATED_METHODS, DiffusionQuantConfig

__all__ = ["engine_method", "method_warnings", "strategy", "strategy_name"]

_STRATEGIES = {"text": "r2q + time-aware", "code": "r2q + time-aware"}
_OTHER_STRATEGY = "gptq + spatial"
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
    """The strategy of a modality, as the contract names it."""
    if not (config.enable_time_aware or config.enable_spatial):
        return _PLAIN
    return _STRATEGIES.get(modality, _OTHER_STRATEGY)


def method_warnings(method: str) -> list[str]:
    """That another method runs than the one asked for."""
    if engine_method(method) == method:
        return []
    return [f"method '{method}' needs calibration; without it, '{engine_method(method)}' runs"]
