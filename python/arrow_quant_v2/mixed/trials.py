"""A model with the same codes throughout, in a temporary folder: what mixing draws on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._native import core
from arrow_quant_v2.artefact.model import QuantizedModel
from arrow_quant_v2.artefact.open import open_quantized
from arrow_quant_v2.config.settings import DiffusionQuantConfig, known_modality
from arrow_quant_v2.mixed.layers import Key
from arrow_quant_v2.model import resolve
from arrow_quant_v2.paths import StrPath, path_bytes
from arrow_quant_v2.plan.class_roles import TensorRole
from arrow_quant_v2.plan.engine_options import Allotment, quantize_options
from arrow_quant_v2.plan.mixed_precision import Codes
from arrow_quant_v2.plan.model_plan import ModelPlan, PlannedTensor
from arrow_quant_v2.progress import ProgressCallback

__all__ = ["Trial", "key_of", "run_trial"]


def key_of(tensor: PlannedTensor) -> Key:
    """Component and name."""
    return tensor.component, tensor.name


@dataclass(frozen=True)
class Trial:
    """The artefact of one kind of codes.

    Attributes
    ----------
    sizes
        Bytes of codes and parameters of each planned weight.
    nmse
        Relative squared error of its outputs on held-out inputs where calibration saw these, else
        of the weight itself.
    of_outputs
        Whether it is that of outputs.
    other_bytes
        What else the weight files have: tensors that are not quantized, and Parquet's own.
    """

    artefact: Path
    sizes: Mapping[Key, int]
    nmse: Mapping[Key, float]
    of_outputs: Mapping[Key, bool]
    other_bytes: int
    component: str

    @cached_property
    def _opened(self) -> QuantizedModel:
        return open_quantized(self.artefact)

    def weight(self, key: Key) -> npt.NDArray[np.float32]:
        """A restored weight, in its own shape."""
        component, name = key
        return self._opened.components["" if self.component else component][name].dequantize()


def run_trial(
    model: StrPath,
    config: DiffusionQuantConfig,
    plan: ModelPlan,
    roles: Sequence[TensorRole],
    codes: Codes,
    folder: Path,
    statistics: StrPath | None,
    progress: ProgressCallback | None,
) -> Trial:
    """Quantize every weight that no rule decides with these codes; rules hold.

    Of a pipeline with one component to quantize, only that component's folder is read and written.
    """
    source, component = _source(Path(model), plan)
    quantized = [tensor for tensor in plan.tensors if tensor.bit_width is not None]
    settings = DiffusionQuantConfig(
        **{
            **config.model_dump(),
            "components": None if component else config.components,
            "modality": known_modality(plan.modality),
            "group_size": codes.group_size,
            "min_accuracy": 0.0,
            "min_layer_accuracy": 0.0,
            # Layers are tried one at a time in the network as it is.
            "fold_equalization": False,
        }
    )
    artefact = folder / codes.name
    report = core.quantize_model(
        path_bytes(source, "model_path"),
        path_bytes(artefact, "folder"),
        quantize_options(
            settings,
            overwrite=False,
            statistics=statistics,
            allocation=_with(codes, quantized, "" if component else None),
            names=resolve(source).names,
            roles=_roles_in(roles, component),
        ),
        progress,
    )
    found = {(component or tensor.component, tensor.info.name): tensor for tensor in report.tensors}
    keys = [key_of(tensor) for tensor in quantized]
    sizes = {key: found[key].stored_bytes for key in keys}
    infos = {key: found[key].info for key in keys}
    return Trial(
        artefact=artefact,
        sizes=sizes,
        nmse={
            key: info.nmse if info.output_nmse is None else info.output_nmse
            for key, info in infos.items()
        },
        of_outputs={key: info.output_nmse is not None for key, info in infos.items()},
        other_bytes=report.weights_bytes - sum(sizes.values()),
        component=component,
    )


def _source(model: Path, plan: ModelPlan) -> tuple[Path, str]:
    """What to quantize, and the pipeline's component that it is; empty: the model as it is."""
    component = plan.components[0]
    if len(plan.components) == 1 and component and (model / "model_index.json").is_file():
        return model / component, component
    return model, ""


def _roles_in(roles: Iterable[TensorRole], component: str) -> list[TensorRole]:
    """Roles for the folder of one component, which is a model by itself; or as they are."""
    if not component:
        return list(roles)
    return [("", *role[1:]) for role in roles if role[0] == component]


def _with(
    codes: Codes, quantized: Iterable[PlannedTensor], component: str | None
) -> Sequence[Allotment]:
    return [
        (tensor.component if component is None else component, tensor.name, *codes, "trial")
        for tensor in quantized
        if not tensor.fixed
    ]
