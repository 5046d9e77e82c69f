"""A run over a model: calibrate, allocate bits, quantize, improve."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from arrow_quant_v2._native import core
from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.loaded_model import LoadedModel
from arrow_quant_v2.mixed.allocation import allocate
from arrow_quant_v2.model import readable_model
from arrow_quant_v2.paths import StrPath, checked_path, path_bytes
from arrow_quant_v2.plan.engine_options import is_plain, quantize_options, run_engine
from arrow_quant_v2.plan.mixed_precision import MixedPrecision
from arrow_quant_v2.plan.model_plan import ModelPlan, plan_model
from arrow_quant_v2.progress import ProgressCallback, check_callback, scaled_progress
from arrow_quant_v2.quantize.calibrate_first import Calibration, calibrated, check_wanted
from arrow_quant_v2.quantize.learned import run_learned
from arrow_quant_v2.quantize.result import QuantizationResult, quantization_result

if TYPE_CHECKING:
    from arrow_quant_v2.torch.record.session import Session

__all__ = ["plan_files", "quantize_files"]

#: Part of the progress that finding widths for a target takes; the rest is quantization.
_ALLOCATION = 0.7


def quantize_files(
    model_path: StrPath,
    output_path: StrPath,
    config: DiffusionQuantConfig,
    *,
    overwrite: bool,
    progress_callback: ProgressCallback | None = None,
    statistics: StrPath | None = None,
    calibration_data: Any = None,
    session: Session | None = None,
    is_diffusion: bool = True,
) -> QuantizationResult:
    """Quantize a model, with `overwrite` saying whether an artefact of ours may be replaced.

    A `session` takes the place of the model that would be loaded to run.
    """
    check_callback(progress_callback)
    output = path_bytes(output_path, "output_path")
    source = checked_path(model_path, "model_path")
    if config.fold_equalization and config.method == "learned":
        raise ConfigurationError(
            "fold_equalization=True does not go with method='learned', which runs the network as "
            "it is",
            hint="Leave one of them out.",
        )
    start = time.perf_counter()
    with readable_model(
        source, output=output_path, components=config.components, adapters=is_plain(config)
    ) as view:
        model = LoadedModel(view, config, _kept(calibration_data), session)
        _check_output(model, output, config, overwrite=overwrite)
        with calibrated(model, statistics, progress_callback) as found:
            mixed = _allocated(model, found, _ALLOCATION)
            if mixed:
                rest = scaled_progress(found.progress, _ALLOCATION, 1 - _ALLOCATION)
                found = replace(found, progress=rest)
            options = partial(
                quantize_options,
                config,
                overwrite=overwrite,
                statistics=found.statistics,
                data_free_reason=found.reason,
                is_diffusion=is_diffusion,
                allocation=mixed.allotments() if mixed else (),
                roles=model.roles,
                mixed_precision_json=mixed.json() if mixed else "",
                names=model.names,
            )
            if config.method == "learned" and found.statistics is not None:
                report, found = run_learned(model, output, options, found)
            else:
                report = run_engine(os.fsencode(model.path), output, options(), found.progress)
    found = replace(found, warnings=(*model.notes, *found.warnings))
    return quantization_result(report, config, found, time.perf_counter() - start, mixed)


def plan_files(
    model_path: StrPath,
    config: DiffusionQuantConfig,
    *,
    progress_callback: ProgressCallback | None = None,
    statistics: StrPath | None = None,
    calibration_data: Any = None,
) -> ModelPlan:
    """What :func:`quantize_files` would do; with a target, the model is calibrated and run."""
    source = checked_path(model_path, "model_path")
    if config.target is None and calibration_data is not None:
        check_wanted(config, statistics)
    with readable_model(
        source,
        components=config.components,
        adapters=is_plain(config),
        headers_only=config.target is None,
    ) as view:
        model = LoadedModel(view, config, _kept(calibration_data))
        planned = partial(
            plan_model,
            view.path,
            config,
            roles=model.roles,
            statistics=statistics,
            user_data=calibration_data is not None,
        )
        if config.target is None:
            plan = planned()
        else:
            with calibrated(model, statistics, progress_callback) as found:
                plan = planned(_allocated(model, found, 1.0))
    warnings = dict.fromkeys((*model.notes, *plan.warnings))
    return replace(plan, warnings=tuple(warnings))


def _check_output(
    model: LoadedModel, output: bytes, config: DiffusionQuantConfig, *, overwrite: bool
) -> None:
    """Raise what the engine would say about output, headers and settings, before the model runs."""
    options = quantize_options(config, overwrite=overwrite, roles=model.roles, names=model.names)
    core.check_output(os.fsencode(model.path), output, options)


def _kept(calibration_data: Any) -> Any:
    """Data that can be read more than once."""
    return list(calibration_data) if isinstance(calibration_data, Iterator) else calibration_data


def _allocated(model: LoadedModel, found: Calibration, share: float) -> MixedPrecision | None:
    if model.config.target is None:
        return None
    progress = scaled_progress(found.progress, 0.0, share)
    return allocate(model, statistics=found.statistics, progress=progress)
