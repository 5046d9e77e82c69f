"""Arguments for the call of a pipeline: those of the user, and neutral ones where it needs more.

:data:`MAKERS` says for each name of an argument how its value is made. A pipeline gets the
arguments that its signature requires, and those optional ones that its kind cannot do without.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from arrow_quant_v2.calibration.model_kind import CannotRunError
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.torch.record import pictures
from arrow_quant_v2.torch.record.samples import Samples, open_image
from arrow_quant_v2.torch.record.sampling import (
    Geometry,
    Sampling,
    call_parameters,
    steps_of,
    vae_scale,
)

__all__ = ["MAKERS", "NEUTRAL_PROMPTS", "Inputs", "Request", "arguments", "takes_images"]

_IMAGENET_CLASSES = 1000
_SECONDS = 2.0  # of a sound whose length a pipeline asks for
_RATE = 44_100

#: Prompts for pipelines that want text when the user has none: common things, plainly said.
NEUTRAL_PROMPTS = (
    "a photograph of a dog in a park",
    "a bowl of fruit on a wooden table",
    "a city street at night in the rain",
    "a portrait of an old woman",
    "mountains and a lake, morning light",
    "a red car in front of a house",
    "a drawing of a sailing ship",
    "people at a market",
    "a close-up of a flower",
    "an empty room with a large window",
    "a bird on a branch",
    "a bridge over a river, oil painting",
    "a cup of coffee beside a book",
    "a child playing on the beach",
    "an astronaut on a horse",
    "a forest in autumn",
)

#: Words in the names of classes whose pipelines start from pictures or videos.
_NEEDS_MEDIA = (
    "Img2Img", "Inpaint", "Edit", "Kontext", "Fill", "Control", "Adapter", "Variation", "Upscale",
    "SuperRes", "ImageToVideo", "Image2Video", "I2V", "I2I", "VideoToVideo", "VideoToWorld",
    "Pix2Pix", "Depth2Img", "Cloze", "Refiner", "AudioToAudio", "Animate", "Layered", "Upsample",
)  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """Which arguments a run of a pipeline gets.

    Attributes
    ----------
    optional
        Pictures, sounds and the like too where the signature does not require them.
    size
        The size of the samples; without it the pipeline takes its own.
    """

    optional: bool
    size: bool


@dataclass(frozen=True)
class Request:
    """What a run of a pipeline is about: the samples of these `numbers`."""

    pipeline: Any
    denoiser: Any
    data: Samples
    numbers: range
    seed: int
    geometry: Geometry
    sampling: Sampling
    generator: torch.Generator

    @property
    def height(self) -> int:
        """Of a picture, in pixels."""
        return self.geometry.height

    @property
    def width(self) -> int:
        """Of a picture, in pixels."""
        return self.geometry.width

    def each(self, make: Callable[[int], Any]) -> Any:
        """A list with one value for each sample; the value alone where there is one sample."""
        made = [make(number) for number in self.numbers]
        return made[0] if len(made) == 1 else made

    def has(self, *words: str) -> bool:
        """Whether the name of the pipeline's class has one of these words in it."""
        return any(word in type(self.pipeline).__name__ for word in words)


Maker = Callable[[Request], Any]


def arguments(request: Request, inputs: Inputs) -> dict[str, Any]:
    """Arguments for one run of the pipeline.

    Raises
    ------
    CannotRunError
        The pipeline needs arguments that neither the data nor a default supplies.
    ConfigurationError
        The data is of a kind that the pipeline does not take.
    """
    known = call_parameters(request.pipeline)
    _check_data(request, known)
    required = [
        name
        for name, parameter in known.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    wanted = [*_ALWAYS, *required]
    if inputs.optional or request.has(*_NEEDS_MEDIA):
        wanted += _MEDIA
    names = [name for name in dict.fromkeys(wanted) if name in known and name in MAKERS]
    given = {name: MAKERS[name](request) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if inputs.size:
        given |= request.geometry.given
    missing = [name for name in required if name not in given]
    if missing:
        raise CannotRunError(
            f"{type(request.pipeline).__name__} needs {', '.join(missing)}; give calibration_data "
            "as a callable that makes batches"
        )
    return given


def takes_images(pipeline: Any) -> bool:
    """Whether pictures of the user are an argument of the pipeline, not samples of it."""
    known = call_parameters(pipeline)
    named = any(word in type(pipeline).__name__ for word in _NEEDS_MEDIA)
    required = any(
        name in known and known[name].default is inspect.Parameter.empty for name in _PICTURES
    )
    return required or (named and any(name in known for name in _PICTURES))


def _check_data(request: Request, known: Mapping[str, Any]) -> None:
    name, data = type(request.pipeline).__name__, request.data
    if data.texts and "prompt" not in known:
        raise ConfigurationError(f"calibration_data: {name} takes no prompts")
    if data.labels and "class_labels" not in known:
        raise ConfigurationError(f"calibration_data: {name} takes no labels")


def _prompt(request: Request) -> Any:
    texts = request.data.texts or NEUTRAL_PROMPTS
    return request.each(lambda number: texts[number % len(texts)])


def _negative_prompt(request: Request) -> Any:
    """Where a scale of guidance above 1 needs one to take effect."""
    scale = call_parameters(request.pipeline).get("true_cfg_scale")
    if scale is None or not isinstance(scale.default, float | int) or scale.default <= 1:
        return None
    return request.each(lambda _: " ")


def _output_type(request: Request) -> Any:
    return "latent" if "prompt" in call_parameters(request.pipeline) else None


def _guidance(request: Request, *, true_scale: bool) -> float | None:
    """The user's scale for ``true_cfg_scale`` or ``guidance_scale``.

    Models that were trained with a scale as an input take it as ``guidance_scale``.
    """
    scale = request.sampling.guidance
    if scale is None:
        known, classes = call_parameters(request.pipeline), _known_classes(request.denoiser)
        # DiTPipeline takes class 1000 for none.
        without = "class_labels" in known and classes not in (None, _IMAGENET_CLASSES)
        return 1.0 if without and not true_scale else None
    has_true_scale = "true_cfg_scale" in call_parameters(request.pipeline)
    embeds = bool(request.denoiser.config.get("guidance_embeds"))
    return scale if true_scale == (has_true_scale and not embeds) else None


def _steps(argument: str) -> Maker:
    return lambda request: steps_of(request.pipeline, argument, request.sampling)


def _known_classes(denoiser: Any) -> int | None:
    config = denoiser.config
    classes = config.get("num_embeds_ada_norm") or config.get("num_class_embeds")
    return int(classes) if classes else None


def _labels(request: Request) -> Any:
    parameter = call_parameters(request.pipeline)["class_labels"]
    classes, data = _known_classes(request.denoiser), request.data
    if classes is None:
        if parameter.default is None and not data.labels:
            return None
        raise CannotRunError("the denoiser does not say how many classes it knows")
    if data.labels:
        wrong = [label for label in data.labels if not 0 <= label < classes]
        if wrong:
            raise ConfigurationError(
                f"calibration_data: expected class labels from 0 to {classes - 1}, found {wrong[0]}"
            )
        return [data.labels[i % len(data.labels)] for i in request.numbers]
    drawn = torch.randint(0, classes, (len(request.numbers),), generator=request.generator)
    return [int(label) for label in drawn]


def _size_of_image(request: Request) -> tuple[int, int]:
    """Height and width of the picture that a pipeline starts from."""
    height, width = request.height, request.width
    scale = vae_scale(request.pipeline)
    if request.has("Upscale", "SuperRes") and not request.has("LatentUpscale"):
        part = scale if scale > 1 else 4
        return max(8, height // part), max(8, width // part)
    return height, width


def _picture(request: Request, number: int) -> Any:
    height, width = _size_of_image(request)
    images = request.data.images
    if images:
        return open_image(images[number % len(images)], (height, width), "RGB")
    return pictures.picture(height, width, request.seed + number)


def _image(request: Request) -> Any:
    if request.has("ControlNet") and "control_image" not in call_parameters(request.pipeline):
        return _control_image(request)
    if request.has("Adapter"):
        return _control_image(request)
    if request.has("Cloze"):
        return _cloze(request)
    if request.has("EditPlus") and len(request.numbers) > 1:
        return [[_picture(request, number)] for number in request.numbers]
    return request.each(lambda number: _picture(request, number))


def _cloze(request: Request) -> Any:
    """A row of an example, and a row whose last picture is to be made."""
    first, second, third = (_picture(request, request.numbers[0] + i) for i in range(3))
    return [[first, second], [third, None]]


def _control_image(request: Request) -> Any:
    """What a control network sees: one picture for each of several networks."""
    one = request.each(
        lambda number: pictures.picture(request.height, request.width, request.seed + number)
    )
    for name in ("controlnet", "adapter"):
        nets = getattr(getattr(request.pipeline, name, None), "nets", None)
        nets = nets or getattr(getattr(request.pipeline, name, None), "adapters", None)
        if nets is not None:
            return [one for _ in nets]
    return _as_channels(request, one)


def _control_mode(request: Request) -> int | None:
    """The first kind of picture of a network that was trained for several."""
    config = getattr(getattr(request.pipeline, "controlnet", None), "config", {})
    return 0 if config.get("num_control_type") or config.get("num_mode") else None


def _as_channels(request: Request, one: Any) -> Any:
    """In grey where an adapter has one channel."""
    adapter = getattr(request.pipeline, "adapter", None)
    config = getattr(adapter, "config", {})
    if config.get("in_channels") != 1:
        return one
    many = one if isinstance(one, list) else [one]
    grey = [image.convert("L") for image in many]
    return grey if isinstance(one, list) else grey[0]


def _mask(request: Request) -> Any:
    return request.each(
        lambda number: pictures.mask(request.height, request.width, request.seed + number)
    )


def _video(request: Request) -> Any:
    frames = max(request.geometry.frames, 1)
    return request.each(
        lambda number: pictures.video(frames, request.height, request.width, request.seed + number)
    )


def _mask_video(request: Request) -> Any:
    frames = max(request.geometry.frames, 1)
    return [pictures.mask(request.height, request.width, request.seed)] * frames


def _hint(request: Request) -> torch.Tensor:
    """A control picture as numbers [samples, 3, height, width] in 0..1."""
    import numpy as np

    made = [
        np.asarray(pictures.picture(request.height, request.width, request.seed + number))
        for number in request.numbers
    ]
    return torch.from_numpy(np.stack(made)).float().permute(0, 3, 1, 2) / 255


def _drawn(request: Request, *shape: int) -> torch.Tensor:
    return torch.randn(len(request.numbers), *shape, generator=request.generator)


def _image_embeds(request: Request) -> Any:
    """What a prior would say of a picture: as many numbers as the denoiser takes."""
    config = request.denoiser.config
    channels = config.get("encoder_hid_dim") or config.get("cross_attention_dim")
    return _drawn(request, int(channels)) if isinstance(channels, int) else None


def _image_embeddings(request: Request) -> Any:
    """What a prior of the Cascade family says: a small picture of many channels."""
    config = request.denoiser.config
    channels = config.get("effnet_in_channels") or config.get("effnet_embd") or 16
    parts = float(request.pipeline.config.get("latent_dim_scale", 10.67))
    side = [max(1, round(side / (4 * parts))) for side in (request.height, request.width)]
    return _drawn(request, int(channels), *side)


def _audio(request: Request) -> torch.Tensor:
    """Two channels at the rate of the model."""
    vae = getattr(request.pipeline, "vae", None)
    rate = int(getattr(vae, "sampling_rate", 0) or _RATE)
    made = [
        torch.from_numpy(pictures.sound(int(_SECONDS * rate), rate, request.seed + number))
        for number in request.numbers
    ]
    return torch.stack(made)[:, None].expand(-1, 2, -1)


def _seconds(request: Request) -> float:
    return _SECONDS


def _controls(request: Request) -> Any:
    return {"edge": _video(request)}


def _encoder_layers(request: Request) -> tuple[int, ...] | None:
    """The last layers of a text encoder that has fewer than the default names."""
    default = call_parameters(request.pipeline)["text_encoder_out_layers"].default
    config = request.pipeline.text_encoder.config
    config = getattr(config, "text_config", config)
    layers, width = config.num_hidden_layers, config.hidden_size
    taken = request.denoiser.config.get("joint_attention_dim")
    if not isinstance(default, tuple) or max(default) <= layers or not taken:
        return None
    count = max(1, taken // width)
    return tuple(range(max(0, layers - count + 1), layers + 1))


def _ip_adapter_image(request: Request) -> Any:
    # An adapter that is loaded later sets the attribute of the configuration and not its key.
    if getattr(request.denoiser.config, "encoder_hid_dim_type", None) != "ip_image_proj":
        return None
    return _picture(request, request.numbers[0])


#: Makes the value of an argument; None: the argument is left out.
MAKERS: Mapping[str, Maker] = {
    "prompt": _prompt,
    "negative_prompt": _negative_prompt,
    "generator": lambda request: request.generator,
    "output_type": _output_type,
    "class_labels": _labels,
    "batch_size": lambda request: len(request.numbers),
    "num_inference_steps": _steps("num_inference_steps"),
    "prior_num_inference_steps": _steps("prior_num_inference_steps"),
    "decoder_num_inference_steps": _steps("decoder_num_inference_steps"),
    "super_res_num_inference_steps": _steps("super_res_num_inference_steps"),
    "guidance_scale": lambda request: _guidance(request, true_scale=False),
    "true_cfg_scale": lambda request: _guidance(request, true_scale=True),
    "use_resolution_binning": lambda _: False,
    "duration": _seconds,
    "audio_duration": _seconds,
    "audio_duration_s": _seconds,
    "image": _image,
    "images": lambda request: [_picture(request, number) for number in request.numbers],
    "input_images": lambda _: None,
    "original_image": lambda request: request.each(
        lambda number: pictures.picture(request.height, request.width, request.seed + number)
    ),
    "example_image": _image,
    "reference_image": _image,
    "cond_image": _image,
    "condtioning_image": _control_image,
    "control_image": _control_image,
    "control_mode": _control_mode,
    "hint": _hint,
    "mask_image": _mask,
    "control_mask": _mask,
    "video": _video,
    "control_video": _video,
    "pose_video": _video,
    "face_video": _video,
    "conditioning_frames": _video,
    "mask_video": _mask_video,
    "controls": _controls,
    "audio": _audio,
    "image_embeds": _image_embeds,
    "negative_image_embeds": _image_embeds,
    "image_embeddings": _image_embeddings,
    "ip_adapter_image": _ip_adapter_image,
    "enable_prompt_rewrite": lambda _: False,
    "enable_prompt_enhancement": lambda _: False,
    "expand_prompts": lambda _: False,
    "prompt_upsampling": lambda _: False,
    "use_pe": lambda _: False,
    "text_encoder_out_layers": _encoder_layers,
    "source_prompt": _prompt,
    "task_prompt": lambda _: "Each row is a pair of pictures of one scene.",
    "content_prompt": lambda _: NEUTRAL_PROMPTS[0],
    "source_subject_category": lambda request: ["dog"] * len(request.numbers),
    "target_subject_category": lambda request: ["dog"] * len(request.numbers),
    "token_indices": lambda _: [1],
}

#: Arguments that every pipeline gets if it knows them.
_ALWAYS = (
    "generator", "num_inference_steps", "prior_num_inference_steps", "decoder_num_inference_steps",
    "super_res_num_inference_steps", "prompt", "negative_prompt", "output_type", "class_labels",
    "batch_size", "guidance_scale", "true_cfg_scale", "use_resolution_binning", "duration",
    "audio_duration", "audio_duration_s", "ip_adapter_image", "task_prompt", "content_prompt",
    "text_encoder_out_layers", "enable_prompt_rewrite", "enable_prompt_enhancement",
    "expand_prompts", "prompt_upsampling", "use_pe", "control_mode",
)  # fmt: skip

#: Arguments that pictures of the user can be.
_PICTURES = ("image", "images", "example_image", "reference_image", "control_image")

#: Optional in signatures, and needed by the pipelines whose point they are.
_MEDIA = (
    *_PICTURES, "mask_image", "control_mask", "original_image", "video", "control_video",
    "conditioning_frames", "mask_video", "cond_image", "audio",
)  # fmt: skip
