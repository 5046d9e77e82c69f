"""Inputs of pipelines that start from something other than a prompt."""

from __future__ import annotations

from typing import Any

import numpy as np


def picture(size: int = 32, seed: int = 0) -> Any:
    from PIL import Image

    numbers = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(numbers)


def mask(size: int = 32) -> Any:
    """The left half is to be painted."""
    from PIL import Image

    numbers = np.zeros((size, size), np.uint8)
    numbers[:, : size // 2] = 255
    return Image.fromarray(numbers)


def frames(number: int, size: int = 32) -> list[Any]:
    return [picture(size, seed) for seed in range(number)]
