"""Models whose layers are packed: made empty for a loader to fill, made from floats, described."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from arrow_quant_v2._native import core
from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.plan.engine_options import plan_options
from arrow_quant_v2.quantize.array_quantizer import quantize_planned
from arrow_quant_v2.tensors.weight_format import WeightFormat
from arrow_quant_v2.torch.build.float32_parts import float32_parts
from arrow_quant_v2.torch.layers.adapters import accept_adapters
from arrow_quant_v2.torch.layers.clock import Clock, clock_of
from arrow_quant_v2.torch.layers.execution import Execution
from arrow_quant_v2.torch.layers.packed_weight import PackedWeight
from arrow_quant_v2.torch.layers.quant_layers import quantized_layer, replace_module
from arrow_quant_v2.torch.layers.time_parameters import TimeParameters
from arrow_quant_v2.torch.ops.attention_gelu import compute_by_engine
from arrow_quant_v2.torch.text_models.experts import has_own_experts, separate_experts

__all__ = ["describe", "finish", "pack", "plan", "prepare"]

_SUFFIX = ".weight"


def prepare(
    model: nn.Module,
    layers: Mapping[str, Mapping[str, Any]],
    *,
    dtype: torch.dtype,
    execution: Execution,
) -> None:
    """Replace the layers that `layers` describes by packed ones without numbers.

    Raises
    ------
    ConfigurationError
        The model has no such layer, or a layer that has no packed form.
    """
    if has_own_experts(f"{name}." for name in layers):
        separate_experts(model)
    clock: Clock | None = None
    is_float32 = float32_parts(model)
    for name, fields in layers.items():
        shapes = dict(fields).get("time_parameters")
        fmt = WeightFormat.from_dict({k: v for k, v in fields.items() if k != "time_parameters"})
        wide = is_float32(name + _SUFFIX, dtype)
        weight = PackedWeight.empty(fmt, dtype=torch.float32 if wide else dtype)
        new = _stand_in(model, name, weight, execution)
        new.takes_float32 = wide
        if shapes is not None:
            if clock is None:
                clock = clock_of(model, Path(str(getattr(model, "name_or_path", ""))))
                clock.watch(model)
            new.time_parameters = TimeParameters.empty(shapes, clock)


def plan(model: nn.Module, config: DiffusionQuantConfig) -> dict[str, core.AffineSpec]:
    """What quantization of `model` would do: what each quantized weight becomes, by its name."""
    names = {
        name: list(parameter.shape)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    # The modality decides nothing about a tensor, and not every class tells it.
    known = config if config.modality else config.model_copy(update={"modality": "image"})
    options = plan_options(known)
    found = core.plan_tensors(_config_json(model), list(names.items()), options)
    return {
        tensor.name: tensor.spec
        for tensor in found.tensors
        if tensor.quantized and _is_packable(model, tensor.name)
    }


def pack(
    model: nn.Module,
    name: str,
    weight: torch.Tensor,
    spec: core.AffineSpec,
    *,
    dtype: torch.dtype,
    execution: Execution,
) -> None:
    """Quantize the weight of one layer and replace the layer; `name` is that of the weight."""
    tensor = quantize_planned(name, weight.detach().cpu(), spec)
    _stand_in(model, name.removesuffix(_SUFFIX), PackedWeight.from_tensor(tensor, dtype), execution)


def finish(model: nn.Module) -> nn.Module:
    """What a model with packed layers needs beside their numbers."""
    compute_by_engine(model)
    accept_adapters(model)
    return model.requires_grad_(False)


def describe(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The packed layers of a model, as :func:`prepare` takes them."""
    layers: dict[str, dict[str, Any]] = {}
    for name, module in model.named_modules():
        if isinstance(module, PackedWeight):
            layer = name.removesuffix(_SUFFIX)
            layers[layer] = module.fmt.to_dict()
            time = getattr(model.get_submodule(layer), "time_parameters", None)
            if time is not None:
                buffers = dict(time.named_buffers())
                layers[layer]["time_parameters"] = {k: list(b.shape) for k, b in buffers.items()}
    return layers


def _stand_in(model: nn.Module, name: str, weight: PackedWeight, execution: Execution) -> Any:
    try:
        old = model.get_submodule(name)
    except AttributeError as error:
        raise ConfigurationError(
            f"{type(model).__name__}: has no layer '{name}', which the file holds packed",
            hint="Is this the class that the model was exported from?",
        ) from error
    new = quantized_layer(old, weight, execution)
    if new is None:
        raise ConfigurationError(
            f"{type(model).__name__}: layer '{name}' is a {type(old).__name__}, which has no "
            "packed form",
            hint="Export the artefact with --format safetensors.",
        )
    new.train(old.training)
    replace_module(model, name, new)
    return new


def _is_packable(model: nn.Module, name: str) -> bool:
    layer = model.get_submodule(name.rpartition(".")[0])
    fmt = WeightFormat((1, 8), 8, 8, "row")
    return name.endswith(_SUFFIX) and (
        quantized_layer(layer, PackedWeight.empty(fmt), Execution()) is not None
    )


def _config_json(model: nn.Module) -> str:
    config = getattr(model, "config", None)
    if config is None:
        return ""
    fields = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    plain = {key: fields[key] for key in ("_class_name", "architectures") if key in fields}
    return json.dumps(plain or {"_class_name": type(model).__name__})
