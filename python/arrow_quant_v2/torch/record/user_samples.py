"""Clean samples of a user as the denoiser of a pipeline would see them without noise."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.torch.record.samples import Samples
from arrow_quant_v2.torch.record.trajectory import batches_of

__all__ = ["clean_latents"]

_ENCODED_AT_ONCE = 8
_SOUND_CHANNELS = 2  # more are bands of a spectrogram


def clean_latents(pipeline: Any, denoiser: Any, data: Samples) -> Tensor | None:
    """Images, sounds or arrays [n, ...] as float32 in the form of the denoiser's samples.

    None when the data has none of them. Images are in -1..1; an autoencoder encodes them where the
    pipeline has one.

    Raises
    ------
    ConfigurationError
        A file cannot be read, or the pipeline's form of sound is not known.
    """
    vae = getattr(pipeline, "vae", None)
    channels = denoiser.config.get("in_channels", 1)
    if data.images:
        pixels = _images(data.images, _pixel_size(pipeline, denoiser, vae), vae or denoiser)
        return pixels if vae is None else _encoded(vae, pixels)
    if data.sounds:
        return _waveforms(data.sounds, denoiser.config)
    if data.clean is None:
        return None
    if vae is not None and data.clean.shape[1] != channels:
        return _encoded(vae, data.clean)
    return data.clean


def _pixel_size(pipeline: Any, denoiser: Any, vae: Any) -> tuple[int, int]:
    size = denoiser.config.get("sample_size")
    if size is None:
        raise ConfigurationError(
            "calibration_data: the model does not say the size of its images",
            hint="Give an array of clean samples instead of a folder.",
        )
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    if vae is None:
        return height, width
    scale = getattr(pipeline, "vae_scale_factor", None)
    scale = scale or 2 ** (len(vae.config.get("block_out_channels", (0,))) - 1)
    return height * scale, width * scale


def _images(paths: Sequence[Path], size: tuple[int, int], reader: Any) -> Tensor:
    from PIL import Image, ImageOps, UnidentifiedImageError

    mode = "L" if reader.config.get("in_channels", 3) == 1 else "RGB"
    found = []
    for path in paths:
        try:
            with Image.open(path) as image:
                fitted = ImageOps.fit(image.convert(mode), (size[1], size[0]))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ConfigurationError(
                f"{path}: the image cannot be read: {error}", path=str(path)
            ) from error
        pixels = np.asarray(fitted, np.float32).reshape(*size, -1) / 127.5 - 1
        found.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return torch.stack(found)


def _encoded(vae: Any, pixels: Tensor) -> Tensor:
    scale = vae.config.get("scaling_factor") or 1.0
    shift = vae.config.get("shift_factor") or 0.0
    parts = []
    with torch.no_grad():
        for numbers in batches_of(len(pixels), _ENCODED_AT_ONCE):
            coded = vae.encode(pixels[numbers.start : numbers.stop])
            latents = coded.latent_dist.mean if hasattr(coded, "latent_dist") else coded.latents
            parts.append((latents - shift) * scale)
    return torch.cat(parts)


def _waveforms(paths: Sequence[Path], config: Any) -> Tensor:
    rate, length = config.get("sample_rate"), config.get("sample_size")
    channels = config.get("in_channels", 1)
    if not isinstance(rate, int) or not isinstance(length, int) or channels > _SOUND_CHANNELS:
        raise ConfigurationError(
            "calibration_data: this model does not work on waveforms",
            hint="Give an array of clean samples in the model's own form, such as spectrograms.",
        )
    found = []
    for path in paths:
        sound = _read_wave(path, rate)
        padded = functional.pad(sound, (0, max(0, length - len(sound))))
        found.append(padded[:length].expand(channels, length))
    return torch.stack(found)


def _read_wave(path: Path, rate: int) -> Tensor:
    """One channel in -1..1 at `rate` samples a second."""
    try:
        with wave.open(str(path)) as file:
            width, own_rate, channels = (
                file.getsampwidth(),
                file.getframerate(),
                file.getnchannels(),
            )
            frames = file.readframes(file.getnframes())
        dtype = {1: np.uint8, 2: np.int16, 4: np.int32}[width]
    except (OSError, EOFError, wave.Error, KeyError) as error:
        raise ConfigurationError(
            f"{path}: expected a .wav file of 8, 16 or 32 bit samples: {error}", path=str(path)
        ) from error
    values = np.frombuffer(frames, dtype).astype(np.float32).reshape(-1, channels).mean(axis=1)
    values = values / 128 - 1 if width == 1 else values / float(1 << (8 * width - 1))
    seconds = len(values) / own_rate
    times = np.arange(int(seconds * rate)) / rate
    resampled = np.interp(times, np.arange(len(values)) / own_rate, values)
    return torch.from_numpy(resampled.astype(np.float32))
