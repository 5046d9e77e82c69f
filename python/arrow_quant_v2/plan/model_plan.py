"""What would happen to every tensor of a model, before anything is done to it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from arrow_quant_v2._native import core
from arrow_quant_v2.calibration.decision import expected_calibration
from arrow_quant_v2.config.settings import DiffusionQuantConfig, checked_config
from arrow_quant_v2.model import readable_model
from arrow_quant_v2.paths import StrPath, checked_path, path_bytes
from arrow_quant_v2.plan.class_roles import TensorRole
from arrow_quant_v2.plan.engine_options import is_plain, plan_options
from arrow_quant_v2.plan.strategy import method_warnings, strategy
from arrow_quant_v2.plan.weights_size import planned_weights_bytes

if TYPE_CHECKING:
    from arrow_quant_v2.plan.mixed_precision import MixedPrecision

__all__ = ["ModelPlan", "PlannedTensor", "plan_model"]


@dataclass(frozen=True)
class PlannedTensor:
    """What will happen to one tensor, and why.

    Attributes
    ----------
    component, name
        The component (empty when there is one only), and the name in the weight file.
    shape, source_dtype
        Shape, and element type by its safetensors name.
    bit_width, group_size, param_encoding, method
        Bits of a code, weights per group, how parameters are stored, and how codes are found. None
        if the tensor is not quantized.
    source_bytes, planned_bytes
        Bytes in the source, and bytes of codes and parameters (or of the copy).
    reason
        Why, in words.
    fixed
        A layer rule or mixed precision decided. The fallback to more bits leaves the tensor alone.
    role, known_from
        What the tensor is to the network, and where that is known from: ``"class"``, ``"run"``,
        ``"name"`` or ``"shape"``.
    row_dimensions
        How many dimensions make the rows: 2 for stacked experts, else 1.
    """

    component: str
    name: str
    shape: tuple[int, ...]
    source_dtype: str
    bit_width: int | None
    group_size: int | None
    param_encoding: str | None
    method: str | None
    source_bytes: int
    planned_bytes: int
    reason: str
    fixed: bool
    role: str
    known_from: str
    row_dimensions: int = 1


@dataclass(frozen=True)
class ModelPlan:
    """What will happen to a model.

    Attributes
    ----------
    modality, modality_reason
        What the model generates, and how that was found.
    strategy
        What will be done to its layers.
    components
        The components that will be quantized.
    warnings
        What to know before the run.
    tensors
        One entry per tensor of these components, in the order of the source.
    source_bytes
        The weight files of the quantized components.
    planned_bytes
        Codes, parameters and kept tensors that replace them.
    planned_weights_bytes
        About what the new weight files will take on disk: `planned_bytes` and what Parquet adds.
        The result calls it ``model_size_mb``.
    bits_per_weight
        Codes and all parameters of the quantized tensors, per weight.
    calibration, calibration_reason
        What a run would work from: "neutral" or "user" inputs on which the model runs or has run
        (then the statistics are named), or "none", and why.
    mixed_precision
        How the bits of layers were found for a target; None without one.
    """

    modality: str
    modality_reason: str
    strategy: str
    calibration: str
    calibration_reason: str
    components: tuple[str, ...]
    source_bytes: int
    planned_bytes: int
    planned_weights_bytes: int
    bits_per_weight: float
    warnings: tuple[str, ...]
    tensors: tuple[PlannedTensor, ...]
    mixed_precision: MixedPrecision | None = None

    def json(self) -> str:
        """The plan as JSON text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def plan_model(
    model_path: str | os.PathLike[str],
    config: DiffusionQuantConfig | None = None,
    mixed: MixedPrecision | None = None,
    roles: Sequence[TensorRole] = (),
    *,
    statistics: StrPath | None = None,
    user_data: bool = False,
) -> ModelPlan:
    """Read the headers of a model and decide what would happen to it. Writes nothing.

    A target of `config` is met by `mixed`; without that, every layer gets `config.bit_width`.
    `roles` say what tensors are for, see :func:`arrow_quant_v2.model_roles.model_roles`.
    A run would work from `statistics`, or from data of the user.
    """
    config = checked_config(config)
    source = checked_path(model_path, "model_path")
    with readable_model(
        source, headers_only=True, components=config.components, adapters=is_plain(config)
    ) as view:
        calibration, reason = expected_calibration(
            view.path, config, statistics, user_data=user_data
        )
        runs = calibration != "none"
        plan = core.plan_model(
            path_bytes(view.path, "model_path"),
            plan_options(
                config,
                calibrated=runs,
                allocation=mixed.allotments() if mixed else (),
                names=view.names,
                roles=roles,
            ),
        )
    tensors = tuple(_planned(tensor) for tensor in plan.tensors)
    quantized = [tensor for tensor in tensors if tensor.bit_width is not None]
    weights = sum(math.prod(tensor.shape) for tensor in quantized)
    stored = sum(tensor.planned_bytes for tensor in quantized)
    replaced = [] if runs else method_warnings(config.method)
    return ModelPlan(
        modality=plan.modality,
        modality_reason=plan.modality_reason,
        strategy=strategy(plan.modality, config, calibrated=runs),
        calibration=calibration,
        calibration_reason=reason,
        components=tuple(plan.components),
        source_bytes=plan.source_bytes,
        planned_bytes=plan.planned_bytes,
        planned_weights_bytes=planned_weights_bytes(tensors, calibrated=runs),
        bits_per_weight=8 * stored / weights if weights else 0.0,
        warnings=(*view.model.notes, *plan.warnings, *replaced),
        tensors=tensors,
        mixed_precision=mixed,
    )


def _planned(tensor: core.PlannedTensor) -> PlannedTensor:
    spec = tensor.spec if tensor.quantized else None
    return PlannedTensor(
        component=tensor.component,
        name=tensor.name,
        shape=tuple(tensor.shape),
        source_dtype=tensor.source_dtype,
        bit_width=spec.bit_width if spec else None,
        group_size=spec.group_size if spec else None,
        param_encoding=spec.param_encoding if spec else None,
        method=spec.method if spec else None,
        source_bytes=tensor.source_bytes,
        planned_bytes=tensor.planned_bytes,
        reason=tensor.reason,
        fixed=tensor.fixed,
        role=tensor.role,
        known_from=tensor.known_from,
        row_dimensions=tensor.row_dimensions,
    )
