"""A float network that predicts with weights of an artefact in place of its own.

Slower than packed layers, but any weight can still be another one, and gradients reach it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from arrow_quant_v2.tensors.tensor import QuantizedTensor
from arrow_quant_v2.tensors.weight_format import format_of
from arrow_quant_v2.torch.compare.time_bins import first_output
from arrow_quant_v2.torch.layers.clock import Clock, timestep
from arrow_quant_v2.torch.layers.packed_weight import PackedWeight
from arrow_quant_v2.torch.layers.quant_layers import Execution, quantized_layer
from arrow_quant_v2.torch.layers.time_parameters import TimeParameters
from arrow_quant_v2.torch.record.trajectory import Batch

__all__ = ["QuantizedNetwork", "replaced", "restored"]


class QuantizedNetwork:
    """The network as it is after the artefact is loaded.

    Parameters
    ----------
    network
        The float network, its parameters by the names of `tensors`. It is not changed.
    tensors
        What is stored of it.

    Attributes
    ----------
    weights
        In place of the network's own, by name.
    """

    def __init__(self, network: nn.Module, tensors: Mapping[str, QuantizedTensor]) -> None:
        self._network = network
        by_time = {n for n in tensors if _runs_packed(network, n, tensors[n])}
        self.weights = restored(network, tensors, without_bias=by_time)
        self._corrections: list[tuple[nn.Module, TimeParameters, int]] = []
        for name in by_time & self.weights.keys():
            tensor = tensors[name]
            if tensor.mean_output_bias is None:
                continue
            layer = network.get_submodule(name.rpartition(".")[0])
            time = TimeParameters.from_groups(tensor.time_groups, Clock())
            channel_dim = -1 if len(tensor.shape) == 2 else 1 - len(tensor.shape)
            self._corrections.append((layer, time, channel_dim))

    def predict(self, batch: Batch, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The first output; `weights` come before those of the artefact."""
        used = {**self.weights, **(weights or {})}
        with self._corrected(), timestep(batch.times()):
            output: Any = functional_call(self._network, used, batch.args, dict(batch.kwargs))
        return first_output(output)

    @contextlib.contextmanager
    def _corrected(self) -> Iterator[None]:
        """Layers add their biases by time."""

        def hook(time: TimeParameters, channel_dim: int) -> Any:
            return lambda layer, inputs, output: time.corrected(output, channel_dim)

        handles = [
            layer.register_forward_hook(hook(time, channel_dim))
            for layer, time, channel_dim in self._corrections
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def restored(
    network: nn.Module,
    tensors: Mapping[str, QuantizedTensor],
    without_bias: frozenset[str] | set[str] = frozenset(),
) -> dict[str, Tensor]:
    """What the parameters of `network` become: restored weights, and biases with what they take up.

    Biases by time count with their mean, but for the weights `without_bias`.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    found: dict[str, Tensor] = {}
    for name in tensors:
        tensor = tensors[name]
        if not tensor.is_quantized or name not in parameters:
            continue
        found[name] = torch.from_numpy(tensor.dequantize()).to(parameters[name])
        bias = name.removesuffix("weight") + "bias"
        mean = tensor.mean_output_bias
        if mean is not None and name not in without_bias and bias in parameters:
            own = parameters[bias].detach()
            found[bias] = own + torch.from_numpy(mean).to(own)
    return found


@contextlib.contextmanager
def replaced(network: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """`network` with these in place of its own weights, by their names."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    own = {name: parameters[name].data for name in weights}
    try:
        for name, weight in weights.items():
            parameters[name].data = weight.to(own[name]).reshape(own[name].shape)
        yield
    finally:
        for name, weight in own.items():
            parameters[name].data = weight


def _runs_packed(network: nn.Module, name: str, tensor: QuantizedTensor) -> bool:
    """Whether a layer runs on packed weights when the artefact is loaded, as :mod:`fit` decides."""
    path, _, leaf = name.rpartition(".")
    if not tensor.is_quantized or leaf != "weight" or not path:
        return False
    try:
        layer = network.get_submodule(path)
    except AttributeError:
        return False
    if isinstance(network.get_submodule(path.rpartition(".")[0]), nn.MultiheadAttention):
        return False
    return quantized_layer(layer, PackedWeight.empty(format_of(tensor)), Execution()) is not None
