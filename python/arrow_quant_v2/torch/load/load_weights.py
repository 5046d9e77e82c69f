"""Puts the tensors of an artefact into the modules of a model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from arrow_quant_v2.caller_warnings import warn_caller
from arrow_quant_v2.errors import ShapeMismatchError
from arrow_quant_v2.tensors.tensor import QuantizedTensor
from arrow_quant_v2.torch.build.float32_parts import float32_parts
from arrow_quant_v2.torch.layers.clock import Clock
from arrow_quant_v2.torch.layers.execution import Execution
from arrow_quant_v2.torch.layers.packed_experts import PackedExperts
from arrow_quant_v2.torch.layers.packed_weight import PackedWeight, as_tensor
from arrow_quant_v2.torch.layers.quant_layers import quantized_layer, replace_module
from arrow_quant_v2.torch.layers.time_parameters import TimeParameters
from arrow_quant_v2.torch.load.float_types import source_dtype
from arrow_quant_v2.torch.record.library_names import library_names, missing_names

__all__ = ["fit"]

#: Threads that read tensors while layers are made, and how many tensors they are ahead.
_READERS = 2
_AHEAD = 4


def fit(
    model: nn.Module,
    tensors: Mapping[str, QuantizedTensor],
    *,
    dtype: torch.dtype | None,
    execution: Execution,
    as_floats: bool = False,
    clock: Clock | None = None,
) -> None:
    """Give `model` the weights of `tensors`, layer by layer, packed where a layer can be.

    Parameters
    ----------
    model
        Its parameters may be on the meta device; layers with packed weights are replaced.
    tensors
        By the names of the model's parameters and buffers.
    dtype
        Of floating-point tensors that are kept; None leaves them as they are stored. What the
        class of the model keeps in float32 is float32.
    execution
        How quantized layers compute.
    as_floats
        Restore every weight as an ordinary parameter instead.
    clock
        Where layers with time groups learn the diffusion time.

    Raises
    ------
    ShapeMismatchError
        Names or shapes of the model and the tensors differ.
    """
    names = _names_in(model, tensors)
    corrections: dict[str, npt.NDArray[np.float32]] = {}
    is_float32 = float32_parts(model)
    for stored, tensor in _read_ahead(tensors, names):  # released when its layer has taken it over
        name = names[stored]
        _check_shape(model, name, tensor)
        kind = dtype or source_dtype(tensor)
        wide = is_float32(name, kind)
        if not tensor.is_quantized:
            _set(model, name, _kept(tensor, torch.float32 if wide else dtype))
        elif as_floats or not _replace(model, name, tensor, kind, wide, execution, clock):
            floats = torch.from_numpy(tensor.dequantize())
            _set(model, name, floats.to(torch.float32 if wide else kind))
            if tensor.mean_output_bias is not None:
                corrections[name.removesuffix("weight") + "bias"] = tensor.mean_output_bias
    _correct(model, corrections)


def _read_ahead(
    tensors: Mapping[str, QuantizedTensor], names: Iterable[str]
) -> Iterator[tuple[str, QuantizedTensor]]:
    """All tensors in order, the next few being read meanwhile."""
    with ThreadPoolExecutor(_READERS) as readers:
        waiting: deque[tuple[str, QuantizedTensor, Future[None]]] = deque()
        for name in names:
            tensor = tensors[name]
            waiting.append((name, tensor, readers.submit(tensor.preload)))
            if len(waiting) > _AHEAD:
                yield _when_read(*waiting.popleft())
        while waiting:
            yield _when_read(*waiting.popleft())


def _when_read(
    name: str, tensor: QuantizedTensor, reading: Future[None]
) -> tuple[str, QuantizedTensor]:
    reading.result()
    return name, tensor


def _replace(
    model: nn.Module,
    name: str,
    tensor: QuantizedTensor,
    dtype: torch.dtype,
    wide: bool,
    execution: Execution,
    clock: Clock | None,
) -> bool:
    if tensor.row_dimensions > 1:
        experts = PackedExperts.from_tensor(tensor, torch.float32 if wide else dtype)
        replace_module(model, name, experts)
        return True
    path, _, leaf = name.rpartition(".")
    parent = model.get_submodule(path.rpartition(".")[0])
    if leaf != "weight" or not path or isinstance(parent, nn.MultiheadAttention):
        return False
    if tensor.param_encoding is None:
        return False  # of an old layout, which has no packed layers
    old = model.get_submodule(path)
    weight = PackedWeight.from_tensor(tensor, torch.float32 if wide else dtype)
    new = quantized_layer(old, weight, execution)
    if new is None:
        return False
    new.takes_float32 = wide
    groups = tensor.time_groups
    if groups and clock is not None and hasattr(new, "time_parameters"):
        new.time_parameters = TimeParameters.from_groups(groups, clock)
    new.train(old.training)
    replace_module(model, path, new)
    return True


def _correct(model: nn.Module, corrections: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Add to biases what makes up for the mean error of weights that know no time."""
    for name, correction in corrections.items():
        path, _, leaf = name.rpartition(".")
        bias = model.get_submodule(path)._parameters.get(leaf)
        if bias is not None and bias.shape == correction.shape:
            _set(model, name, (bias.float() + torch.from_numpy(correction)).to(bias.dtype))


def _kept(tensor: QuantizedTensor, dtype: torch.dtype | None) -> Tensor:
    array = np.asarray(tensor)
    if array.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        kind = getattr(torch, array.dtype.name)
        found = as_tensor(array.view(np.uint8).reshape(-1)).view(kind).view(array.shape)
    else:
        found = as_tensor(array.reshape(-1)).view(array.shape)
    return found.to(dtype) if dtype is not None and found.is_floating_point() else found


def _set(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._buffers:
        module._buffers[leaf] = value
    else:
        module._parameters[leaf] = nn.Parameter(value, requires_grad=False)


def _names_in(model: nn.Module, tensors: Iterable[str]) -> dict[str, str]:
    """The names of the tensors that the model has, and what it calls them.

    A model that lacks nothing does without the others; one warning names them.
    """
    names = library_names(model, tensors)
    known = {name for name, _ in _named(model)}
    unknown = sorted(old for old, new in names.items() if new not in known)
    if unknown and not missing_names(model, names.values()):
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        warn_caller(
            f"{type(model).__name__} does not use all tensors of the artefact; left out: "
            f"{unknown[0]}{more}"
        )
    elif unknown:
        raise ShapeMismatchError(
            f"{type(model).__name__}: the artefact has {len(unknown)} tensors that the model has "
            f"not, the first is '{unknown[0]}'",
            tensor=unknown[0],
            hint="Is this the module that the artefact was made from?",
        )
    return {old: new for old, new in names.items() if new in known}


def _check_shape(model: nn.Module, name: str, tensor: QuantizedTensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    expected: Any = module._parameters.get(leaf, module._buffers.get(leaf))
    if expected is not None and tuple(expected.shape) != tuple(tensor.shape):
        raise ShapeMismatchError(
            f"tensor '{name}': the model has shape {tuple(expected.shape)}, the artefact "
            f"{tuple(tensor.shape)}",
            tensor=name,
        )


def _named(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
