"""The exceptions of the package: one base class, one class per kind of failure.

Every exception also derives from the built-in class that fits it, so code that knows nothing of
this package can catch it. ``str(error)`` reads ``<where>: <what>`` and, on the lines after it, the
hint: the probable cause or the next step.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ArrowQuantError",
    "ConfigurationError",
    "MetadataError",
    "ModelNotFoundError",
    "OutputError",
    "QuantizationError",
    "ShapeMismatchError",
    "ValidationError",
]


class ArrowQuantError(Exception):
    """Base class of every error that the package raises on purpose.

    Parameters
    ----------
    message
        What is wrong and where: file, tensor, expected against found.
    path, tensor
        The file and the tensor that the error is about, or empty.
    hint
        The probable cause or the next step, or empty.

    Attributes
    ----------
    code : str
        Short name of the kind of failure; the same for every error of a class.
    exit_code : int
        What the ``arrow-quant`` command exits with.

    Examples
    --------
    >>> from arrow_quant_v2 import ArrowQuantError, DiffusionQuantConfig
    >>> try:
    ...     DiffusionQuantConfig(bit_width=3)
    ... except ArrowQuantError as error:
    ...     print(error.code, error.exit_code)
    configuration 2
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, path: str = "", tensor: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.tensor = tensor
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigurationError(ArrowQuantError, ValueError):
    """A setting is invalid, unknown, or contradicts another."""

    code = "configuration"
    exit_code = 2


class ModelNotFoundError(ArrowQuantError, FileNotFoundError):
    """A model, one of its files, or an artefact is absent or unreadable."""

    code = "model_not_found"
    exit_code = 3


class MetadataError(ArrowQuantError, ValueError):
    """A file is malformed."""

    code = "metadata"
    exit_code = 4


class ShapeMismatchError(ArrowQuantError, ValueError):
    """Sizes that must agree do not."""

    code = "shape_mismatch"
    exit_code = 4


class QuantizationError(ArrowQuantError, RuntimeError):
    """A weight cannot be quantized, or the wanted accuracy was missed with ``fail_fast``."""

    code = "quantization"
    exit_code = 5


class ValidationError(ArrowQuantError, ValueError):
    """An artefact is damaged, or was changed after it had been written."""

    code = "validation"
    exit_code = 6


class OutputError(ArrowQuantError, OSError):
    """The output cannot be written."""

    code = "output"
    exit_code = 7
