"""From what a user typed to a description of the model, without reading weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from arrow_quant_v2.model.description import (
    Component,
    Kind,
    Refusal,
    ResolvedModel,
    TensorHeader,
    Weights,
)
from arrow_quant_v2.model.files import TORCH_SUFFIXES, choose_weights, is_weight_like, tree
from arrow_quant_v2.model.headers import safetensors_headers, torch_headers
from arrow_quant_v2.model.hub import is_hub_id, snapshot
from arrow_quant_v2.model.json_object import read_object
from arrow_quant_v2.model.names import final_names, other_networks
from arrow_quant_v2.model.quantized import find_refusal, find_scales
from arrow_quant_v2.paths import StrPath

__all__ = ["resolve"]

_INDEX = "model_index.json"
_GGUF = Refusal(
    "already quantized with GGUF (llama.cpp, ComfyUI-GGUF)",
    "Quantize the original weights: what was rounded away cannot be brought back.",
)
#: Components that a pipeline does without.
_OPTIONAL = frozenset({"safety_checker", "feature_extractor", "image_encoder"})


def resolve(
    path: StrPath, *, variant: str | None = None, revision: str | None = None
) -> ResolvedModel:
    """Say what lies at a path, or at a name of the Hub, which is downloaded if need be.

    Headers of the weight files are read, weights are not.

    Parameters
    ----------
    path
        A pipeline, a component, a transformers folder, a weight file, or ``owner/name``.
    variant
        The variant to take, such as ``"fp16"``; None: the plain files, or what there is.
    revision
        Of a model on the Hub: a branch, tag or commit.

    Raises
    ------
    ModelNotFoundError
        A variant or a shard is absent, or a name is unknown to the Hub. A path where nothing lies
        is described as it is: the engine says what it looked for.
    MetadataError
        A file of torch is malformed.
    ConfigurationError
        Several files could be the weights.
    """
    source = os.fspath(path)
    if is_hub_id(source):
        return replace(_at(source, snapshot(source, revision), variant), from_hub=True)
    return _at(source, Path(source), variant)


def _at(source: str, root: Path, variant: str | None) -> ResolvedModel:
    """What lies at `root`, which the user called `source`."""
    if os.path.isfile(root):
        return _file(source, root)
    if not os.path.isdir(root) or os.path.isfile(root / "manifest.json"):
        return ResolvedModel(source, root, "component")
    if os.path.isfile(root / _INDEX):
        return _pipeline(source, root, variant)
    component = _component("", root, variant, is_model=True)
    kind: Kind = "transformers" if component.library == "transformers" else "component"
    above = root.absolute().parent
    model = ResolvedModel(
        source,
        root,
        kind,
        component.class_name,
        (component,),
        pipeline=above if os.path.isfile(above / _INDEX) else None,
    )
    return replace(model, foreign=_foreign(root, [component]))


def _file(source: str, root: Path) -> ResolvedModel:
    if root.suffix in TORCH_SUFFIXES:
        weights = Weights((root,), "torch", root.stem)
        component = _read(Component("", root.parent, weights=weights))
        return ResolvedModel(source, root, "state_dict", "", (component,))
    weights = Weights((root,), "safetensors", root.stem)
    component = _read(Component("", root.parent, weights=weights))
    if root.suffix != ".safetensors" and _starts_with(root, b"GGUF"):
        component = replace(component, refusal=_GGUF)
    return ResolvedModel(source, root, "weight_file", "", (component,))


def _starts_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False  # the engine says why


def _pipeline(source: str, root: Path, variant: str | None) -> ResolvedModel:
    index = read_object(root / _INDEX)
    entries = {
        name: value
        for name, value in index.items()
        if isinstance(value, list) and not name.startswith((".", "_")) and name == Path(name).name
    }
    named = {
        name: (value[0], value[1])
        for name, value in entries.items()
        if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], str)
    }
    components: list[Component] = []
    beside = _beside_index(root, named)
    for name in entries:
        folder = root / name
        if name == beside:
            folder = root
        elif not os.path.isdir(folder):
            continue
        found = _component(name, folder, variant, is_model=False)
        if name in named and not found.library:
            found = replace(found, library=named[name][0], class_name=named[name][1])
        components.append(found)
    missing = tuple(
        name
        for name in named
        if name not in _OPTIONAL and name != beside and not _is_there(root, name)
    )
    class_name = index.get("_class_name")
    model = ResolvedModel(
        source,
        root,
        "pipeline",
        class_name if isinstance(class_name, str) else "",
        tuple(components),
        missing=missing,
    )
    return replace(model, foreign=_foreign(root, components))


def _beside_index(root: Path, named: Mapping[str, tuple[str, str]]) -> str:
    """The component whose weights lie beside ``model_index.json``; empty when there is none."""
    kind = read_object(root / "config.json").get("_class_name")
    for name, (_, class_name) in named.items():
        if class_name == kind and not os.path.isdir(root / name):
            return name
    return ""


def _is_there(root: Path, name: str) -> bool:
    """Whether a component has its folder, or its configuration beside the index."""
    return os.path.isdir(root / name) or os.path.isfile(root / f"{name}_config.json")


def _component(name: str, folder: Path, variant: str | None, *, is_model: bool) -> Component:
    config = read_object(folder / "config.json")
    library, class_name = _class_of(config)
    weights = choose_weights(folder, variant, is_model=is_model)
    if weights is None and any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors")):
        return Component(name, folder, library, class_name, config, refusal=_GGUF)
    return _read(Component(name, folder, library, class_name, config, weights))


def _read(component: Component) -> Component:
    """The component with what the headers of its weights say."""
    if component.weights is None:
        return component
    tensors: dict[str, TensorHeader] = {}
    notes: list[str] = []
    for file in component.weights.files:
        if component.weights.form == "torch":
            found, remarks = torch_headers(file)
            notes += remarks
        else:
            found = safetensors_headers(file)
        tensors.update(found)
    scales, dropped = find_scales(tensors)
    names = final_names((name for name in tensors if name not in dropped), component.library)
    if not scales:
        names |= dict.fromkeys(dropped, "")
    return replace(
        component,
        remarks=tuple(notes),
        tensors=tensors,
        names=names,
        scales=scales,
        dropped=dropped,
        other_networks=other_networks(tensors) if not component.library else (),
        refusal=find_refusal(tensors, scales, component.config),
    )


def _class_of(config: Mapping[str, Any]) -> tuple[str, str]:
    """Library and class that a ``config.json`` names."""
    class_name = config.get("_class_name")
    if isinstance(class_name, str):
        return "diffusers", class_name
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
        return "transformers", architectures[0]
    return ("transformers", "") if isinstance(config.get("model_type"), str) else ("", "")


def _foreign(root: Path, components: Iterable[Component]) -> tuple[Path, ...]:
    """Weight files below `root` that no component reads."""
    known = list(components)
    if all(component.weights is None for component in known):
        return ()
    read: set[Path] = set()
    for component in known:
        if component.weights is not None:
            read.update(component.weights.files)
            if component.weights.index is not None:
                read.add(component.weights.index)
    # Where nothing was chosen the engine looks, and says what is wrong.
    open_folders = {component.folder for component in known if component.weights is None}
    return tuple(
        sorted(
            file
            for file in tree(root)
            if is_weight_like(file) and file not in read and file.parent not in open_folders
        )
    )
