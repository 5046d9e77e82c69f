"""Learned rounding for any torch module."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from arrow_quant_v2.caller_warnings import warn_caller
from arrow_quant_v2.config.settings import (
    CALIBRATION,
    DiffusionQuantConfig,
    checked_config,
    with_settings,
)
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.quantize.result import QuantizationResult
from arrow_quant_v2.quantize.run import quantize_files
from arrow_quant_v2.torch.record.session import Session
from arrow_quant_v2.torch.record.trajectory import as_batches, has_held_out

__all__ = ["quantize_learned"]


def quantize_learned(
    module: nn.Module,
    batches: Iterable[Any],
    model_path: StrPath,
    output_path: StrPath,
    config: DiffusionQuantConfig | None = None,
    *,
    statistics: StrPath,
    component: str = "",
    overwrite: bool = False,
    progress_callback: ProgressCallback | None = None,
) -> QuantizationResult:
    """Quantize the weights of a module and learn their rounding on some batches.

    For modules of classes that neither diffusers nor transformers builds; models of theirs need
    only ``DiffusionQuantConfig(method="learned")``.

    Parameters
    ----------
    module
        The float network, with the parameter names of the weight file. It is not changed.
    batches
        As for :func:`calibrate`; held-out samples choose the best result.
    model_path, output_path
        As for :meth:`~arrow_quant_v2.ArrowQuantV2.quantize_diffusion_model`.
    config
        What to do; its method is ``"learned"`` in any case.
    statistics
        The file that :func:`calibrate` wrote for the module.
    component
        The component of the pipeline that the module is; empty when there is one only.
    overwrite
        Replace an artefact of ours at `output_path`.
    progress_callback
        Called with a message and a fraction. What it raises stops the run.

    Raises
    ------
    ArrowQuantError
        One of its subclasses; the output path is as it was before in any case.
    """
    config = with_settings(checked_config(config), method="learned")
    given = as_batches(batches, held_out=True)
    if not has_held_out(given):
        raise ConfigurationError(
            "no sample is held out to judge by",
            hint=f"Give {CALIBRATION.held_out_every} samples or more, or say which are held out.",
        )
    result = quantize_files(
        model_path,
        output_path,
        config,
        overwrite=overwrite,
        progress_callback=progress_callback,
        statistics=statistics,
        session=Session.of_network(component, module, given),
    )
    for warning in result["warnings"]:
        warn_caller(warning)
    return result
