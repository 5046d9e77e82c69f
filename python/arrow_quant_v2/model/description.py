"""A model as the resolver describes it: plain facts, nothing opened, nothing loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["Component", "Kind", "Names", "Refusal", "ResolvedModel", "TensorHeader", "Weights"]

#: A diffusers pipeline; one component of diffusers or of no known library; a transformers folder;
#: one safetensors file; one file of torch.
Kind = Literal["pipeline", "component", "transformers", "weight_file", "state_dict"]

#: How many files a note names.
_SHOWN = 5

#: What a file is that holds an adapter alone.
ADAPTER = "this is an adapter (LoRA), not a model"

#: Names of tensors that change, by component: the name in the file -> the name that it gets.
Names = dict[str, dict[str, str]]


@dataclass(frozen=True)
class TensorHeader:
    """Type and shape of a stored tensor, and where its bytes lie in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class Weights:
    """The weight files that were chosen in a folder.

    Attributes
    ----------
    files
        One file, or all shards in the order of their names.
    form
        ``"safetensors"``, or ``"torch"`` for what ``torch.save`` wrote.
    stem
        The name without variant, shard number and extension: ``diffusion_pytorch_model``.
    variant
        ``"fp16"`` of ``diffusion_pytorch_model.fp16.safetensors``; empty for the plain files.
    index
        The shard index; None when there is one file.
    """

    files: tuple[Path, ...]
    form: Literal["safetensors", "torch"]
    stem: str
    variant: str = ""
    index: Path | None = None


@dataclass(frozen=True)
class Refusal:
    """Why weights cannot be quantized: what is wrong, and what to do."""

    what: str
    hint: str


@dataclass(frozen=True)
class Component:
    """One network of a model.

    Attributes
    ----------
    name
        As in ``model_index.json``; empty when the model is one component.
    folder
        Where its files lie; the folder of the file for a single weight file.
    library, class_name
        ``"diffusers"`` or ``"transformers"`` and the class; empty where nothing says it.
    config
        The object in its ``config.json``; empty without one.
    weights
        The files that were chosen; None where the engine has to look, or says what is missing.
    tensors
        Headers by the names in the files.
    names
        Names that change: the name in the file -> the name that it gets.
    scales
        Scaled 8-bit floats: name of the weight -> name of the scale.
    dropped
        Scale and marker tensors that the weights no longer need once the scales are multiplied in.
    other_networks
        Prefixes of other networks in an all-in-one file, which are not quantized.
    refusal
        Why the weights cannot be quantized; None when they can.
    kept
        Whether nobody quantizes it: its files are handed on for the library to read.
    remarks
        What else the files hold.
    """

    name: str
    folder: Path
    library: str = ""
    class_name: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights | None = None
    tensors: Mapping[str, TensorHeader] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    other_networks: tuple[str, ...] = ()
    refusal: Refusal | None = None
    kept: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What a user should know about the component: what was chosen, and what happens to it."""
        found = list(self.remarks)
        if self.weights is not None and self.weights.variant:
            found.append(f"the weights are those of the variant {self.weights.variant}")
        if self.other_networks:
            prefixes = ", ".join(f"{prefix}*" for prefix in self.other_networks)
            found.append(f"not quantized, since they are other networks: {prefixes}")
        if self.scales:
            count = len(self.scales)
            found.append(f"{count} scaled 8-bit weights are multiplied by their scales")
        return [f"{self.name}: {note}" if self.name else note for note in found]

    @property
    def is_adapter(self) -> bool:
        """Whether the weights are an adapter and nothing else."""
        return self.refusal is not None and self.refusal.what == ADAPTER


@dataclass(frozen=True)
class ResolvedModel:
    """What a path means.

    Attributes
    ----------
    source
        The path or Hub id as the user gave it.
    root
        The folder or file that it is.
    kind
        What lies there.
    class_name
        The class of the pipeline or of the one component; empty where nothing says it.
    components
        Networks with weights, by name.
    foreign
        Weight files that nothing reads: other formats, other precisions, other programs.
    missing
        Components that ``model_index.json`` names and that are not there.
    pipeline
        The pipeline that a component's folder lies in; None where it lies in none.
    from_hub
        Whether `source` is a name and not a path.
    """

    source: str
    root: Path
    kind: Kind
    class_name: str = ""
    components: tuple[Component, ...] = ()
    foreign: tuple[Path, ...] = ()
    missing: tuple[str, ...] = ()
    pipeline: Path | None = None
    from_hub: bool = False

    @property
    def name(self) -> str:
        """What it is called: the repository of a Hub cache, else the last part of the path."""
        if self.root.is_file():
            return self.root.stem
        root = Path(os.path.abspath(self.root))
        if root.parent.name == "snapshots" and "--" in root.parents[1].name:
            return root.parents[1].name.rpartition("--")[2]
        return root.name or "model"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know: what was left out, and what was chosen."""
        found = [note for component in self.components for note in component.notes]
        if self.foreign:
            shown = ", ".join(str(file.relative_to(self.root)) for file in self.foreign[:_SHOWN])
            count = len(self.foreign) - _SHOWN
            more = f" and {count} more" if count > 0 else ""
            found.insert(0, f"left out, since no component reads them: {shown}{more}")
        return tuple(found)

    @property
    def names(self) -> Names:
        """Names that change, by component, as the engine takes them.

        Files of torch and scaled weights are converted, and get their names then.
        """
        return {
            component.name: dict(component.names)
            for component in self.components
            if component.names and not is_converted(component)
        }

    @property
    def refusal(self) -> Refusal | None:
        """The first reason why weights of the model cannot be quantized."""
        found = (component.refusal for component in self.components)
        return next((refusal for refusal in found if refusal is not None), None)


def is_converted(component: Component) -> bool:
    """Whether the weights are written anew for reading.

    Files of torch are, scaled weights, and kept weights whose library would not know the names.
    """
    weights = component.weights
    if weights is None:
        return False
    return weights.form == "torch" or bool(component.scales) or _is_wrapped(component)


def _is_wrapped(component: Component) -> bool:
    """Whether the library of a kept component finds other names than it expects."""
    names = component.names.items()
    return component.kept and any(old.count(".") != new.count(".") for old, new in names)
