"""How large the samples are that a pipeline makes to be calibrated on, and in how many steps."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arrow_quant_v2.config.settings import CALIBRATION, DiffusionQuantConfig

__all__ = ["Geometry", "Sampling", "call_parameters", "geometry_of", "steps_of", "vae_scale"]

#: Attributes of pipelines that say how many pixels or frames one latent stands for.
_SPATIAL = (
    "vae_scale_factor",
    "vae_scale_factor_spatial",
    "vae_spatial_compression_ratio",
    "vae_scale_factor_height",
)
_TEMPORAL = (
    "vae_scale_factor_temporal",
    "vae_temporal_compression_ratio",
    "vae_scale_factor_time",
)
#: Arguments that say how many frames a video has.
_FRAMES = ("num_frames", "video_length", "frames")
#: Sides in pixels are multiples of this where a pipeline is told a size.
_MULTIPLE = 16


@dataclass(frozen=True)
class Sampling:
    """What a user asks of the samples; None: the default for the model.

    Attributes
    ----------
    size
        Height, width and, where it is given, frames.
    steps
        Of the sampler.
    guidance
        The scale of classifier-free guidance.
    """

    size: tuple[int, ...] | None = None
    steps: int | None = None
    guidance: float | None = None

    @classmethod
    def of(cls, config: DiffusionQuantConfig) -> Sampling:
        """What the settings ask for."""
        return cls(config.calibration_size, config.calibration_steps, config.guidance_scale)


@dataclass(frozen=True)
class Geometry:
    """The size of a sample.

    Attributes
    ----------
    height, width
        In pixels; 0 where the model makes no pictures.
    frames
        Of a video; 1: a picture.
    latents
        Positions of the latent representation.
    given
        The arguments that tell the pipeline; empty where its own defaults give that size.
    """

    height: int
    width: int
    frames: int
    latents: int
    given: Mapping[str, int]


def call_parameters(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    """Parameters of the call of a pipeline, without self."""
    known = dict(inspect.signature(type(pipeline).__call__).parameters)
    known.pop("self", None)
    return known


def steps_of(pipeline: Any, argument: str, sampling: Sampling) -> int:
    """Steps for an argument such as ``num_inference_steps``.

    Unless the user says so, no more than the pipeline makes by itself: distilled models take few.
    """
    most = _train_steps(pipeline)
    if sampling.steps is not None:
        return min(sampling.steps, most)
    default = call_parameters(pipeline)[argument].default
    own = default if isinstance(default, int) and default > 0 else CALIBRATION.sampler_steps
    return min(CALIBRATION.sampler_steps, own, most)


def _train_steps(pipeline: Any) -> int:
    """Steps that the schedule has at most."""
    scheduler = getattr(pipeline, "scheduler", None)
    config = getattr(scheduler, "config", {})
    return int(config.get("num_train_timesteps") or 1000)


def vae_scale(pipeline: Any) -> int:
    """Pixels along one side of the square that a latent stands for; 1 without an autoencoder."""
    vae = getattr(pipeline, "vae", None) or getattr(pipeline, "vqvae", None)
    for name in _SPATIAL:
        value = getattr(pipeline, name, None)
        if isinstance(value, int) and value > 0:
            return value
    if vae is None:
        return int(getattr(pipeline, "movq_scale_factor", 1))
    ratio = getattr(vae, "spatial_compression_ratio", None)
    if isinstance(ratio, int):
        return ratio
    return int(2 ** (len(vae.config.get("block_out_channels", (0,))) - 1))


def geometry_of(pipeline: Any, denoiser: Any, sampling: Sampling) -> Geometry:
    """The size that a user asked for, or one that the model knows within a budget of latents."""
    if "1D" in type(denoiser).__name__:  # of sounds, whose length is all there is
        length = denoiser.config.get("sample_size")
        length = length if isinstance(length, int) else CALIBRATION.latents
        return Geometry(0, 0, 1, length, {})
    known = call_parameters(pipeline)
    scale = vae_scale(pipeline)
    frames_argument = next((name for name in _FRAMES if name in known), None)
    temporal = _attribute(pipeline, _TEMPORAL, 1)
    size = sampling.size or ()
    frames = 1
    if frames_argument is not None:
        frames = size[2] if len(size) > 2 else _frames(denoiser, temporal)
    deep = (frames - 1) // temporal + 1
    trained = _trained_sides(denoiser)
    if size:
        height, width = size[0], size[1]
    elif trained is not None:
        height, width = (side * scale for side in trained)
    else:
        height = width = 1 << 20
    multiple = _multiple(denoiser, scale)
    if not size:
        budget = _budget(denoiser, trained is not None) // deep
        height, width = _within(height, width, budget * scale * scale, multiple)
    given: dict[str, int] = {}
    if not _is_own_size(known, denoiser, (height, width), scale, size):
        sides = {"height": height, "width": width}
        given = {name: side for name, side in sides.items() if name in known}
    if frames_argument is not None:
        given[frames_argument] = frames
    latents = max(1, height // scale) * max(1, width // scale) * deep
    return Geometry(height, width, frames, latents, given)


def _is_own_size(
    known: Mapping[str, inspect.Parameter],
    denoiser: Any,
    sides: tuple[int, int],
    scale: int,
    size: tuple[int, ...],
) -> bool:
    """Whether the pipeline comes to that size by itself."""
    if size or "height" not in known or known["height"].default is not None:
        return False
    trained = denoiser.config.get("sample_size")
    if trained is None:
        return False
    height, width = (trained, trained) if isinstance(trained, int) else tuple(trained)[-2:]
    return (height * scale, width * scale) == sides


def _attribute(pipeline: Any, names: tuple[str, ...], default: int) -> int:
    for name in names:
        value = getattr(pipeline, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return default


def _trained_sides(denoiser: Any) -> tuple[int, int] | None:
    """Height and width in latents that the denoiser says it was made for."""
    config = denoiser.config
    height, width = config.get("sample_height"), config.get("sample_width")
    if isinstance(height, int) and isinstance(width, int):
        return height, width
    size = config.get("sample_size")
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) >= 2:
        return int(size[-2]), int(size[-1])
    return None


def _frames(denoiser: Any, temporal: int) -> int:
    """A short video: three latent frames, or four frames where each is one."""
    least = CALIBRATION.latent_frames
    frames = (least - 1) * temporal + 1 if temporal > 1 else least + 1
    trained = denoiser.config.get("num_frames") or denoiser.config.get("sample_frames")
    return min(frames, trained) if isinstance(trained, int) else frames


def _multiple(denoiser: Any, scale: int) -> int:
    """What sides in pixels must be multiples of: a whole number of patches, in most pipelines."""
    patch = denoiser.config.get("patch_size")
    if isinstance(patch, list | tuple):
        patch = patch[-1]
    patch = patch if isinstance(patch, int) and patch > 0 else 1
    return math.lcm(_MULTIPLE, scale * math.lcm(patch, 2))


def _budget(denoiser: Any, has_size: bool) -> int:
    """Latents of a sample, at most.

    A narrow model that does not say its size gets few: its time would all go into attention.
    """
    most = CALIBRATION.latents
    if has_size:
        return most
    config = denoiser.config
    heads, size = config.get("num_attention_heads"), config.get("attention_head_dim")
    width = heads * size if isinstance(heads, int) and isinstance(size, int) else None
    for name in ("dim", "hidden_size", "inner_dim"):
        width = width or (config.get(name) if isinstance(config.get(name), int) else None)
    return min(most, CALIBRATION.latents_per_channel * width) if width else most


def _within(height: int, width: int, area: int, multiple: int) -> tuple[int, int]:
    """The sides, made smaller to an area where they are larger, then to multiples."""
    if height * width <= area:
        return height, width
    shrink = math.sqrt(area / (height * width))
    return tuple(  # type: ignore[return-value]
        max(multiple, int(side * shrink) // multiple * multiple) for side in (height, width)
    )
