"""A folder that the engine, diffusers and transformers read alike, in place of the model's own.

Where a model is as they expect it, that is the model's own folder. Else a temporary folder has
links to the files that are read, under the names that the libraries look for. Files of torch and
scaled 8-bit weights are written anew, in pieces, so memory stays small; the disk needs room.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from arrow_quant_v2.errors import ArrowQuantError, ConfigurationError, OutputError
from arrow_quant_v2.model.converted import converted_bytes, write_converted
from arrow_quant_v2.model.description import (
    Component,
    Names,
    ResolvedModel,
    Weights,
    is_converted,
)
from arrow_quant_v2.model.files import tree
from arrow_quant_v2.model.resolve import resolve
from arrow_quant_v2.paths import StrPath

__all__ = ["View", "check_quantizable", "readable_model"]

#: What the libraries call weights.
_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
#: What pipelines call networks of transformers that run at every step; the others encode text.
_TEXT_DENOISERS = frozenset(("model", "transformer", "transformer_2", "denoiser", "dit", "prior"))
#: Name of a file of torch -> what transformers calls the same in safetensors.
_SAFE_STEMS = {"pytorch_model": "model"}


@dataclass(frozen=True)
class View:
    """A model as it is read.

    Attributes
    ----------
    path
        What to open: the model's own path, or what stands for it.
    model
        What was found at the user's path.
    names
        Names of tensors that change, by component, for the engine.
    """

    path: StrPath
    model: ResolvedModel
    names: Names


@contextmanager
def readable_model(
    path: StrPath,
    *,
    output: StrPath | None = None,
    headers_only: bool = False,
    components: Collection[str] | None = None,
    refuse: bool = True,
    adapters: bool = False,
) -> Iterator[View]:
    """The model at `path`, in a form that everything reads. Errors inside speak of `path`.

    Parameters
    ----------
    path
        A model, or its name on the Hub.
    output
        Where the result will go; it may not lie inside the model.
    headers_only
        Leave weights out of what is written anew: names, types and shapes are right, values are
        not.
    components
        Those of a pipeline that are quantized; None: its networks of diffusers. The others are left
        as they are.
    refuse
        Raise for weights that are quantized already or carry an adapter.
    adapters
        Accept a file that holds nothing but an adapter.

    Raises
    ------
    ConfigurationError
        The weights cannot be quantized, or `output` lies inside the model.
    OutputError
        There is no room for weights that have to be written anew.
    """
    model = _worked_on(resolve(path), components)
    if refuse:
        check_quantizable(model, adapters=adapters)
    whole = _inside_pipeline(model)
    if not _needs_stand_in(whole):
        yield View(path, model, model.names)
        return
    _check_apart(model.root, output)
    with tempfile.TemporaryDirectory(prefix="arrow-quant-") as folder:
        builder = _Builder(whole, Path(folder), headers_only)
        try:
            built = builder.build()
            yield View(built if whole is model else built / model.name, model, model.names)
        except ArrowQuantError as error:
            builder.speak_of_the_source(error)
            raise


def check_quantizable(model: ResolvedModel, *, adapters: bool = False) -> None:
    """Raise ConfigurationError for weights that are quantized already or carry an adapter."""
    for component in model.components:
        refusal = component.refusal
        if refusal is None or (adapters and component.is_adapter):
            continue
        where = component.weights.files[0] if component.weights else component.folder
        raise ConfigurationError(f"{where}: {refusal.what}", path=str(where), hint=refusal.hint)


def _worked_on(model: ResolvedModel, wanted: Collection[str] | None) -> ResolvedModel:
    """The model, with the components that nobody quantizes as they are."""
    if model.kind != "pipeline":
        return model

    def chosen(component: Component) -> bool:
        if wanted is not None:
            return component.name in wanted
        return component.library != "transformers" or component.name in _TEXT_DENOISERS

    return replace(
        model,
        components=tuple(
            component if chosen(component) else _kept(component) for component in model.components
        ),
    )


def _kept(component: Component) -> Component:
    """A component that nobody quantizes, with its weights as they are."""
    return replace(component, scales={}, dropped=frozenset(), refusal=None, kept=True)


def _inside_pipeline(model: ResolvedModel) -> ResolvedModel:
    """The pipeline around a component, which is what runs; the model itself where there is none."""
    if model.pipeline is None:
        return model
    try:
        whole = resolve(model.pipeline)
    except ArrowQuantError:
        return model  # something is wrong with another component
    own = model.components[0]
    others = [c for c in whole.components if c.name != model.name]
    if len(others) == len(whole.components):
        return model
    kept = [_kept(component) for component in others]
    return replace(whole, components=(*kept, replace(own, name=model.name)))


def _needs_stand_in(model: ResolvedModel) -> bool:
    if model.foreign or model.from_hub:
        return bool(model.components)
    return any(not _is_canonical(component, model) for component in model.components)


def _is_canonical(component: Component, model: ResolvedModel) -> bool:
    """Whether the engine and the library find the weights by themselves."""
    weights = component.weights
    if weights is None:
        return True
    if is_converted(component) or weights.variant:
        return False
    if component.name and component.folder == model.root:
        return False
    if model.kind in ("weight_file", "state_dict"):
        return True
    return weights.stem == _STEMS.get(component.library, weights.stem)


def _check_apart(root: Path, output: StrPath | None) -> None:
    if output is None or root.is_file():
        return
    model, out = Path(os.path.realpath(root)), Path(os.path.realpath(output))
    if model == out or model in out.parents or out in model.parents:
        raise ConfigurationError(
            f"{os.fspath(output)}: input and output overlap",
            path=os.fspath(output),
            hint="Choose an output folder outside the model.",
        )


class _Builder:
    """Makes the stand-in in a temporary folder."""

    def __init__(self, model: ResolvedModel, folder: Path, headers_only: bool) -> None:
        self._model = model
        # The last part of the path may tell what the model is.
        self._stand_in = folder / model.name
        self._headers_only = headers_only
        # Path in an error -> path of the source.
        self._sources = {str(self._stand_in): str(model.root)}

    def build(self) -> Path:
        model = self._model
        self._check_room()
        if model.kind in ("weight_file", "state_dict"):
            return self._write_weights(model.components[0], self._stand_in.parent)
        self._stand_in.mkdir()
        self._link_others()
        for component in model.components:
            folder = self._stand_in / component.name
            folder.mkdir(exist_ok=True)
            if component.weights is not None:
                self._write_weights(component, folder)
            if component.scales and "quantization_config" in component.config:
                self._write_config(component, folder)
        return self._stand_in

    def speak_of_the_source(self, error: ArrowQuantError) -> None:
        for name in sorted(self._sources, key=len, reverse=True):
            source = self._sources[name]
            error.message = error.message.replace(name, source)
            error.path = error.path.replace(name, source)
            error.hint = error.hint.replace(name, source)
        error.args = (error.message,)

    def _check_room(self) -> None:
        needed = sum(converted_bytes(c) for c in self._model.components if is_converted(c))
        free = shutil.disk_usage(self._stand_in.parent).free
        if self._headers_only or needed <= free:
            return
        raise OutputError(
            f"{self._stand_in.parent}: converting the weights takes {needed / 1e6:,.0f} MB, "
            f"{free / 1e6:,.0f} MB are free",
            path=str(self._stand_in.parent),
            hint="Set TMPDIR to a folder with more room.",
        )

    def _link_others(self) -> None:
        """Links to everything but weights that are read and files that are left out."""
        model = self._model
        aside = set(model.foreign)
        for component in model.components:
            if component.weights is not None:
                aside.update(component.weights.files)
                if component.weights.index is not None:
                    aside.add(component.weights.index)
        beside_index = {c.name: c for c in model.components if c.name and c.folder == model.root}
        for file in tree(model.root):
            if file in aside:
                continue
            target = self._stand_in / file.relative_to(model.root)
            if beside_index and file.parent == model.root:
                target = self._own_folder(file, beside_index)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._link(file, target)

    def _own_folder(self, file: Path, beside_index: dict[str, Component]) -> Path:
        """Where a file beside ``model_index.json`` goes: to the component that it belongs to."""
        if file.name == "config.json":
            return self._stand_in / next(iter(beside_index)) / file.name
        owner = file.name.removesuffix("_config.json")
        index = json.loads((self._model.root / "model_index.json").read_bytes())
        if owner != file.name and isinstance(index.get(owner), list):
            return self._stand_in / owner / file.name
        return self._stand_in / file.name

    def _link(self, file: Path, target: Path) -> None:
        self._sources[str(target)] = str(file)
        target.symlink_to(file.resolve())

    def _write_weights(self, component: Component, folder: Path) -> Path:
        """The weights of a component in `folder`, by links where they can stay as they are."""
        weights = component.weights
        assert weights is not None  # callers have looked
        stem = _STEMS.get(component.library, _SAFE_STEMS.get(weights.stem, weights.stem))
        if is_converted(component):
            target = folder / f"{stem}.safetensors"
            several = len(weights.files) > 1
            source = weights.files[0].parent if several else weights.files[0]
            self._sources[str(target)] = str(source)
            try:
                write_converted(component, target, headers_only=self._headers_only)
            except OSError as error:
                raise OutputError(
                    f"{target}: {error.strerror}: converting the weights takes "
                    f"{converted_bytes(component) / 1e6:,.0f} MB",
                    path=str(target),
                    hint="Set TMPDIR to a folder with more room.",
                ) from error
            return target
        if weights.index is None:
            target = folder / f"{stem}.safetensors"
            self._link(weights.files[0], target)
            return target
        return self._link_shards(weights, folder, stem)

    def _link_shards(self, weights: Weights, folder: Path, stem: str) -> Path:
        assert weights.index is not None  # callers have looked
        count = len(weights.files)
        names = {
            file.name: f"{stem}-{number:05d}-of-{count:05d}.safetensors"
            for number, file in enumerate(weights.files, 1)
        }
        for file in weights.files:
            self._link(file, folder / names[file.name])
        index = json.loads(weights.index.read_bytes())
        index["weight_map"] = {tensor: names[file] for tensor, file in index["weight_map"].items()}
        target = folder / f"{stem}.safetensors.index.json"
        self._sources[str(target)] = str(weights.index)
        target.write_text(json.dumps(index), encoding="utf-8")
        return target

    def _write_config(self, component: Component, folder: Path) -> None:
        """``config.json`` without what said how the weights were scaled."""
        config = {k: v for k, v in component.config.items() if k != "quantization_config"}
        path = folder / "config.json"
        path.unlink()
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
