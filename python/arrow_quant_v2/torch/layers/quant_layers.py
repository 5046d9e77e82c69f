"""Layers whose weights stay packed: linear maps, convolutions, embeddings.

They take the place of the layers of ``torch.nn`` with the same arguments and the same result, up to
the rounding of the weight. The output has the type of the input, which may be any real
floating-point type.

Each is a subclass of the layer that it stands for, so that libraries treat it as one: PEFT wraps it
in the LoRA layer of that kind, which adds the product of the adapter to the output of the packed
layer. What would write into the weight is refused (:attr:`PackedWeight.data`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.torch.layers.execution import Execution
from arrow_quant_v2.torch.layers.packed_weight import PackedWeight
from arrow_quant_v2.torch.layers.time_parameters import TimeParameters
from arrow_quant_v2.torch.ops import library

__all__ = [
    "Execution",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantEmbedding",
    "QuantLinear",
    "quantized_layer",
    "replace_module",
]

_WEIGHT_ONLY = Execution()


class _QuantLayer(nn.Module):
    """What all layers share: the packed weight, the bias, the input made fit."""

    #: Dimension of the input that holds its channels.
    channel_dim: ClassVar[int] = -1

    def __init__(self, weight: PackedWeight, bias: Tensor | None, execution: Execution) -> None:
        nn.Module.__init__(self)  # that of the layer it stands for would make a float weight
        self.weight = weight
        self.register_parameter("bias", _frozen(bias))
        self.execution = execution
        self.time_parameters: TimeParameters | None = None
        #: Whether narrower inputs become float32, as where the class of the model wants it.
        self.takes_float32 = False

    @property
    def activation(self) -> str:
        """How this layer treats its input.

        Weight-only without an int8 form of the weight, without a static scale where one is wanted,
        and where 8 bits are too few.
        """
        return self.execution.activation if self._takes_int8 and not self.lacks_scales else "none"

    @property
    def _takes_int8(self) -> bool:
        return self.weight.fmt.has_int8_form and not self.weight.fmt.float_inputs

    @property
    def lacks_scales(self) -> bool:
        """Whether inputs are to have static scales, and calibration found none."""
        if self.execution.activation != "static" or not self._takes_int8:
            return False
        return self.time_parameters is None or not self.time_parameters.has_scales

    def _input(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise TypeError(f"{type(self).__name__}: expected floating point, found {x.dtype}")
        if x.device != self.weight.codes.device and not self.weight.is_put_aside:
            raise RuntimeError(
                f"{type(self).__name__}: input is on {x.device}, the weight on "
                f"{self.weight.device}. Move one of them with .to()."
            )
        if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(x.device.type))
        elif self.takes_float32 and x.dtype in (torch.float16, torch.bfloat16):
            x = x.to(torch.float32)
        factors = self.weight.factors(x.dtype)
        if factors is None:
            return x
        trailing = [1] * (x.dim() - 1 - self.channel_dim % x.dim())
        repeat = x.shape[self.channel_dim] // max(1, factors.numel())  # groups of a convolution
        return x / factors.repeat(repeat).view(-1, *trailing)

    def _biases(self, x: Tensor) -> tuple[Tensor | None, bool]:
        """The bias, and whether it has the output correction in it: that spares a pass over y."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        time = self.time_parameters
        added = None if time is None else time.common_bias(x)
        if added is None:
            return bias, time is None
        return (added if bias is None else bias + added).to(x.dtype), True

    def _rounded(self, x: Tensor) -> tuple[Tensor, str, Tensor | None]:
        """The input, what remains to be done with it, and its static scales if it has any.

        Static codes with a zero point become floats here: the int8 products have none.
        """
        activation, time = self.activation, self.time_parameters
        if activation != "static" or time is None:
            return x, activation, None
        if time.is_symmetric:
            return x, activation, time.activation_scale(x)
        return time.rounded(x), "none", None

    def _output(self, y: Tensor, channel_dim: int, corrected: bool) -> Tensor:
        if corrected or self.time_parameters is None:
            return y
        return self.time_parameters.corrected(y, channel_dim)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"bias={self.bias is not None}, activation={self.activation}"


class QuantLinear(_QuantLayer, nn.Linear):
    """``y = x @ W.T + b`` with packed W; input ``[..., in_features]``."""

    def __init__(
        self,
        weight: PackedWeight,
        bias: Tensor | None = None,
        execution: Execution = _WEIGHT_ONLY,
    ) -> None:
        super().__init__(weight, bias, execution)
        self.out_features, self.in_features = weight.fmt.rows, weight.fmt.cols

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise RuntimeError(
                f"QuantLinear: expected input [..., {self.in_features}], found {tuple(x.shape)}"
            )
        x, activation, scale = self._rounded(self._input(x))
        weight = self.weight.arguments()
        bias, corrected = self._biases(x)
        if activation == "none":
            y = library.linear_weight_only(x, *weight, bias)
        else:
            y = library.linear_int8(x, *weight, bias, scale, self.execution.keep_int8)
        return self._output(y, -1, corrected)


class _QuantConvNd(_QuantLayer):
    """Shared by convolutions and transposed ones; input ``[batch, channels, *sizes]``."""

    dims: ClassVar[int]
    transposed: ClassVar[bool] = False
    plain: ClassVar[type[nn.Module]]

    def __new__(cls, weight: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Make a layer; an ordinary one if it is given sizes in place of a weight.

        PEFT makes the two convolutions of an adapter as ``type(layer)(in, out, ...)``.
        """
        if isinstance(weight, int):
            return cls.plain(weight, *args, **kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        weight: PackedWeight,
        bias: Tensor | None = None,
        execution: Execution = _WEIGHT_ONLY,
        *,
        stride: tuple[int, ...] = (),
        padding: tuple[int, ...] | str = (),
        dilation: tuple[int, ...] = (),
        groups: int = 1,
        padding_mode: str = "zeros",
        output_padding: tuple[int, ...] = (),
    ) -> None:
        super().__init__(weight, bias, execution)
        shape = weight.fmt.shape
        self.kernel_size = tuple(shape[2:])
        self.stride = tuple(stride) or (1,) * self.dims
        self.dilation = tuple(dilation) or (1,) * self.dims
        self.padding = padding if isinstance(padding, str) else tuple(padding) or (0,) * self.dims
        self.output_padding = tuple(output_padding) or (0,) * self.dims
        self.groups = groups
        self.padding_mode = padding_mode
        by_group = shape[1] * groups
        self.in_channels, self.out_channels = (
            (shape[0], by_group) if self.transposed else (by_group, shape[0])
        )

    @property
    def channel_dim(self) -> int:  # type: ignore[override]
        """Counted from the end, so that inputs without a batch dimension fit."""
        return -1 - self.dims

    def _checked(self, x: Tensor) -> Tensor:
        dims = (self.dims + 1, self.dims + 2)
        if x.dim() not in dims or x.shape[self.channel_dim] != self.in_channels:
            raise RuntimeError(
                f"{type(self).__name__}: expected input [batch, {self.in_channels}, "
                f"*{self.dims} sizes], found {tuple(x.shape)}"
            )
        return self._input(x)


class _QuantConv(_QuantConvNd):
    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        x = self._checked(x)
        unbatched = x.dim() == self.dims + 1
        x, activation, scale = self._rounded(x.unsqueeze(0) if unbatched else x)
        x, padding = self._padded(x)
        bias, corrected = self._biases(x)
        if activation == "none":
            y = _FUNCTIONS[self.dims](
                x,
                self.weight.stored(x.dtype),
                bias,
                self.stride,
                padding,
                self.dilation,
                self.groups,
            )
        else:
            y = library.conv_int8(
                x,
                *self.weight.arguments(),
                self.kernel_size,
                bias,
                scale,
                self.stride,
                padding,
                self.dilation,
                self.groups,
                self.execution.keep_int8,
            )
        y = self._output(y, self.channel_dim, corrected)
        return y.squeeze(0) if unbatched else y

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The input, padded here where the product cannot, and what is left to pad."""
        pads = self._pads()
        symmetric = all(before == after for before, after in pads)
        if self.padding_mode == "zeros" and symmetric:
            return x, tuple(before for before, _ in pads)
        flat = [side for pad in reversed(pads) for side in pad]
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return functional.pad(x, flat, mode=mode), (0,) * self.dims

    def _pads(self) -> list[tuple[int, int]]:
        if self.padding == "valid":
            return [(0, 0)] * self.dims
        if self.padding == "same":
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return [(total // 2, total - total // 2) for total in totals]
        return [(int(p), int(p)) for p in self.padding]


class QuantConv1d(_QuantConv, nn.Conv1d):
    """``torch.nn.Conv1d`` with a packed weight."""

    dims = 1
    plain = nn.Conv1d


class QuantConv2d(_QuantConv, nn.Conv2d):
    """``torch.nn.Conv2d`` with a packed weight."""

    dims = 2
    plain = nn.Conv2d


class QuantConv3d(_QuantConv, nn.Conv3d):
    """``torch.nn.Conv3d`` with a packed weight."""

    dims = 3
    plain = nn.Conv3d


class _QuantConvTranspose(_QuantConvNd):
    transposed = True

    @property
    def activation(self) -> str:
        """Transposed convolutions are weight-only."""
        return "none"

    @property
    def lacks_scales(self) -> bool:
        """They need none."""
        return False

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve."""
        if output_size is not None:
            raise ConfigurationError(f"{type(self).__name__}: output_size is not supported")
        x = self._checked(x)
        bias, corrected = self._biases(x)
        y = _TRANSPOSED[self.dims](
            x,
            self.weight.stored(x.dtype),
            bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )
        return self._output(y, self.channel_dim, corrected)


class QuantConvTranspose1d(_QuantConvTranspose, nn.ConvTranspose1d):
    """``torch.nn.ConvTranspose1d`` with a packed weight."""

    dims = 1
    plain = nn.ConvTranspose1d


class QuantConvTranspose2d(_QuantConvTranspose, nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` with a packed weight."""

    dims = 2
    plain = nn.ConvTranspose2d


class QuantConvTranspose3d(_QuantConvTranspose, nn.ConvTranspose3d):
    """``torch.nn.ConvTranspose3d`` with a packed weight."""

    dims = 3
    plain = nn.ConvTranspose3d


class QuantEmbedding(nn.Embedding):
    """``torch.nn.Embedding`` with a packed table; only the rows that are looked up are unpacked."""

    def __init__(self, weight: PackedWeight, padding_idx: int | None = None) -> None:
        nn.Module.__init__(self)  # that of an ordinary one would make a float table
        self.weight = weight
        self.num_embeddings, self.embedding_dim = weight.fmt.rows, weight.fmt.cols
        self.padding_idx = padding_idx
        self.max_norm, self.norm_type = None, 2.0
        self.scale_grad_by_freq = self.sparse = False

    def forward(self, ids: Tensor) -> Tensor:
        """Look up."""
        if ids.is_floating_point():
            raise TypeError(f"QuantEmbedding: expected integer ids, found {ids.dtype}")
        found: Tensor = library.embedding(ids, *self.weight.arguments(), self.weight.dtype)
        factors = self.weight.factors(found.dtype)
        return found if factors is None else found / factors


_FUNCTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: dict[int, Any] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_BY_LAYER: dict[type[nn.Module], type[_QuantConvNd]] = {
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.Conv3d: QuantConv3d,
    nn.ConvTranspose1d: QuantConvTranspose1d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
    nn.ConvTranspose3d: QuantConvTranspose3d,
}


def quantized_layer(
    layer: nn.Module, weight: PackedWeight, execution: Execution
) -> nn.Module | None:
    """The layer that stands in for `layer`; None where there is none.

    A subclass that computes something of its own has none, as nobody knows what it does.
    """
    if _computes_as(layer, nn.Linear):
        return QuantLinear(weight, layer.bias, execution)
    if _computes_as(layer, nn.Embedding):
        if layer.max_norm is not None:
            return None
        return QuantEmbedding(weight, layer.padding_idx)
    for kind, replacement in _BY_LAYER.items():
        if _computes_as(layer, kind):
            if replacement.transposed and weight.fmt.equalized:
                return None  # its columns are no input channels
            return replacement(
                weight,
                layer.bias,
                execution,
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
                groups=layer.groups,
                padding_mode=layer.padding_mode,
                output_padding=layer.output_padding,
            )
    return None


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where the module or parameter `name` is."""
    path, _, leaf = name.rpartition(".")
    parent = model.get_submodule(path)
    parent._parameters.pop(leaf, None)
    setattr(parent, leaf, module)


def _computes_as(layer: Any, kind: Any) -> bool:
    return isinstance(layer, kind) and type(layer).forward is kind.forward


def _frozen(bias: Tensor | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
