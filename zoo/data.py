"""MNIST-like image sets in IDX files (gzip), and the split that training and evaluation share."""

from __future__ import annotations

import gzip
import struct
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
    pixels = read_idx_images(data / IMAGE_FILES[name])
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2))).astype(np.float32) / 127.5 - 1
    shuffled = padded[np.random.default_rng(SPLIT_SEED).permutation(len(padded)), None]
    return ImageSet(train=shuffled[:-HELD_OUT], held_out=shuffled[-HELD_OUT:])
