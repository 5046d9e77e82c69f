"""Which subject a model directory is, and loading it.

A directory is a pipeline (``model_index.json``), a transformers model (``config.json``), a
third-party model of ``../shared/real-models``, or an artefact with ``manifest.json`` of any of
these, which is dequantized to float32 in a temporary folder first.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

from zoo.evaluate.measure import Candidate
from zoo.evaluate.subject import Subject
from zoo.evaluate.tensors import is_autoencoder, single_file, tensor_names

MANIFEST = "manifest.json"
WEIGHT_FILES = ("*.safetensors", "*.parquet", "*.bin")

#: Subjects by `_class_name` of model_index.json. Imported when used: each needs its own libraries.
BY_PIPELINE = {
    "DDPMPipeline": "zoo.evaluate.images:UNetSubject",
    "DanceDiffusionPipeline": "zoo.evaluate.audio:AudioSubject",
    "DiTPipeline": "zoo.evaluate.images:DiTSubject",
}
#: Subjects by an entry of `architectures` in config.json.
BY_ARCHITECTURE = {
    "BertForMaskedLM": "zoo.evaluate.language:LanguageSubject",
    "ModernBertForMaskedLM": "zoo.evaluate.language:LanguageSubject",
}
#: Subjects of a folder with one .safetensors file, by the name of a tensor.
BY_TENSOR = {
    "network.time_embed.weight": "zoo.evaluate.pixel_ddpm:PixelDdpmSubject",
    "diffmodel.input_projection.weight": "zoo.evaluate.series:SeriesSubject",
}
AUTOENCODER = "zoo.evaluate.autoencoder:AutoencoderSubject"


class UnknownModelError(ValueError):
    """The directory is of no layout that can be evaluated."""


def load(directory: Path) -> Candidate:
    """Load a model directory, float or quantized.

    Raises
    ------
    FileNotFoundError
        There is no such directory.
    UnknownModelError
        No subject measures a model of this layout.
    """
    if not directory.is_dir():
        raise FileNotFoundError(
            f"{directory}: no such directory. Pass the folder of a model or of an artefact."
        )
    return Candidate(str(directory), _load_subject(directory), weight_bytes(directory))


def weight_bytes(directory: Path) -> int:
    """Size of the files that hold weights; links count as what they lead to."""
    return sum(f.stat().st_size for pattern in WEIGHT_FILES for f in directory.rglob(pattern))


def _load_subject(directory: Path) -> Subject:
    if (directory / MANIFEST).is_file():
        from arrow_quant_v2 import export_safetensors

        with tempfile.TemporaryDirectory(prefix="zoo-evaluate-") as folder:
            exported = export_safetensors(directory, Path(folder) / "model", dtype="float32")
            return _load_subject(exported)
    module, name = subject_of(directory).split(":")
    subject: Subject = getattr(importlib.import_module(module), name).load(directory)
    return subject


def subject_of(directory: Path) -> str:
    """Find "module:class" of the subject that measures this layout.

    Raises
    ------
    UnknownModelError
        There is none.
    """
    index, config = directory / "model_index.json", directory / "config.json"
    if index.is_file():
        name = _json(index).get("_class_name")
        if name in BY_PIPELINE:
            return BY_PIPELINE[name]
        raise UnknownModelError(
            f"{index}: _class_name is {name!r}; evaluation knows {sorted(BY_PIPELINE)}"
        )
    if config.is_file():
        architectures = _json(config).get("architectures") or []
        for name in architectures:
            if name in BY_ARCHITECTURE:
                return BY_ARCHITECTURE[name]
        raise UnknownModelError(
            f"{config}: architectures are {architectures}; evaluation knows "
            f"{sorted(BY_ARCHITECTURE)}"
        )
    path = single_file(directory)
    if path is not None:
        names = tensor_names(path)
        for name, subject in BY_TENSOR.items():
            if name in names:
                return subject
        raise UnknownModelError(
            f"{path}: evaluation knows networks with a tensor {' or '.join(BY_TENSOR)}"
        )
    if is_autoencoder(directory):
        return AUTOENCODER
    raise UnknownModelError(
        f"{directory}: found neither model_index.json nor config.json nor {MANIFEST}. Pass the "
        "folder of a whole pipeline, not of one component."
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise UnknownModelError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UnknownModelError(f"{path}: expected an object, found {type(found).__name__}")
    return found
