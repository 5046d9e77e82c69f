"""From the configuration of a user to the options of the engine."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from arrow_quant_v2._native import core
from arrow_quant_v2.config.settings import UNKNOWN_MODALITY, DiffusionQuantConfig, with_settings
from arrow_quant_v2.model.description import Names
from arrow_quant_v2.paths import StrPath, path_bytes
from arrow_quant_v2.plan.class_roles import TensorRole
from arrow_quant_v2.plan.strategy import engine_method
from arrow_quant_v2.progress import ProgressCallback


def _needs_modality(config: DiffusionQuantConfig) -> bool:
    """Whether anything depends on the modality; the plain method does not."""
    return config.enable_time_aware or config.enable_spatial


def is_plain(config: DiffusionQuantConfig) -> bool:
    """Whether the plain method runs, which takes adapters too."""
    return not _needs_modality(config)


#: Of an allocated weight: component, name, bits (0: kept), group size, reason.
Allotment: TypeAlias = tuple[str, str, int, int, str]


def plan_options(
    config: DiffusionQuantConfig,
    *,
    calibrated: bool = False,
    allocation: Sequence[Allotment] = (),
    roles: Sequence[TensorRole] = (),
    names: Names | None = None,
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
        roles=list(roles),
        names=names or {},
    )


def quantize_options(
    config: DiffusionQuantConfig,
    *,
    overwrite: bool,
    statistics: StrPath | None = None,
    data_free_reason: str = "",
    is_diffusion: bool = True,
    allocation: Sequence[Allotment] = (),
    roles: Sequence[TensorRole] = (),
    mixed_precision_json: str = "",
    refinements: Mapping[str, Mapping[str, Any]] | None = None,
    reuse: tuple[core.QuantizeReport, Sequence[tuple[str, core.Tensor]]] | None = None,
    bit_width: int | None = None,
    names: Names | None = None,
) -> core.QuantizeOptions:
    """What decides a run over a model.

    Parameters
    ----------
    refinements
        What later steps brought, by name, for the metadata.
    reuse
        An earlier run and tensors by component: the engine stores them instead of quantizing.
    bit_width
        Bits in place of those of `config`, which the recorded settings keep.
    names
        Names of tensors in place of those of the files, by component.
    """
    options = core.QuantizeOptions()
    planned = config if bit_width is None else with_settings(config, bit_width=bit_width)
    options.plan = plan_options(
        planned,
        calibrated=statistics is not None,
        allocation=allocation,
        roles=roles,
        names=names,
    )
    options.refinements_json = {name: json.dumps(r) for name, r in (refinements or {}).items()}
    if reuse is not None:
        options.reuse(*reuse)
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


def run_engine(
    model: bytes, output: bytes, options: core.QuantizeOptions, progress: ProgressCallback | None
) -> core.QuantizeReport:
    """Quantize a model, or store again what an earlier run made; paths as the engine takes them."""
    return core.quantize_model(model, output, options, progress)
