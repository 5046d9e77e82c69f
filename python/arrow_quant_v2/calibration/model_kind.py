"""Whether a model can be run here to calibrate on it, told from its files alone, without torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from arrow_quant_v2.errors import ConfigurationError

__all__ = [
    "CannotRunError",
    "ModelKind",
    "detect_model_kind",
    "library_missing",
    "missing_components",
    "read_json",
]

ModelKind = Literal["pipeline", "denoiser", "masked_language"]

#: Components that a pipeline does without.
_OPTIONAL = frozenset(("safety_checker", "feature_extractor", "image_encoder"))

_HINT = "arrow_quant_v2.torch.calibrate(module, batches, path) calibrates any torch module."


class CannotRunError(ConfigurationError):
    """The model cannot be run here; quantization goes on without calibration and says why."""


def library_missing(error: ImportError) -> CannotRunError:
    """Say that the model needs a library, and how to get it."""
    return CannotRunError(
        f"a library of the model is missing: {error}", hint="pip install 'arrow-quant-v2[models]'"
    )


def detect_model_kind(path: Path) -> ModelKind:
    """A diffusers pipeline, a denoiser inside one, or a masked language model of transformers.

    Raises
    ------
    CannotRunError
        None of them.
    """
    # os.path, unlike Path, never raises: a path that cannot be followed is no model.
    if os.path.isfile(path):
        raise CannotRunError(f"{path.name} is one weight file: its class is not known", hint=_HINT)
    if os.path.isfile(path / "model_index.json"):
        _check_complete(path)
        return "pipeline"
    if os.path.isfile(path.absolute().parent / "model_index.json"):
        _check_complete(path.absolute().parent)
        return "denoiser"
    config = path / "config.json"
    architectures = read_json(config).get("architectures") if os.path.isfile(config) else None
    if isinstance(architectures, list) and any(
        str(name).endswith("ForMaskedLM") for name in architectures
    ):
        return "masked_language"
    found = f"architectures {architectures}" if architectures else "no class that is known here"
    raise CannotRunError(
        f"expected a diffusers pipeline or a transformers masked language model, found {found}",
        hint=_HINT,
    )


def _check_complete(pipeline: Path) -> None:
    """Raise CannotRunError where a component that the pipeline names has no folder."""
    missing = missing_components(pipeline)
    if missing:
        raise CannotRunError(
            f"the pipeline names components that are not there: {', '.join(missing)}",
            hint="Download the whole pipeline.",
        )


def missing_components(pipeline: Path) -> list[str]:
    """Components that ``model_index.json`` names and that have no folder beside it."""
    index = read_json(pipeline / "model_index.json")
    return [
        name
        for name, value in index.items()
        if isinstance(value, list)
        and all(isinstance(part, str) for part in value)
        and name not in _OPTIONAL
        and not os.path.isdir(pipeline / name)
    ]


def read_json(path: Path) -> dict[str, Any]:
    """An object in a JSON file; anything else is empty."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CannotRunError(f"{path}: not JSON: {error}") from error
    return found if isinstance(found, dict) else {}
