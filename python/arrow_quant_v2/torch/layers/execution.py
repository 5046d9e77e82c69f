"""How quantized layers compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from arrow_quant_v2.errors import ConfigurationError

__all__ = ["Execution", "execution_of"]

ACTIVATIONS = ("none", "dynamic", "static")
COMPUTES = ("auto", "packed", "int8", "float")


@dataclass(frozen=True)
class Execution:
    """How layers compute.

    Attributes
    ----------
    activation
        ``"none"`` multiplies in the type of the input; ``"dynamic"`` and ``"static"`` turn inputs
        into int8, by their own range or by the calibrated range of the diffusion time.
    keep_int8
        Whether the int8 form of a weight is kept beside the packed one (faster, more memory).
    """

    activation: str = "none"
    keep_int8: bool = False


def execution_of(device: torch.device, activation: str | None, compute: str) -> Execution:
    """What the arguments of :func:`load_quantized` mean for layers on `device`.

    Raises
    ------
    ConfigurationError
        They are invalid or contradict each other.
    """
    if compute not in COMPUTES:
        raise ConfigurationError(f"Invalid compute: {compute!r}. Must be one of {COMPUTES}.")
    if activation is None:
        activation = "dynamic" if compute == "int8" else "none"
    if activation not in ACTIVATIONS:
        raise ConfigurationError(
            f"Invalid activation: {activation!r}. Must be one of {ACTIVATIONS}."
        )
    if activation == "none" and compute == "int8":
        raise ConfigurationError(
            "compute='int8' multiplies int8 activations, but activation is 'none'",
            hint="Choose activation='dynamic' or 'static', or compute='packed'.",
        )
    if activation != "none" and compute == "float":
        raise ConfigurationError(
            f"compute='float' has no int8 activations, but activation is {activation!r}"
        )
    on_cpu = device.type == "cpu"
    keep = compute == "int8" or (compute == "auto" and activation != "none")
    return Execution(activation, keep and on_cpu)
