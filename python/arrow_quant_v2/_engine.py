"""From the configuration of a user to the options of the engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from arrow_quant_v2._native import core
from arrow_quant_v2.config import UNKNOWN_MODALITY, DiffusionQuantConfig, v2_spelling
from arrow_quant_v2.errors import ConfigurationError

#: Methods that need calibration; without it, their place is taken by the search.
CALIBRATED_METHODS = ("gptq", "r2q", "learned")

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
        if isinstance(config, Mapping):
            hint = f"Where V1 took a dict, write {v2_spelling(config)}."
        elif isinstance(config, (str, os.PathLike)):
            hint = "Read a file with DiffusionQuantConfig.from_yaml(path)."
        else:
            hint = "Write config=DiffusionQuantConfig(bit_width=4)."
        raise ConfigurationError(
            f"config: expected a DiffusionQuantConfig, found {type(config).__name__}", hint=hint
        )
    return DiffusionQuantConfig(**config.model_dump())


def checked_path(path: StrPath, what: str) -> str:
    """`path` as text; `what` names it in an error."""
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(text, str):
        raise TypeError(f"{what}: expected str or os.PathLike[str], found {type(text).__name__}")
    if not text or "\0" in text:
        raise ConfigurationError(f"{what}: expected a path, found {text!r}")
    return text


def path_bytes(path: StrPath, what: str) -> bytes:
    """`path` as the engine takes it; `what` names it in an error."""
    return os.fsencode(checked_path(path, what))


def check_callback(callback: ProgressCallback | None) -> None:
    """Refuse what cannot be called, before anything is done."""
    if callback is not None and not callable(callback):
        raise TypeError(
            "progress_callback: expected a function of a message and a fraction, found "
            f"{type(callback).__name__}"
        )


def engine_method(method: str, *, calibrated: bool = False) -> str:
    """What the engine runs for a method of the configuration; learning starts from its choice."""
    if calibrated:
        return "auto" if method == "learned" else method
    return "search" if method in CALIBRATED_METHODS else method


def _needs_modality(config: DiffusionQuantConfig) -> bool:
    """Whether anything depends on the modality; the plain method does not."""
    return config.enable_time_aware or config.enable_spatial


#: Of an allocated weight: component, name, bits (0: kept), group size, reason.
Allotment: TypeAlias = tuple[str, str, int, int, str]


def plan_options(
    config: DiffusionQuantConfig,
    *,
    calibrated: bool = False,
    allocation: Sequence[Allotment] = (),
) -> core.PlanOptions:
    """What decides the plan of a model, with or without statistics of its layers' inputs."""
    rules = [
        (glob, 0 if action == "keep" else int(action))
        for glob, action in config.layer_rules.items()
    ]
    return core.PlanOptions(
        bit_width=config.bit_width,
        group_size=config.group_size,
        method=engine_method(config.method, calibrated=calibrated),
        param_encoding=config.param_encoding,
        layer_rules=rules,
        components=list(config.components or ()),
        modality=config.modality or ("" if _needs_modality(config) else UNKNOWN_MODALITY),
        allocation=list(allocation),
    )


def quantize_options(
    config: DiffusionQuantConfig,
    *,
    overwrite: bool,
    statistics: StrPath | None = None,
    data_free_reason: str = "",
    is_diffusion: bool = True,
    allocation: Sequence[Allotment] = (),
    mixed_precision_json: str = "",
) -> core.QuantizeOptions:
    """What decides a run over a model."""
    options = core.QuantizeOptions()
    options.plan = plan_options(config, calibrated=statistics is not None, allocation=allocation)
    options.mixed_precision_json = mixed_precision_json
    options.data_free_reason = data_free_reason
    if statistics is not None:
        options.statistics_path = path_bytes(statistics, "statistics")
    options.enable_spatial = config.enable_spatial
    options.fold_equalization = config.fold_equalization
    options.enable_time_aware = config.enable_time_aware
    options.num_time_groups = config.num_time_groups
    options.activation_bits = config.activation_bits or 0
    options.num_threads = config.num_threads
    options.max_memory_mb = config.max_memory_mb
    options.part_size = config.part_size_mb << 20
    options.overwrite = overwrite
    options.min_accuracy = config.min_accuracy
    options.min_layer_accuracy = config.min_layer_accuracy
    options.fallback_scope = config.fallback_scope
    options.fail_fast = config.fail_fast
    options.is_diffusion = is_diffusion
    options.torch_version = str(getattr(sys.modules.get("torch"), "__version__", ""))
    options.config_json = config.recorded_json()
    return options


@dataclass
class EngineJob:
    """One run of the engine over a model; paths as the engine takes them."""

    model: bytes
    output: bytes
    options: core.QuantizeOptions

    def run(self, progress: ProgressCallback | None) -> core.QuantizeReport:
        """Quantize, or store again what an earlier run made."""
        return core.quantize_model(self.model, self.output, self.options, progress)
