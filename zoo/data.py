"""MNIST-like image sets in IDX files (gzip), and the split that training and evaluation share.

The held-out images and labels of MNIST are in the repository, so evaluation needs nothing else;
``python -m zoo.data [FOLDER]`` wrote them.
"""

from __future__ import annotations

import gzip
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

#: Beside a checkout, as HACKING.md says; every script takes ``--data``.
DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

IMAGE_FILES = {
    "mnist": "t10k-images-idx3-ubyte.gz",
    "fashion-mnist": "fashion-t10k-images-idx3-ubyte.gz",
}
LABEL_FILES = {
    "mnist": "t10k-labels-idx1-ubyte.gz",
    "fashion-mnist": "fashion-t10k-labels-idx1-ubyte.gz",
}
HELD_OUT_FILES = {
    "mnist": Path(__file__).parent / "held_out" / "mnist-images-idx3-ubyte.gz",
}
HELD_OUT_LABEL_FILES = {
    "mnist": Path(__file__).parent / "held_out" / "mnist-labels-idx1-ubyte.gz",
}
HELD_OUT = 1000
SPLIT_SEED = 0

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """Images in [-1, 1], shape [N, 1, 32, 32]; the two parts share no image."""

    train: Images
    held_out: Images


@dataclass(frozen=True)
class LabelSet:
    """Classes 0 .. 9 of the images of an :class:`ImageSet`, shape [N]."""

    train: Labels
    held_out: Labels


def read_idx_images(path: Path) -> npt.NDArray[np.uint8]:
    """Read a gzipped IDX file of 8-bit images, shape [N, rows, columns].

    Raises
    ------
    FileNotFoundError
        If the file is absent.
    ValueError
        If the magic number or the length does not fit.
    """
    raw = _read_gzip(path)
    if len(raw) < 16 or raw[:4] != b"\x00\x00\x08\x03":
        raise ValueError(f"{path}: expected IDX images (magic 00000803), found {raw[:4].hex()}")
    count, rows, columns = struct.unpack(">III", raw[4:16])
    if len(raw) - 16 != count * rows * columns:
        raise ValueError(f"{path}: expected {count * rows * columns} pixels, found {len(raw) - 16}")
    return np.frombuffer(raw, np.uint8, offset=16).reshape(count, rows, columns)


def read_idx_labels(path: Path) -> npt.NDArray[np.uint8]:
    """Read a gzipped IDX file of 8-bit labels, shape [N].

    Raises
    ------
    FileNotFoundError
        If the file is absent.
    ValueError
        If the magic number or the length does not fit.
    """
    raw = _read_gzip(path)
    if len(raw) < 8 or raw[:4] != b"\x00\x00\x08\x01":
        raise ValueError(f"{path}: expected IDX labels (magic 00000801), found {raw[:4].hex()}")
    (count,) = struct.unpack(">I", raw[4:8])
    if len(raw) - 8 != count:
        raise ValueError(f"{path}: expected {count} labels, found {len(raw) - 8}")
    return np.frombuffer(raw, np.uint8, offset=8)


def load_images(name: str, data: Path = DEFAULT_DATA) -> ImageSet:
    """Load ``name`` ("mnist" or "fashion-mnist"), padded from 28 to 32, split by a fixed seed."""
    shuffled = _shuffled(name, data)
    return ImageSet(train=_padded(shuffled[:-HELD_OUT]), held_out=_padded(shuffled[-HELD_OUT:]))


def load_labels(name: str, data: Path = DEFAULT_DATA) -> LabelSet:
    """Load the classes of :func:`load_images`, in the same order."""
    shuffled = _in_order(read_idx_labels(data / LABEL_FILES[name])).astype(np.int64)
    return LabelSet(train=shuffled[:-HELD_OUT], held_out=shuffled[-HELD_OUT:])


def load_held_out_labels(name: str, data: Path = DEFAULT_DATA) -> Labels:
    """Load the ``held_out`` labels of :func:`load_labels`; those of MNIST without ``data``."""
    if name in HELD_OUT_LABEL_FILES:
        return read_idx_labels(HELD_OUT_LABEL_FILES[name]).astype(np.int64)
    return load_labels(name, data).held_out


def load_held_out(name: str, data: Path = DEFAULT_DATA) -> Images:
    """Load the ``held_out`` images of :func:`load_images`; those of MNIST without ``data``."""
    if name in HELD_OUT_FILES:
        return _padded(read_idx_images(HELD_OUT_FILES[name]))
    return load_images(name, data).held_out


def write_held_out(name: str, data: Path = DEFAULT_DATA) -> Path:
    """Write the held-out images of ``name`` into the repository, 28 x 28, 8 bits."""
    pixels = _shuffled(name, data)[-HELD_OUT:]
    raw = b"\x00\x00\x08\x03" + struct.pack(">III", *pixels.shape) + pixels.tobytes()
    HELD_OUT_FILES[name].write_bytes(gzip.compress(raw, mtime=0))
    return HELD_OUT_FILES[name]


def write_held_out_labels(name: str, data: Path = DEFAULT_DATA) -> Path:
    """Write the held-out labels of ``name`` into the repository."""
    labels = load_labels(name, data).held_out.astype(np.uint8)
    raw = b"\x00\x00\x08\x01" + struct.pack(">I", len(labels)) + labels.tobytes()
    HELD_OUT_LABEL_FILES[name].write_bytes(gzip.compress(raw, mtime=0))
    return HELD_OUT_LABEL_FILES[name]


def _read_gzip(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Pass the folder with --data.")
    return gzip.decompress(path.read_bytes())


def _shuffled(name: str, data: Path) -> npt.NDArray[np.uint8]:
    return _in_order(read_idx_images(data / IMAGE_FILES[name]))


def _in_order(items: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return items[np.random.default_rng(SPLIT_SEED).permutation(len(items))]


def _padded(pixels: npt.NDArray[np.uint8]) -> Images:
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2))).astype(np.float32) / 127.5 - 1
    return padded[:, None]


if __name__ == "__main__":
    for image_set in HELD_OUT_FILES:
        print(write_held_out(image_set, *map(Path, sys.argv[1:])))
        print(write_held_out_labels(image_set, *map(Path, sys.argv[1:])))
