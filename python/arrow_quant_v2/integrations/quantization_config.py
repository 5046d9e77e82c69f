"""The configuration that diffusers and transformers hand around, and what both plug-ins do."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.integrations.packed_model import describe
from arrow_quant_v2.tensors.weight_format import FORMAT_VERSION, QUANT_METHOD
from arrow_quant_v2.torch.layers.execution import Execution, execution_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["QuantMethod", "Settings"]


class QuantMethod(str, Enum):
    """What ``quant_method`` in ``config.json`` says."""

    ARROW_QUANT = QUANT_METHOD


class Settings:
    """How a model is, or shall be, quantized, and how its layers compute.

    Parameters
    ----------
    bits
        2, 4 or 8; for ``quantization_config=`` of a model that is not quantized yet.
    activation, compute
        As in :func:`arrow_quant_v2.load_quantized`; ``"float"`` is not for plug-ins.
    layers
        The packed layers, as an export lists them; None quantizes on load.
    format_version
        Version of the packed export.
    quant_method
        Name of this plug-in in ``config.json``.
    quantization
        Further fields of :class:`~arrow_quant_v2.DiffusionQuantConfig`, for quantizing on load.
    """

    def __init__(
        self,
        bits: int = 4,
        activation: str | None = None,
        compute: str = "auto",
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        format_version: int = FORMAT_VERSION,
        quant_method: str = QUANT_METHOD,
        quantization: Mapping[str, Any] | None = None,
    ) -> None:
        if format_version != FORMAT_VERSION:
            raise ConfigurationError(
                f"packed weights of format version {format_version}, expected {FORMAT_VERSION}",
                hint="Install a newer arrow-quant-v2.",
            )
        if compute == "float":
            raise ConfigurationError("compute='float' is not for packed weights")
        self.quant_method = QuantMethod(quant_method)
        self.bits = bits
        self.activation = activation
        self.compute = compute
        self.layers = None if layers is None else {name: dict(f) for name, f in layers.items()}
        self.format_version = format_version
        self.quantization = dict(quantization or {})
        self.quantizer_config()
        self.execution("cpu")

    @classmethod
    def of_model(cls, model: nn.Module, execution: Execution) -> Self:
        """What describes a model whose layers are packed already.

        Parameters
        ----------
        model
            Its quantized layers are described.
        execution
            How they compute.
        """
        compute = "int8" if execution.keep_int8 else "packed"
        return cls(activation=execution.activation, compute=compute, layers=describe(model))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        fields = {**copy.deepcopy(self.__dict__), "quant_method": self.quant_method.value}
        return {key: value for key, value in fields.items() if value not in (None, {})}

    def to_diff_dict(self) -> dict[str, Any]:
        """The same: there is no default to differ from."""
        return self.to_dict()

    def __repr__(self) -> str:
        layers = "to be quantized" if self.layers is None else f"{len(self.layers)} packed layers"
        return (
            f"{type(self).__name__}(bits={self.bits}, activation={self.activation!r}, "
            f"compute={self.compute!r}, {layers})"
        )

    def quantizer_config(self) -> DiffusionQuantConfig:
        """Settings of the quantizer."""
        fields: dict[str, Any] = {"bit_width": self.bits, **self.quantization}
        config = DiffusionQuantConfig(**fields)
        if config.fold_equalization:
            raise ConfigurationError(
                "fold_equalization needs calibration, and models that load are quantized without",
                hint="Quantize with 'arrow-quant quantize' and export as 'packed'.",
            )
        return config

    def execution(self, device: Any) -> Execution:
        """How layers on `device` compute."""
        return execution_of(torch.device(device), self.activation, self.compute)
