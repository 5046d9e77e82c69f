"""MNIST-like image sets in IDX files (gzip), and the split that training and evaluation share.

The held-out images of MNIST are in the repository, so evaluation needs nothing else;
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
HELD_OUT_FILES = {
    "mnist": Path(__file__).parent / "held_out" / "mnist-images-idx3-ubyte.gz",
}
HELD_OUT = 1000
SPLIT_SEED = 0

Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImageSet:
    """Images in [-1, 1], shape [N, 1, 32, 32]; the two parts share no image."""

    train: Images
    held_out: Images


def read_idx_images(path: Path) -> npt.NDArray[np.uint8]:
    """Read a gzipped IDX file of 8-bit images, shape [N, rows, columns].

    Raises
    ------
    FileNotFoundError
        If the file is absent.
    ValueError
        If the magic number or the length does not fit.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Pass the folder with --data.")
    raw = gzip.decompress(path.read_bytes())
    if len(raw) < 16 or raw[:4] != b"\x00\x00\x08\x03":
        raise ValueError(f"{path}: expected IDX images (magic 00000803), found {raw[:4].hex()}")
    count, rows, columns = struct.unpack(">III", raw[4:16])
    if len(raw) - 16 != count * rows * columns:
        raise ValueError(f"{path}: expected {count * rows * columns} pixels, found {len(raw) - 16}")
    return np.frombuffer(raw, np.uint8, offset=16).reshape(count, rows, columns)


def load_images(name: str, data: Path = DEFAULT_DATA) -> ImageSet:
    """Load ``name`` ("mnist" or "fashion-mnist"), padded from 28 to 32, split by a fixed seed."""
    shuffled = _shuffled(name, data)
    return ImageSet(train=_padded(shuffled[:-HELD_OUT]), held_out=_padded(shuffled[-HELD_OUT:]))


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


def _shuffled(name: str, data: Path) -> npt.NDArray[np.uint8]:
    pixels = read_idx_images(data / IMAGE_FILES[name])
    return pixels[np.random.default_rng(SPLIT_SEED).permutation(len(pixels))]


def _padded(pixels: npt.NDArray[np.uint8]) -> Images:
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2))).astype(np.float32) / 127.5 - 1
    return padded[:, None]


if __name__ == "__main__":
    for image_set in HELD_OUT_FILES:
        print(write_held_out(image_set, *map(Path, sys.argv[1:])))
