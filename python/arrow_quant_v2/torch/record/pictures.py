"""Pictures, masks and sounds that stand for those of a user: natural in their statistics.

Natural pictures have a spectrum of about 1/f (Field 1987, "Relations between the statistics of
natural images and the response properties of cortical cells"), and objects with edges in them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["mask", "picture", "sound", "video"]

_SHAPES = 3
_SLOPE = 1.2  # of the amplitude over the frequency; natural pictures have 0.8 to 1.5
_DRIFT = 0.02  # of its side that a picture moves from one frame of a video to the next
_SOFTNESS = 40.0  # steepness of edges: one unit is the side of the picture


def picture(height: int, width: int, seed: int, shift: float = 0.0) -> Any:
    """A colour picture of PIL: a background of 1/f noise with a few shapes before it.

    Parameters
    ----------
    height, width
        In pixels.
    seed
        The same seed gives the same picture.
    shift
        How far everything has moved to the right, in widths of the picture.
    """
    from PIL import Image

    random = np.random.default_rng(seed)
    values = _background(height, width, random, shift)
    y, x = _grid(height, width)
    for _ in range(_SHAPES):
        values = _with_shape(values, y, (x - shift) % 1.0, random)
    return Image.fromarray((255 * values.clip(0, 1)).astype(np.uint8))


def mask(height: int, width: int, seed: int) -> Any:
    """A picture of PIL in grey: one ellipse is white, about a fifth of the area."""
    from PIL import Image

    random = np.random.default_rng(seed)
    y, x = _grid(height, width)
    middle, radius = random.uniform(0.35, 0.65, 2), random.uniform(0.2, 0.3, 2)
    inside = ((y - middle[0]) / radius[0]) ** 2 + ((x - middle[1]) / radius[1]) ** 2 < 1
    return Image.fromarray((255 * inside).astype(np.uint8))


def video(frames: int, height: int, width: int, seed: int) -> list[Any]:
    """Pictures of one scene that moves slowly to the right."""
    return [picture(height, width, seed, _DRIFT * number) for number in range(frames)]


def sound(samples: int, rate: int, seed: int) -> npt.NDArray[np.float32]:
    """A sound ``[samples]`` in -1..1: a chord that fades over 1/f noise."""
    random = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    tones = random.uniform(100.0, 1000.0, 3)
    chord = sum(np.sin(2 * np.pi * tone * time + tone) for tone in tones) / 3
    spectrum = np.fft.rfft(random.standard_normal(samples))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1.0))
    noise = np.fft.irfft(spectrum, samples)
    noise /= max(float(np.abs(noise).max()), 1e-9)
    return np.asarray(0.5 * chord * np.exp(-time) + 0.1 * noise, np.float32)


def _grid(height: int, width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Coordinates of the pixels, in 0..1: [height, 1] and [1, width]."""
    y = (np.arange(height) + 0.5) / height
    x = (np.arange(width) + 0.5) / width
    return y[:, None], x[None]


def _background(
    height: int, width: int, random: np.random.Generator, shift: float
) -> npt.NDArray[np.float64]:
    """[height, width, 3] around a mean colour; channels share most of their light."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    amplitude = frequency**-_SLOPE
    phase = np.exp(-2j * np.pi * shift * width * np.fft.rfftfreq(width))[None]
    layers = []
    for _ in range(4):
        spectrum = np.fft.rfft2(random.standard_normal((height, width))) * amplitude * phase
        layer = np.fft.irfft2(spectrum, (height, width))
        layers.append(layer / max(float(layer.std()), 1e-9))
    colours = [0.18 * layers[0] + 0.06 * layer for layer in layers[1:]]
    return random.uniform(0.3, 0.7, 3) + np.stack(colours, axis=-1)


def _with_shape(
    values: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    x: npt.NDArray[np.float64],
    random: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """An ellipse or a rectangle of one colour, lit from above."""
    middle, radius = random.uniform(0.2, 0.8, 2), random.uniform(0.08, 0.25, 2)
    across, down = np.abs(x - middle[1]) / radius[1], np.abs(y - middle[0]) / radius[0]
    distance = np.hypot(down, across) if random.random() < 0.5 else np.maximum(down, across)
    steepness = _SOFTNESS * radius.min()
    cover = 1 / (1 + np.exp(np.clip(steepness * (distance - 1), -50, 50)))
    light = random.uniform(0, 1, 3) + 0.2 * (middle[0] - y)[..., None]
    return np.asarray(values + cover[..., None] * (light - values))
