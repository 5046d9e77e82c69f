"""Models in the Parquet layouts that came before this format, as the same mappings of tensors.

``docs/reference/old-layouts.md`` describes the layouts. The engine decodes integers and scales.
Nothing is converted on disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._native import core
from arrow_quant_v2.artefact.model import QuantizedComponent, QuantizedModel
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.paths import StrPath, path_bytes
from arrow_quant_v2.tensors.dtypes import numpy_dtype
from arrow_quant_v2.tensors.tensor import QuantizedTensor, TimeGroup

__all__ = ["OldComponent", "OldModel", "OldTensor"]


class OldTensor(QuantizedTensor):
    """A tensor that an old layout stores as integers.

    ``w = (q - zero_point) * scale``, where `granularity` says which elements share a scale.
    `dequantize` gives that as float32 of the original shape (times the row's equalization factor
    where the file has one), `unpack` the integers q in the shape of the weight, and `codes` the
    bytes as they are stored, in one dimension: a byte per weight, or four weights per byte in
    layout B's int2. The forms of the current format (`params`, `row_scales`, `chunks`, `as_int8`)
    do not exist; quantize the model again to have them.
    """

    def __init__(self, model: core.OldModel, tensor: core.OldTensor) -> None:
        super().__init__(tensor.info, self._refuse)
        self._model = model
        self._old = tensor

    def preload(self) -> None:
        """Do nothing: integers of old layouts are read whenever they are used."""

    @property
    def encoding(self) -> str:
        """``"old"``."""
        return "old"

    @property
    def is_quantized(self) -> bool:
        """True: the tensor holds integers."""
        return True

    @property
    def bit_width(self) -> int | None:
        """Bits that the row is labelled with; layouts C and D store a byte per weight anyway."""
        return self._old.bit_width

    @property
    def granularity(self) -> str:
        """``"tensor"``, ``"axis N"``, or ``"groups of N"`` elements of the flattened tensor."""
        return self._old.granularity

    @property
    def group_size(self) -> int | None:
        """Consecutive elements that share a scale; None where they are not consecutive."""
        kind, _, size = self.granularity.rpartition(" ")
        if kind == "groups of":
            return int(size)
        return self.size if self.granularity == "tensor" else None

    @property
    def param_encoding(self) -> str | None:
        """None: scales are float32, see `scales` and `zero_points`."""
        return None

    @property
    def cosine(self) -> float:
        """NaN: the old layouts do not record it."""
        return float("nan")

    @property
    def nmse(self) -> float:
        """NaN: the old layouts do not record it."""
        return float("nan")

    @property
    def equalization(self) -> None:
        """None: what an old layout divides by is taken into account when it is dequantized."""
        return None

    @property
    def time_groups(self) -> tuple[TimeGroup, ...]:
        """Empty: what old layouts store by time are scales of weights, which need no time."""
        return ()

    @property
    def nbytes(self) -> int:
        """Bytes of integers, scales and zero points as stored, before compression."""
        return self._old.stored_bytes

    @property
    def codes(self) -> npt.NDArray[np.uint8]:
        """The integers as stored, uint8 ``[nbytes]``."""
        out = np.empty(self._old.data_bytes, np.uint8)
        self._model.read_stored(self._old, out)
        return out

    @property
    def scales(self) -> npt.NDArray[np.float32]:
        """One scale per group, float32."""
        return self._parameters()[0]

    @property
    def zero_points(self) -> npt.NDArray[np.float32]:
        """One zero point per group, float32; zero where the file has none or NaN."""
        return self._parameters()[1]

    @property
    def row_scales(self) -> npt.NDArray[np.float32] | None:
        """None: see `scales`."""
        return None

    @property
    def chunks(self) -> list[core.Chunk]:
        """Only of the current format."""
        self._refuse()

    @property
    def params(self) -> npt.NDArray[np.uint8]:
        """Only of the current format."""
        self._refuse()

    def unpack(self) -> npt.NDArray[np.uint8] | npt.NDArray[np.int8]:
        """The integers q in the shape of the weight: int8 in layout B, uint8 in C and D."""
        out = np.empty(self.size, np.int16)
        self._model.read_codes(self._old, out)
        shaped = out.reshape(self._shape)
        return shaped.astype(np.int8) if self._old.signed else shaped.astype(np.uint8)

    def dequantize(
        self, dtype: Any = "float32", *, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Reconstruct the weight; as for the tensors of the current format."""
        target = self._target(dtype)
        if out is not None:
            self._check_out(out, target)
        floats = out if out is not None and target == np.float32 else None
        if floats is None:
            floats = np.empty(self._shape, np.float32)
        self._model.read(self._old, 0, floats.reshape(-1).view(np.uint8))
        if floats is out:
            return floats
        values = floats.astype(target, copy=False)
        if out is None:
            return values
        out[...] = values
        return out

    def as_int8(self) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        """Only of the current format."""
        self._refuse()

    def __repr__(self) -> str:
        return (
            f"OldTensor({self.name!r}, shape={self._shape}, INT{self.bit_width}, "
            f"a scale per {self.granularity})"
        )

    def _parameters(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        scales = np.empty(self._old.groups, np.float32)
        zero_points = np.empty(self._old.groups, np.float32)
        self._model.read_parameters(self._old, scales, zero_points)
        return scales, zero_points

    def _refuse(self) -> NoReturn:
        raise ConfigurationError(
            f"{self._label}: this form does not exist in an old layout",
            tensor=self.name,
            hint="Use dequantize(), unpack(), scales and zero_points, or quantize the model again.",
        )


class OldComponent(QuantizedComponent):
    """The tensors of one component of an old model, by name, in source order."""

    def __init__(self, model: core.OldModel, number: int) -> None:
        self._model = model
        self._number = number
        self._tensors = {
            tensor.info.name: tensor for tensor in model.tensors if tensor.component == number
        }

    @property
    def name(self) -> str:
        """Name of the component; empty when the model is itself one component."""
        return self._model.components[self._number]

    @property
    def layout(self) -> str:
        """The letter of the layout in ``docs/reference/old-layouts.md``, and what it is."""
        return self._model.layout(self._number)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the files and ``metadata.json`` record, with the layout."""
        stored: dict[str, Any] = {}
        if self._model.metadata_json:
            document = json.loads(self._model.metadata_json)
            stored = document if isinstance(document, dict) else {}
        return {**stored, **self._model.metadata(self._number), "layout": self.layout}

    @property
    def stored_bytes(self) -> dict[str, int]:
        """Bytes of each tensor and its scales as stored, before compression."""
        return {name: tensor.stored_bytes for name, tensor in self._tensors.items()}

    def row_blocks(self, name: str) -> Iterator[core.Tensor]:
        """Only of the current format; `value_blocks` is what an old layout has.

        Raises
        ------
        ConfigurationError
            Always.
        """
        raise ConfigurationError(
            f"tensor '{name}': an old layout has no packed rows",
            tensor=name,
            hint="Use value_blocks(), or quantize the model again.",
        )

    def value_blocks(self, name: str, most_bytes: int = 64 << 20) -> Iterator[npt.NDArray[Any]]:
        """The values of a tensor piece by piece, flat, for callers that bound their memory.

        Float32 for integers with scales, otherwise the type that the file holds.
        """
        tensor = self._tensors[name]
        kind = numpy_dtype(tensor.info.source_dtype)
        assert kind is not None  # the old layouts have whole bytes only
        step = max(1, most_bytes // kind.itemsize) * kind.itemsize
        for first in range(0, tensor.nbytes, step):
            block = np.empty(min(step, tensor.nbytes - first), np.uint8)
            self._model.read(tensor, first, block)
            yield block.view(kind)

    def __getitem__(self, name: str) -> QuantizedTensor:
        tensor = self._tensors[name]
        if tensor.bit_width:
            return OldTensor(self._model, tensor)
        return QuantizedTensor(tensor.info, lambda: self._kept(tensor))

    def _kept(self, tensor: core.OldTensor) -> core.Tensor:
        data = np.empty(tensor.nbytes, np.uint8)
        self._model.read(tensor, 0, data)
        info = tensor.info
        return core.keep_array(info.name, info.shape, info.source_dtype, data)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"OldComponent({self.name!r}, {len(self)} tensors)"


class OldModel(QuantizedModel):
    """A model in an old layout as a mapping from tensor names to tensors.

    Quantized rows are `OldTensor`, the others are tensors that are not quantized. There is no
    manifest: `manifest` is empty, and `verify` reads every tensor.
    """

    def __init__(self, path: StrPath, int2_order: str = "lsb") -> None:
        self._path = Path(path)
        self._model = core.OldModel(path_bytes(path, "path"), int2_order)
        self._adopt(
            {
                name: OldComponent(self._model, number)
                for number, name in enumerate(self._model.components)
            }
        )

    @property
    def path(self) -> Path:
        """The folder or file that was opened."""
        return self._path

    @property
    def layout(self) -> str:
        """The letter of the layout in ``docs/reference/old-layouts.md``, and what it is."""
        return self._model.layout(0)

    @property
    def manifest(self) -> dict[str, Any]:
        """Empty."""
        return {}

    @property
    def other_files(self) -> list[Path]:
        """Files beside the weights (configurations, tokenizer), relative to `path`."""
        return [Path(os.fsdecode(name)) for name in self._model.other_files]

    def verify(self) -> None:
        """Read every tensor.

        Raises
        ------
        MetadataError
            A file is malformed, or its page checksums do not match.
        """
        for component in self._components.values():
            assert isinstance(component, OldComponent)
            for name in component:
                for _ in component.value_blocks(name):
                    pass
