"""What a user gives as ``calibration_data``, in one form."""

from __future__ import annotations

import json
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from arrow_quant_v2.errors import ConfigurationError

__all__ = ["Samples", "open_image", "read_samples"]

_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_SOUNDS = {".wav"}
_KEYS = ("prompt", "text", "label")
_IMAGE_KEYS = ("image", "file_name")
_METADATA = "metadata.jsonl"
_ACCEPTED = (
    "prompts or texts, class labels, dicts with a prompt and the path of an image, an array of "
    "clean samples, batches (args, kwargs, timestep), a callable that makes such batches, or the "
    "path of a .txt, .jsonl or .npy file or of a folder of images or .wav files"
)


@dataclass(frozen=True)
class Samples:
    """Samples of one kind; all others are empty or None.

    Texts and images together are pairs: as many of one as of the other.
    """

    texts: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    clean: Tensor | None = None
    images: tuple[Path, ...] = ()
    sounds: tuple[Path, ...] = ()
    batches: tuple[Any, ...] = ()
    make_batches: Callable[[Any], Iterable[Any]] | None = None

    @property
    def kind(self) -> Literal["neutral", "user"]:
        """Whether anything was given."""
        return "neutral" if self == Samples() else "user"

    @property
    def what(self) -> str:
        """A word for messages."""
        found = (
            ("texts", self.texts),
            ("labels", self.labels),
            ("an array", self.clean is not None),
            ("images", self.images),
            ("sounds", self.sounds),
            ("batches", self.batches or self.make_batches),
        )
        return next((word for word, there in found if there), "nothing")


def read_samples(data: Any) -> Samples:
    """Bring calibration data into one form; None is none.

    Raises
    ------
    ConfigurationError
        The data is of no known form, empty, or a file that cannot be read.
    """
    if data is None:
        return Samples()
    if isinstance(data, Samples):
        return data
    if isinstance(data, (str, os.PathLike)):
        return _from_path(Path(data))
    if callable(data):
        return Samples(make_batches=data)
    if isinstance(data, (np.ndarray, Tensor)):
        return _from_array(torch.as_tensor(data))
    if isinstance(data, Iterable) and not isinstance(data, (bytes, Mapping)):
        return _from_items(list(data), "calibration_data")
    raise _unknown(f"a {type(data).__name__}", "calibration_data")


@dataclass(frozen=True)
class _Pair:
    """A prompt and the image that goes with it."""

    text: str
    image: Path


def _pair(item: Mapping[str, Any], where: str, folder: Path | None) -> _Pair:
    """A prompt or text, and an image whose path may be relative to a folder."""
    text = next((item[key] for key in ("prompt", "text") if key in item), None)
    image = next((item[key] for key in _IMAGE_KEYS if key in item), None)
    if not isinstance(text, str) or not isinstance(image, (str, os.PathLike)):
        raise ConfigurationError(
            f"{where}: expected a prompt and the path of an image, found the keys "
            f"{', '.join(map(str, item))}",
            hint="Keys are 'prompt' or 'text', and 'image' or 'file_name'.",
        )
    path = Path(image) if folder is None else folder / image
    if not path.is_file():
        raise ConfigurationError(f"{where}: {path}: no such image", path=str(path))
    return _Pair(text, path)


def _from_pairs(pairs: Sequence[_Pair]) -> Samples:
    return Samples(
        texts=tuple(pair.text for pair in pairs), images=tuple(pair.image for pair in pairs)
    )


def _from_items(items: Sequence[Any], where: str) -> Samples:
    if not items:
        raise ConfigurationError(f"{where}: expected at least one sample, found none")
    if all(isinstance(item, str) for item in items):
        return Samples(texts=tuple(items))
    if all(isinstance(item, numbers.Integral) and not isinstance(item, bool) for item in items):
        return Samples(labels=tuple(int(item) for item in items))
    if all(isinstance(item, (np.ndarray, Tensor)) for item in items):
        try:
            return _from_array(torch.stack([torch.as_tensor(item) for item in items]))
        except RuntimeError as error:
            raise ConfigurationError(f"{where}: expected arrays of one shape: {error}") from error
    if all(isinstance(item, Mapping) for item in items):
        pairs = [_pair(item, f"{where}, item {i}", None) for i, item in enumerate(items)]
        return _from_pairs(pairs)
    if all(isinstance(item, _Pair) for item in items):
        return _from_pairs(items)
    if all(isinstance(item, tuple) or type(item).__name__ == "Batch" for item in items):
        return Samples(batches=tuple(items))
    kinds = sorted({type(item).__name__ for item in items})
    raise _unknown(f"items of {', '.join(kinds)}", where)


def _from_array(array: Tensor) -> Samples:
    if array.ndim == 1 and not array.is_floating_point() and len(array):
        return Samples(labels=tuple(int(value) for value in array))
    if array.ndim < 2 or not array.is_floating_point() or not len(array):
        shape = list(array.shape)
        raise _unknown(f"an array of {array.dtype} and shape {shape}", "calibration_data")
    return Samples(clean=array.float())


def _from_path(path: Path) -> Samples:
    if not os.path.lexists(path):
        raise ConfigurationError(f"{path}: no such calibration data", path=str(path))
    if os.path.isdir(path):
        return _from_folder(path)
    try:
        if path.suffix == ".npy":
            return _from_array(torch.from_numpy(np.load(path, allow_pickle=False)))
        if path.suffix in (".txt", ".jsonl"):
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            if path.suffix == ".txt":
                return _from_items(lines, str(path))
            items = [_jsonl_item(line, number, path) for number, line in enumerate(lines, 1)]
            return _from_items(items, str(path))
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"{path}: calibration data cannot be read: {error}", path=str(path)
        ) from error
    raise _unknown(f"a file with the ending {path.suffix!r}", str(path))


def _jsonl_item(line: str, number: int, path: Path) -> Any:
    item = json.loads(line)
    if isinstance(item, Mapping):
        if any(key in item for key in _IMAGE_KEYS):
            return _pair(item, f"{path}, line {number}", path.parent)
        found = [item[key] for key in _KEYS if key in item]
        if not found:
            raise ConfigurationError(
                f"{path}, line {number}: expected one of the keys {', '.join(_KEYS)}",
                path=str(path),
            )
        return found[0]
    return item


def _from_folder(folder: Path) -> Samples:
    """Images, sounds, or pairs where a file says which prompt goes with which image."""
    if (folder / _METADATA).is_file():
        return _from_path(folder / _METADATA)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    images = tuple(path for path in files if path.suffix.lower() in _IMAGES)
    sounds = tuple(path for path in files if path.suffix.lower() in _SOUNDS)
    if bool(images) == bool(sounds):
        found = "both" if images else "neither"
        raise ConfigurationError(
            f"{folder}: expected a folder of images or of .wav files, found {found}",
            path=str(folder),
        )
    return Samples(images=images, sounds=sounds)


def open_image(path: Path, size: tuple[int, int], mode: str) -> Any:
    """The picture of a file in a PIL mode, fitted to a height and width by cropping.

    Raises
    ------
    ConfigurationError
        It cannot be read.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return ImageOps.fit(image.convert(mode), (size[1], size[0]))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ConfigurationError(
            f"{path}: the image cannot be read: {error}", path=str(path)
        ) from error


def _unknown(found: str, where: str) -> ConfigurationError:
    return ConfigurationError(f"{where}: expected {_ACCEPTED}; found {found}")
