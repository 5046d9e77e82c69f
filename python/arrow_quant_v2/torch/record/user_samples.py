"""Clean samples of a user as the denoiser of a pipeline would see them without noise."""

from __future__ import annotations

import contextlib
import inspect
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.torch.record.neutral_inputs import NEUTRAL_PROMPTS
from arrow_quant_v2.torch.record.recorder import Arguments, RunEndedError, schedulers_of
from arrow_quant_v2.torch.record.samples import Samples, open_image
from arrow_quant_v2.torch.record.sampling import (
    Geometry,
    call_parameters,
    vae_scale,
)
from arrow_quant_v2.torch.record.trajectory import batches_of

__all__ = ["clean_latents", "size_of_latents"]

_ENCODED_AT_ONCE = 8
_SOUND_CHANNELS = 2  # more are bands of a spectrogram


def clean_latents(pipeline: Any, denoiser: Any, data: Samples, geometry: Geometry) -> Tensor | None:
    """Images, sounds or arrays [n, ...] as float32 in the form of the denoiser's samples.

    None when the data has none of them. The image-to-image pipeline of the same model encodes,
    normalises and packs images where there is one; else the autoencoder encodes them. Latents that
    the denoiser takes packed are packed by the pipeline.

    Raises
    ------
    ConfigurationError
        A file cannot be read, or the pipeline's form of sound is not known.
    """
    vae = getattr(pipeline, "vae", None)
    channels = denoiser.config.get("in_channels", 1)
    if data.images:
        return _images(pipeline, denoiser, data.images, geometry)
    if data.sounds:
        return _waveforms(data.sounds, denoiser.config)
    if data.clean is None:
        return None
    found = data.clean.shape[1]
    if vae is not None and data.clean.ndim == 4 and found == _colours(vae) != channels:
        return _encoded(vae, data.clean)
    return _packed(pipeline, denoiser, data.clean)


def size_of_latents(pipeline: Any, denoiser: Any, data: Samples) -> tuple[int, int] | None:
    """Height and width in pixels of an array of latents [n, channels, height, width]."""
    if data.clean is None or data.clean.ndim != 4:
        return None
    vae = getattr(pipeline, "vae", None)
    height, width = data.clean.shape[-2:]
    scale = 1 if vae is not None and data.clean.shape[1] == _colours(vae) else vae_scale(pipeline)
    return height * scale, width * scale


def _colours(vae: Any) -> int:
    return int(vae.config.get("in_channels") or 3)


def _images(pipeline: Any, denoiser: Any, paths: Sequence[Path], geometry: Geometry) -> Tensor:
    vae = getattr(pipeline, "vae", None)
    size = (geometry.height, geometry.width)
    if vae is None:
        return _pixels(paths, size, denoiser)
    sibling = _image_to_image(pipeline)
    if sibling is None:
        if not hasattr(vae, "encode") or vae.config.get("latents_mean") is not None:
            raise ConfigurationError(
                f"calibration_data: {type(pipeline).__name__} does not tell how it encodes images",
                hint="Give an array of latents, as its autoencoder makes and the pipeline "
                "normalises them.",
            )
        return _encoded(vae, _pixels(paths, size, vae))
    return torch.cat([_states(sibling, denoiser, path, size) for path in paths])


def _image_to_image(pipeline: Any) -> Any:
    """The pipeline that starts from an image, of the same networks; None: there is none."""
    if "strength" in call_parameters(pipeline) and "image" in call_parameters(pipeline):
        return pipeline
    from diffusers import AutoPipelineForImage2Image

    try:
        sibling = AutoPipelineForImage2Image.from_pipe(pipeline)
    except (ValueError, AttributeError, TypeError):
        return None
    sibling.set_progress_bar_config(disable=True)
    return sibling if "strength" in call_parameters(sibling) else None


def _states(pipeline: Any, denoiser: Any, path: Path, size: tuple[int, int]) -> Tensor:
    """What the denoiser gets first of an image when no noise is added: [1, ...]."""
    known = call_parameters(pipeline)
    given: dict[str, Any] = {
        "prompt": NEUTRAL_PROMPTS[0],
        "image": open_image(path, size, "RGB"),
        "height": size[0],
        "width": size[1],
        "strength": 1.0,
        "num_inference_steps": 2,
        "generator": torch.Generator().manual_seed(0),
    }
    arguments = Arguments(denoiser)
    found: list[Tensor] = []

    def take(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = arguments.by_name(args, kwargs)[arguments.sample_name or ""]
        found.append((sample[0] if isinstance(sample, list) else sample[:1]).detach().clone())
        if isinstance(sample, list):
            found[-1] = found[-1][None]
        raise RunEndedError

    handle = denoiser.register_forward_pre_hook(take, with_kwargs=True)
    try:
        with _without_noise(pipeline), torch.no_grad(), contextlib.suppress(RunEndedError):
            pipeline(**{name: value for name, value in given.items() if name in known})
    finally:
        handle.remove()
    return found[0].float()


@contextlib.contextmanager
def _without_noise(pipeline: Any) -> Iterator[None]:
    """Schedulers that add no noise and do not scale."""

    def clean(self: Any, original: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return original

    with contextlib.ExitStack() as stack:
        for scheduler in schedulers_of(pipeline):
            kind = type(scheduler)
            methods = ("add_noise", "scale_noise", "scale_model_input")
            silent = {name: clean for name in methods if hasattr(kind, name)}
            stack.callback(setattr, scheduler, "__class__", kind)
            scheduler.__class__ = type(kind.__name__, (kind,), silent)
        yield


def _packed(pipeline: Any, denoiser: Any, clean: Tensor) -> Tensor:
    """Latents as the denoiser takes them: some pipelines make sequences of them."""
    pack = getattr(pipeline, "_pack_latents", None)
    if pack is None or clean.ndim < 4:
        return clean
    count, channels, *_, height, width = clean.shape
    known = {
        "latents": clean,
        "batch_size": count,
        "num_channels_latents": channels,
        "height": height,
        "width": width,
        "patch_size": getattr(pipeline, "transformer_spatial_patch_size", 1),
        "patch_size_t": getattr(pipeline, "transformer_temporal_patch_size", 1),
        "num_frames": clean.shape[2] if clean.ndim == 5 else 1,
    }
    names = inspect.signature(pack).parameters
    return torch.as_tensor(pack(**{name: known[name] for name in names if name in known}))


def _pixels(paths: Sequence[Path], size: tuple[int, int], reader: Any) -> Tensor:
    mode = "L" if reader.config.get("in_channels", 3) == 1 else "RGB"
    found = []
    for path in paths:
        pixels = np.asarray(open_image(path, size, mode), np.float32).reshape(*size, -1)
        found.append(torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1))
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
