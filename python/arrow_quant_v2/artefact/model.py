"""Reading an artefact back: its tensors by name, what was recorded, the manifest."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from arrow_quant_v2._native import core
from arrow_quant_v2.tensors.tensor import QuantizedTensor

__all__ = ["QuantizedComponent", "QuantizedModel"]


class QuantizedComponent(Mapping[str, QuantizedTensor]):
    """The tensors of one component, by name, in source order. Weights are read when used."""

    def __init__(self, artefact: core.Artefact, number: int, num_threads: int = 0) -> None:
        self._artefact = artefact
        self._number = number
        self._num_threads = num_threads
        self._infos = artefact.tensors(number)
        self._index = {info.name: i for i, info in enumerate(self._infos)}

    @property
    def name(self) -> str:
        """Name of the component; empty when the model is itself one component."""
        return self._artefact.components[self._number]

    @property
    def metadata(self) -> dict[str, Any]:
        """What the Parquet schema records, with JSON values decoded."""
        pairs = self._artefact.metadata(self._number)
        return {key: _decoded(value) for key, value in pairs.items()}

    @cached_property
    def _float_inputs(self) -> frozenset[str]:
        stats = self.metadata.get("activation_stats")
        return frozenset(stats.get("float_inputs", ()) if isinstance(stats, dict) else ())

    @cached_property
    def stored_bytes(self) -> dict[str, int]:
        """Bytes of codes, parameters and scales of each tensor, from the footer alone."""
        sizes = self._artefact.stored_bytes(self._number)
        return {info.name: size for info, size in zip(self._infos, sizes, strict=True)}

    def row_blocks(self, name: str) -> Iterator[core.Tensor]:
        """The stored chunks of the tensor `name`, one at a time, for callers that bound memory."""
        tensor = self._index[name]
        for chunk in range(self._artefact.chunks(self._number, tensor)):
            yield self._artefact.read_chunk(self._number, tensor, chunk)

    def __getitem__(self, name: str) -> QuantizedTensor:
        if name not in self._index:
            raise KeyError(_no_tensor(name, self._index))
        tensor = self._index[name]
        return QuantizedTensor(
            self._infos[tensor],
            lambda: self._artefact.read(self._number, tensor),
            num_threads=self._num_threads,
            float_inputs=name in self._float_inputs,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return f"QuantizedComponent({self.name!r}, {len(self)} tensors)"


class QuantizedModel(Mapping[str, QuantizedTensor]):
    """An artefact as a mapping from tensor names to tensors.

    Where the artefact has several quantized components, names are ``"component/name"``; with one,
    they are the names of the source.
    """

    def __init__(self, artefact: core.Artefact, num_threads: int = 0) -> None:
        self._artefact = artefact
        self._adopt(
            {
                name: QuantizedComponent(artefact, number, num_threads)
                for number, name in enumerate(artefact.components)
            }
        )

    def _adopt(self, components: Mapping[str, QuantizedComponent]) -> None:
        self._components = dict(components)
        several = len(self._components) > 1
        self._owners = {
            f"{component}/{name}" if several else name: (component, name)
            for component, tensors in self._components.items()
            for name in tensors
        }

    @property
    def path(self) -> Path:
        """The folder of the artefact."""
        return Path(os.fsdecode(self._artefact.path))

    @property
    def components(self) -> dict[str, QuantizedComponent]:
        """The quantized components by name; a model that is one component has the name ``""``."""
        return dict(self._components)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the Parquet schema of the first quantized component records."""
        return next(iter(self._components.values())).metadata

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest: every file with size and hash, the configuration, what was measured."""
        manifest: dict[str, Any] = json.loads(self._artefact.manifest_json)
        return manifest

    def verify(self) -> None:
        """Check the hash of every file.

        Raises
        ------
        ValidationError
            A file is damaged, missing, or was changed.
        """
        self._artefact.verify(None)

    def __getitem__(self, name: str) -> QuantizedTensor:
        if name not in self._owners:
            raise KeyError(_no_tensor(name, self._owners))
        component, tensor = self._owners[name]
        return self._components[component][tensor]

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)

    def __repr__(self) -> str:
        names = ", ".join(repr(name) for name in self._components if name)
        return f"QuantizedModel({str(self.path)!r}, {len(self)} tensors{names and ': ' + names})"


def _no_tensor(name: object, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"no tensor {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _decoded(text: str) -> Any:
    if text[:1] in ("{", "[") or text in ("true", "false", "null"):
        return json.loads(text)
    return text
