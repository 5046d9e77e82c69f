"""From the configuration of a user to the options of the engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

from arrow_quant_v2._native import core
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError

ProgressCallback: TypeAlias = Callable[[str, float], object]
StrPath: TypeAlias = "str | os.PathLike[str]"


def checked_config(config: DiffusionQuantConfig | None) -> DiffusionQuantConfig:
    """A private, validated copy of `config`; the defaults when it is None.

    Raises
    ------
    ConfigurationError
        `config` is something else, or a list or mapping in it was changed to something invalid.
    """
    if config is None:
        return DiffusionQuantConfig()
    if not isinstance(config, DiffusionQuantConfig):
        raise ConfigurationError(
            f"expected a DiffusionQuantConfig, found {type(config).__name__}",
            hint="V2 takes DiffusionQuantConfig(bit_width=4, ...) where V1 took a dict.",
        )
    return DiffusionQuantConfig(**config.model_dump())


def path_bytes(path: StrPath, what: str) -> bytes:
    """`path` as the engine takes it; `what` names it in an error."""
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"{what}: expected str or os.PathLike[str], found {type(text).__name__}")
    if not text or "\0" in text:
        raise ConfigurationError(f"{what}: expected a path, found {text!r}")
    return os.fsencode(text)


def plan_options(config: DiffusionQuantConfig) -> core.PlanOptions:
    """What decides the plan of a model."""
    rules = [
        (glob, 0 if action == "keep" else int(action))
        for glob, action in config.layer_rules.items()
    ]
    return core.PlanOptions(
        bit_width=config.bit_width,
        group_size=config.group_size,
        method=config.method,
        param_encoding=config.param_encoding,
        layer_rules=rules,
        components=list(config.components or ()),
        modality=config.modality or "",
    )


def quantize_options(config: DiffusionQuantConfig, *, overwrite: bool) -> core.QuantizeOptions:
    """What decides a run over a model."""
    options = core.QuantizeOptions()
    options.plan = plan_options(config)
    options.num_threads = config.num_threads
    options.max_memory_mb = config.max_memory_mb
    options.part_size = config.part_size_mb << 20
    options.overwrite = overwrite
    options.min_accuracy = config.min_accuracy
    options.fail_fast = config.fail_fast
    options.config_json = config.recorded_json()
    return options
