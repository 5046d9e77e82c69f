"""Whether a model can be run here to calibrate on it, told from its files alone, without torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.text_families import family_of

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


def detect_model_kind(path: Path, *, trust_remote_code: bool = False) -> ModelKind:
    """A diffusers pipeline, a denoiser inside one, or a masked language model.

    Masked language models are those of transformers, those of a family in
    :mod:`arrow_quant_v2.text_families`, and with `trust_remote_code` any that bring their code.

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
    config = read_json(path / "config.json") if os.path.isfile(path / "config.json") else {}
    if _is_masked_language_model(config, trust_remote_code):
        return "masked_language"
    architectures = config.get("architectures")
    if config.get("auto_map"):
        raise CannotRunError(
            f"the class {architectures} is none of a library, and the code that the folder brings "
            "is not run",
            hint="Read that code; trust_remote_code=True (--trust-remote-code) runs it.\n" + _HINT,
        )
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


def _is_masked_language_model(config: dict[str, Any], trust_remote_code: bool) -> bool:
    family = family_of(config)
    if family is not None:
        unlike = family.unlike(config)
        if unlike:
            raise CannotRunError(unlike, hint=_HINT)
        return True
    names = config.get("architectures")
    if isinstance(names, list) and any(str(name).endswith("ForMaskedLM") for name in names):
        return True
    return trust_remote_code and bool(config.get("auto_map"))


def read_json(path: Path) -> dict[str, Any]:
    """An object in a JSON file; anything else is empty."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CannotRunError(f"{path}: not JSON: {error}") from error
    return found if isinstance(found, dict) else {}
