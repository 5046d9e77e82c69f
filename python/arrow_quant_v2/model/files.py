"""Which files of a folder are its weights, and which are copies for something else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arrow_quant_v2.errors import ConfigurationError, MetadataError, ModelNotFoundError
from arrow_quant_v2.model.description import Weights

__all__ = ["TORCH_SUFFIXES", "choose_weights", "is_weight_like", "tree"]

#: Extensions of torch's files, the better first.
TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_FORMS = (".safetensors", *TORCH_SUFFIXES)
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
#: The plain files first, then by precision.
_VARIANTS = ("", "fp32", "bf16", "fp16")
#: What training leaves beside the weights.
_TRAINING = re.compile(
    r"(training_args|optimizer|scheduler|scaler|random_states|rng_state)(_\d+)?$"
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_INDEX = re.compile(
    r"(?P<stem>.+)(?P<form>\.safetensors|\.bin)\.index(\.(?P<variant>[^.]+))?\.json"
)
#: Weights that other programs read.
_OTHER_PROGRAMS = (
    ".msgpack", ".h5", ".onnx", ".onnx_data", ".pb", ".ot", ".tflite", ".gguf", ".ggml", ".engine",
    ".mlmodel", ".npz", ".index",
)  # fmt: skip
_MOST_FOLDERS = 16
_MOST_FILES = 100_000


@dataclass(frozen=True)
class _Group:
    """Files that hold the weights once."""

    form: str
    stem: str
    variant: str
    files: tuple[Path, ...]
    index: Path | None = None

    @property
    def rank(self) -> tuple[int, int, str, int, int]:
        """The least is the best."""
        known = self.variant in _VARIANTS
        return (
            _FORMS.index(self.form),
            _VARIANTS.index(self.variant) if known else len(_VARIANTS),
            self.variant,
            _STEMS.index(self.stem) if self.stem in _STEMS else len(_STEMS),
            0 if self.index else 1,
        )


def choose_weights(folder: Path, variant: str | None, *, is_model: bool) -> Weights | None:
    """The weights in a folder: safetensors before ``.bin`` before ``.ckpt``, plain before variants.

    Parameters
    ----------
    variant
        The variant to take; None: the plain files, or what there is.
    is_model
        Several files of torch under unusual names are an error; else nothing is chosen then.

    Returns
    -------
    Weights or None
        None where the folder has no weights, or where the engine says what is wrong with them.

    Raises
    ------
    ModelNotFoundError
        The variant is not there, or a shard of it.
    ConfigurationError
        Several files could be the weights.
    """
    groups = _groups(folder)
    if variant is not None:
        found = sorted({group.variant for group in groups})
        groups = [group for group in groups if group.variant == variant]
        if found and not groups:
            raise ModelNotFoundError(
                f"{folder}: expected weights of the variant {variant!r}, found "
                f"{', '.join(repr(name) for name in found)}",
                path=str(folder),
                hint="Choose one of them.",
            )
    usual = [group for group in groups if group.stem in _STEMS]
    groups = sorted(usual or groups, key=lambda group: group.rank)
    if not groups:
        return None
    best = groups[0]
    safe = best.form == ".safetensors"
    if not safe and any(entry.suffix == ".parquet" for entry in _entries(folder)):
        return None  # a model in an old layout
    rivals = {group.stem for group in groups if safe == (group.form == ".safetensors")}
    if not usual and len(rivals) > 1:
        if safe or not is_model:
            return None
        names = sorted(group.files[0].name for group in groups)
        raise ConfigurationError(
            f"{folder}: several files of torch, and none is called {' or '.join(_STEMS)}.*: "
            f"{', '.join(names)}",
            path=str(folder),
            hint="Pass the file that has the weights.",
        )
    files = best.files
    if best.index is not None:
        try:
            files = _shards(best.index)
        except (MetadataError, ModelNotFoundError):
            if safe and not best.variant:
                return None
            raise
    form: Literal["safetensors", "torch"] = "safetensors" if safe else "torch"
    return Weights(files, form, best.stem, best.variant, best.index)


def is_weight_like(path: Path) -> bool:
    """Whether a file holds weights, in whatever format, or tells where they are."""
    name = path.name
    if name.startswith("openvino_") and path.suffix in (".xml", ".bin"):
        return True
    return path.suffix in (*_FORMS, *_OTHER_PROGRAMS) or _INDEX.fullmatch(name) is not None


def tree(root: Path) -> Iterator[Path]:
    """Every file below a folder, hidden ones aside, through links to folders.

    Raises
    ------
    ModelNotFoundError
        There are more files, or deeper folders, than a model has.
    """
    waiting, count = [(root, 0)], 0
    while waiting:
        folder, depth = waiting.pop()
        if depth > _MOST_FOLDERS:
            raise ModelNotFoundError(
                f"{folder}: folders nested deeper than {_MOST_FOLDERS}", path=str(folder)
            )
        for entry in _entries(folder):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                waiting.append((entry, depth + 1))
                continue
            count += 1
            if count > _MOST_FILES:
                raise ModelNotFoundError(
                    f"{root}: more than {_MOST_FILES:,} files: not a model folder", path=str(root)
                )
            yield entry


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _groups(folder: Path) -> list[_Group]:
    groups = []
    for entry in _entries(folder):
        if entry.name.startswith("."):
            continue
        index = _INDEX.fullmatch(entry.name)
        if index is not None:
            name, form = index["stem"], index["form"]
            groups.append(_Group(form, name, index["variant"] or "", (), entry))
        elif _is_whole(entry):
            stem, variant = _split(entry.stem)
            groups.append(_Group(entry.suffix, stem, variant, (entry,)))
    return groups


def _is_whole(entry: Path) -> bool:
    """Whether a file may hold all weights."""
    if entry.suffix not in _FORMS or entry.is_dir() or entry.name.startswith("openvino_"):
        return False
    return not _TRAINING.match(entry.stem) and not _SHARD.search(entry.stem)


def _split(name: str) -> tuple[str, str]:
    """The stem and the variant of a file name without its extension."""
    stem, dot, variant = name.rpartition(".")
    if dot and (stem in _STEMS or variant in (*_VARIANTS, "ema", "non_ema")):
        return stem, variant
    return name, ""


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise MetadataError(f"{index}: expected a weight_map", path=str(index)) from None
    for name in names:
        if not isinstance(name, str) or name != os.path.basename(name) or name in ("", ".", ".."):
            raise MetadataError(
                f"{index}: expected names of files in its own folder, found {name!r}",
                path=str(index),
            )
    files = tuple(index.parent / name for name in sorted(names))
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise ModelNotFoundError(
            f"{index}: missing shards: {', '.join(missing)}",
            path=str(index),
            hint="Download them into the same folder.",
        )
    return files
