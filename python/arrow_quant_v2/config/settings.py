"""What a quantization run is asked to do: one model, validated wherever a value comes from.

Every default lives here and nowhere else. Values come from, in order of precedence: an argument or
an assignment, the environment, a YAML file, the deployment profile, the default.
"""

from __future__ import annotations

import difflib
import json
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from arrow_quant_v2.config import environment
from arrow_quant_v2.config.yaml_file import Document, load_mapping
from arrow_quant_v2.errors import ConfigurationError, OutputError

__all__ = ["PROFILES", "DiffusionQuantConfig"]

#: What each deployment profile sets.
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "edge": {
        "bit_width": 2,
        "num_time_groups": 5,
        "group_size": 256,
        "calibration_samples": 32,
        "min_accuracy": 0.65,
        "enable_spatial": False,
    },
    "local": {
        "bit_width": 4,
        "num_time_groups": 10,
        "group_size": 128,
        "calibration_samples": 128,
        "min_accuracy": 0.85,
    },
    "cloud": {
        "bit_width": 8,
        "num_time_groups": 20,
        "group_size": 64,
        "calibration_samples": 512,
        "min_accuracy": 0.95,
    },
}


@dataclass(frozen=True)
class CalibrationEffort:
    """How a model is run to calibrate on it.

    Attributes
    ----------
    seed
        Seed of noise, labels, masks, and the choice of steps and tokens, unless the user gives one.
    sampler_steps
        Steps of the pipeline's own sampler.
    steps_per_trajectory
        How many of these steps are recorded per trajectory, spread over the whole schedule.
    held_out_every
        One trajectory in so many is held out. Methods are chosen by these.
    tokens_per_channel, least_tokens, fewest_tokens_per_channel
        A layer sees so many tokens for each channel, and at least so many in all. Below the last
        number per channel there is a warning.
    text_length
        Maximum tokens of a text for masked language models.
    latents, latents_per_channel
        Maximum latents of a sample: in all, and for each channel of a denoiser that does not say
        the size of its samples.
    latent_frames
        Latent frames of a video.
    profile_part, least_profiled, profile_times
        Share of the recorded samples that also run backwards, and the smallest number of them.
        They tell at which times and tokens errors cost most, at so many separate times.
    profile_power, least_share
        Tokens are drawn in proportion to the cost of their errors to this power. Every timestep
        gets at least this part of an equal share.
    """

    seed: int = 0
    sampler_steps: int = 25
    steps_per_trajectory: int = 5
    held_out_every: int = 5
    tokens_per_channel: int = 8
    least_tokens: int = 4096
    fewest_tokens_per_channel: int = 4
    text_length: int = 128
    latents: int = 4096
    latents_per_channel: int = 4
    latent_frames: int = 3
    profile_part: float = 0.05
    least_profiled: int = 16
    profile_times: int = 16
    profile_power: float = 0.5
    least_share: float = 0.1


CALIBRATION = CalibrationEffort()


@dataclass(frozen=True)
class ValidationEffort:
    """How two models are compared by their outputs.

    Attributes
    ----------
    samples
        Trajectories, or texts, that the original makes. Both models get the inputs recorded there.
    seed
        Seed of those trajectories. It differs from that of calibration, so that nothing is judged
        by what it was fitted to.
    time_bins
        Number of equal parts of the range of diffusion times that are reported separately.
    """

    samples: int = 4
    seed: int = 20_000
    time_bins: int = 5


VALIDATION = ValidationEffort()


@dataclass(frozen=True)
class SensitivityEffort:
    """How the sensitivity of layers is measured.

    Attributes
    ----------
    samples
        Held-out trajectories, or texts. Their recorded inputs are replayed for every layer and
        width.
    time_bins
        Number of equal parts of the range of diffusion times. All count the same.
    searches
        Maximum number of plans that are measured to find the smallest one within
        ``max_quality_loss``.
    """

    samples: int = 8
    time_bins: int = 5
    searches: int = 8


SENSITIVITY = SensitivityEffort()

#: Methods that need calibration; without it, their place is taken by the search.
CALIBRATED_METHODS = ("gptq", "r2q", "learned")

#: What a model may generate; and what is said of one that nothing tells about, in base mode.
MODALITIES = ("text", "code", "image", "audio")
UNKNOWN_MODALITY = "unknown"

#: Of these, one at most: they ask for mixed precision.
TARGETS = ("target_size_mb", "target_bits", "max_quality_loss")


@dataclass(frozen=True)
class LearningEffort:
    """How the rounding of low-bit weights is learned.

    Attributes
    ----------
    iterations
        Steps of gradient descent (Adam).
    states_per_iteration
        Recorded samples in each iteration.
    judged_every
        Iterations between two measurements on held-out samples.
    freedom
        How far from the middle of its code's range a weight may start, towards its float value. The
        range ends at 0.5.
    position_rate, scale_rate
        Largest learning rates: of weights, in steps between two levels, and of scales, relative.
    seed
        Seed of the order in which samples are used.
    """

    iterations: int = 200
    states_per_iteration: int = 32
    judged_every: int = 50
    freedom: float = 0.3
    position_rate: float = 0.01
    scale_rate: float = 0.002
    seed: int = 60_000


LEARNING = LearningEffort()


@dataclass(frozen=True)
class JudgingEffort:
    """How held-out samples decide between two quantizations of a model.

    Attributes
    ----------
    states
        Maximum number of samples.
    batch
        Samples that run at a time.
    time_bins
        Number of equal parts of the range of diffusion times. All count the same.
    """

    states: int = 160
    batch: int = 64
    time_bins: int = 10


JUDGING = JudgingEffort()


#: V1 setting -> its V2 name.
V1_NAMES: Mapping[str, str] = {
    "bits": "bit_width",
    "samples": "calibration_samples",
    "min_acc": "min_accuracy",
    "threads": "num_threads",
    "strategy": "method",
}

#: Settings that are not recorded in the artefact, since they do not change a byte of it. Where
#: `max_memory_mb` does, by withholding matrices from layers, the engine records `memory_limits`;
#: learned rounding, which trains as many weights at a time as it allows, records it.
_NOT_RECORDED = {"num_threads", "max_memory_mb", "validation_thresholds", "trust_remote_code"}

#: Settings that no file can give: one that came with a model must not switch on its code.
_NOT_FROM_FILES = ("trust_remote_code",)

#: How samples are made; recorded where somebody chose it.
_SAMPLING = ("calibration_size", "calibration_steps", "guidance_scale")

#: Mean cosine similarity that `validate_quality` asks for, by the narrowest codes of an artefact.
THRESHOLDS: Mapping[str, float] = {"int2": 0.70, "int4": 0.90, "int8": 0.95}


@dataclass(frozen=True)
class Must:
    """What a valid value is, as an error says it: ``Must be <text>.``"""

    text: str


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError("not an integer")
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError("not a finite number")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not true or false")
    return value


def _multiple_of_8(value: int) -> int:
    if value % 8:
        raise ValueError("not a multiple of 8")
    return value


def _rules(value: Any) -> dict[str, int | str]:
    if not isinstance(value, Mapping):
        raise ValueError("not a mapping")
    for pattern, action in value.items():
        known = action == "keep" or (_is_integer(action) and action in (2, 4, 8))
        if not isinstance(pattern, str) or not pattern or not known:
            raise ValueError("not a rule")
    return {
        pattern: action if action == "keep" else int(action) for pattern, action in value.items()
    }


def _thresholds(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping) or not set(value) <= set(THRESHOLDS):
        raise ValueError("not a mapping of widths")
    given = {name: _number(threshold) for name, threshold in value.items()}
    if not all(0 <= threshold <= 1 for threshold in given.values()):
        raise ValueError("not from 0 to 1")
    return {**THRESHOLDS, **given}


def _names(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError("not a list of names")
    if not all(isinstance(name, str) and name for name in value):
        raise ValueError("not a list of names")
    return tuple(value)


def _size(value: Any) -> tuple[int, ...] | None:
    """A side, or height and width, or those and frames, as (height, width[, frames])."""
    if value is None:
        return None
    sides = (value, value) if _is_integer(value) else value
    if not isinstance(sides, (list, tuple)) or not 2 <= len(sides) <= 3:
        raise ValueError("not a size")
    if isinstance(value, bool) or not all(_is_integer(n) and 1 <= n <= 1 << 16 for n in sides):
        raise ValueError("not a size")
    return tuple(int(n) for n in sides)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _one_of(*names: str) -> Must:
    quoted = [repr(name) for name in names]
    comma = "," if len(quoted) > 2 else ""
    return Must(", ".join(quoted[:-1]) + f"{comma} or {quoted[-1]}")


_Integer = BeforeValidator(_integer)
_Number = BeforeValidator(_number)
_OptionalNumber = BeforeValidator(lambda value: None if value is None else _number(value))
_Flag = Annotated[bool, BeforeValidator(_flag), Must("true or false")]


@dataclass(frozen=True)
class _Layers:
    """Where the values of a new configuration come from, beside environment and defaults."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    document: Document = field(default_factory=lambda: Document({}, {}, {}))
    path: Path | None = None
    profile: str | None = None


class DiffusionQuantConfig(BaseModel):
    """Settings of a quantization run.

    Every field is a keyword argument and an attribute; a wrong value raises
    :class:`~arrow_quant_v2.errors.ConfigurationError` at once.

    Examples
    --------
    >>> from arrow_quant_v2 import DiffusionQuantConfig
    >>> config = DiffusionQuantConfig.from_profile("edge")
    >>> config.bit_width, config.group_size
    (2, 256)
    >>> config.min_accuracy = 0.70
    >>> config.explain()["min_accuracy"]
    (0.7, 'assignment')
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    bit_width: Annotated[Literal[2, 4, 8], _Integer, Must("2, 4, or 8")] = Field(
        default=4, description="Bits per stored weight (code)."
    )
    num_time_groups: Annotated[
        int, _Integer, Field(ge=1, le=1000), Must("an integer from 1 to 1000")
    ] = Field(
        default=10,
        description="Maximum number of groups of diffusion timesteps with their own parameters "
        "(`enable_time_aware`).",
    )
    group_size: Annotated[
        int,
        _Integer,
        Field(ge=8, le=65536),
        AfterValidator(_multiple_of_8),
        Must("a multiple of 8 from 8 to 65536"),
    ] = Field(
        default=128,
        description="Number of neighbouring weights in a row that share 32 bits of parameters. "
        "Smaller groups "
        "are more exact and larger.",
    )
    enable_time_aware: _Flag = Field(
        default=True,
        description="Time-aware quantization: calibration weighs timesteps by their importance, "
        "and layers "
        "may get parameters by timestep. Needs calibration.",
    )
    enable_spatial: _Flag = Field(
        default=True,
        description="Spatial quantization: equalization scales per input channel (as in "
        "SmoothQuant), where "
        "they lower the error. Needs calibration.",
    )
    fold_equalization: _Flag = Field(
        default=False,
        description="Fuse the equalization scales (as in SmoothQuant) into the layer before, where "
        "that is possible, so that nothing has to be divided at run time. The layers before then "
        "differ from the original file. Not with method='learned'.",
    )
    activation_bits: Annotated[Literal[8] | None, Must("8 or None")] = Field(
        default=None,
        description="8: static int8 activations, with a range for each group of timesteps, or one "
        "for all without `enable_time_aware`. Needs calibration. None: no ranges are stored; "
        "activations stay floats or are quantized per token (`load_quantized`).",
    )
    min_accuracy: Annotated[float, _Number, Field(ge=0, le=1), Must("a number from 0 to 1")] = (
        Field(
            default=0.85,
            description="Mean cosine similarity to reach. If it is missed, more bits are tried.",
        )
    )
    min_layer_accuracy: Annotated[
        float, _Number, Field(ge=0, le=1), Must("a number from 0 to 1")
    ] = Field(
        default=0.0,
        description="Cosine similarity that every layer must reach. If one misses it, more bits "
        "are tried.",
    )
    fallback_scope: Annotated[Literal["model", "layer"], _one_of("model", "layer")] = Field(
        default="model",
        description="What gets more bits if an accuracy is missed: 'model', every layer; 'layer', "
        "only "
        "the layers that missed it.",
    )
    calibration_samples: Annotated[
        int, _Integer, Field(ge=0, le=1_000_000), Must("an integer from 0 to 1000000")
    ] = Field(
        default=128,
        description="Number of samples (trajectories or texts) that the model makes for "
        "calibration; 0: no calibration.",
    )
    calibration_size: Annotated[
        tuple[int, ...] | None,
        BeforeValidator(_size),
        Must("a side in pixels, [height, width], or [height, width, frames]"),
    ] = Field(
        default=None,
        description="Size of the samples that a pipeline makes for calibration: a side in pixels, "
        "[height, width], or [height, width, frames]. None: the size that the model was trained "
        "for, but at most 4,096 latents, and three latent frames of a video.",
    )
    calibration_steps: Annotated[
        Annotated[int, Field(ge=1, le=1000)] | None,
        BeforeValidator(lambda value: None if value is None else _integer(value)),
        Must("an integer from 1 to 1000, or None"),
    ] = Field(
        default=None,
        description="Steps of the sampler for calibration. None: 25, or the pipeline's own default "
        "if that is fewer.",
    )
    guidance_scale: Annotated[
        Annotated[float, Field(ge=0)] | None, _OptionalNumber, Must("a number from 0, or None")
    ] = Field(
        default=None,
        description="Scale of classifier-free guidance for calibration. None: the pipeline's own "
        "default.",
    )
    num_threads: Annotated[
        int, _Integer, Field(ge=0, le=4096), Must("an integer from 0 (all cores) to 4096")
    ] = Field(default=0, description="Number of threads; 0: all cores.")
    fail_fast: _Flag = Field(
        default=False,
        description="Raise QuantizationError if an accuracy is missed, instead of adding bits.",
    )
    modality: Annotated[Literal["text", "code", "image", "audio"] | None, _one_of(*MODALITIES)] = (
        Field(
            default=None,
            description="What the model generates; by default it is detected. Base mode, and runs "
            "without time-aware and spatial quantization, need none.",
        )
    )
    deployment_profile: Annotated[
        Literal["edge", "local", "cloud"], _one_of("edge", "local", "cloud")
    ] = Field(
        default="local",
        description="Deployment profile: it supplies every value that nothing else sets.",
    )
    param_encoding: Annotated[
        Literal["auto", "two_level", "fp16", "row", "residual_binary"],
        _one_of("auto", "two_level", "fp16", "row", "residual_binary"),
    ] = Field(
        default="auto",
        description="How the parameters (scales and offsets) of a group are stored. auto: `row` at "
        "8 bits; at 2 "
        "and 4 bits `two_level`, or `fp16` where it has less error.",
    )
    method: Annotated[
        Literal["auto", "rtn", "search", "gptq", "r2q", "learned"],
        _one_of("auto", "rtn", "search", "gptq", "r2q", "learned"),
    ] = Field(
        default="auto",
        description="How codes and parameters are found. auto: for each layer the method that "
        "changes "
        "its outputs least. rtn: round to nearest. search: smallest weighted error. gptq: error "
        "feedback (GPTQ). r2q: residual binary codes at 2 bits, gptq otherwise. learned: auto, "
        "then gradient descent on codes of 2 and 4 bits; needs torch and a model that can run. "
        "Without calibration, all but rtn become search.",
    )
    layer_rules: Annotated[
        dict[str, Any],
        BeforeValidator(_rules),
        Must("a mapping from name pattern to 2, 4, 8, or 'keep'"),
    ] = Field(
        default_factory=dict,
        description="Bits by tensor name; the last rule that matches wins. `keep`: not quantized.",
    )
    components: Annotated[
        tuple[str, ...] | None, BeforeValidator(_names), Must("a list of component names")
    ] = Field(
        default=None, description="Components of a pipeline to quantize; by default the denoiser."
    )
    validation_thresholds: Annotated[
        dict[str, float],
        BeforeValidator(_thresholds),
        Must("a mapping from 'int2', 'int4', or 'int8' to a number from 0 to 1"),
    ] = Field(
        default_factory=lambda: dict(THRESHOLDS),
        description="Mean cosine similarity that `validate_quality` asks for, by the smallest bit "
        "width in the artefact.",
    )
    trust_remote_code: _Flag = Field(
        default=False,
        description="Run the Python code that a model folder brings, to calibrate on a class that "
        "no library has. It can do whatever you can: read it first. No file can set this.",
    )
    max_memory_mb: Annotated[
        int, _Integer, Field(ge=64, le=1 << 24), Must("an integer from 64 to 16777216")
    ] = Field(
        default=1024,
        description="Maximum working memory of the engine, in MB. Torch's own memory is not "
        "limited by it.",
    )
    part_size_mb: Annotated[
        int, _Integer, Field(ge=1, le=1 << 20), Must("an integer from 1 to 1048576")
    ] = Field(
        default=1024, description="Size in MB above which weights.parquet is split into parts."
    )
    target_size_mb: Annotated[
        Annotated[float, Field(gt=0)] | None,
        _OptionalNumber,
        Must("a positive number of MB, or None"),
    ] = Field(
        default=None,
        description="Mixed precision: maximum `model_size_mb` of the result, in MB. `bit_width` (2 "
        "unless you set it) is then the smallest width that a layer gets.",
    )
    target_bits: Annotated[
        Annotated[float, Field(ge=2, le=64)] | None,
        _OptionalNumber,
        Must("a number from 2 to 64, or None"),
    ] = Field(
        default=None,
        description="Mixed precision: maximum bits per weight over the layers it decides, all "
        "parameters counted.",
    )
    max_quality_loss: Annotated[
        Annotated[float, Field(gt=0)] | None, _OptionalNumber, Must("a positive number, or None")
    ] = Field(
        default=None,
        description="Mixed precision: maximum drift of the model's predictions, with as few bytes "
        "as "
        "possible.",
    )

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    if not TYPE_CHECKING:  # type checkers see the signature that the fields make

        def __init__(self, *positional: Any, **values: Any) -> None:
            if positional:
                raise _positional_error(positional[0])
            self._fill(_Layers(arguments=values))

    @classmethod
    def from_profile(cls, name: str) -> DiffusionQuantConfig:
        """Make the configuration of the profile `name`: ``"edge"``, ``"local"`` or ``"cloud"``."""
        return cls._from_layers(_Layers(profile=name))

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], **arguments: Any) -> DiffusionQuantConfig:
        """Read a flat YAML file of settings.

        Parameters
        ----------
        path
            The file.
        **arguments
            Settings that take precedence over those in the file.

        Raises
        ------
        ConfigurationError
            The file is absent or malformed, or a setting in it is unknown or invalid; the message
            names the line.
        """
        file = Path(path)
        return cls._from_document(load_mapping(file), file, **arguments)

    @classmethod
    def _from_document(
        cls, document: Document, path: Path, **arguments: Any
    ) -> DiffusionQuantConfig:
        """Make the configuration of a file that has been read from `path`."""
        return cls._from_layers(_Layers(arguments=arguments, document=document, path=path))

    @classmethod
    def _from_layers(cls, layers: _Layers) -> DiffusionQuantConfig:
        config = cls.__new__(cls)
        config._fill(layers)
        return config

    def _fill(self, layers: _Layers) -> None:
        values, sources = _resolve(layers)
        try:
            BaseModel.__init__(self, **values)
        except pydantic.ValidationError as error:
            raise _configuration_error(error, sources, str(layers.path or "")) from None
        self._sources = sources
        _refuse_two_targets(self._targets(), str(layers.path or ""))
        self._settle_least_width()

    @property
    def target(self) -> tuple[str, float] | None:
        """The setting that asks for mixed precision, and its value; None: there is none."""
        return next(((name, getattr(self, name)) for name in self._targets()), None)

    def _targets(self) -> list[str]:
        return [name for name in TARGETS if getattr(self, name) is not None]

    def _settle_least_width(self) -> None:
        """With a target, `bit_width` is the least width: 2 unless somebody chose another."""
        chosen_by = self._sources.get("bit_width", "default")
        if self.target is None:
            if chosen_by in TARGETS:
                field = type(self).model_fields["bit_width"]
                profile = PROFILES[self.deployment_profile]
                super().__setattr__("bit_width", profile.get("bit_width", field.default))
                self._sources["bit_width"] = f"profile '{self.deployment_profile}'"
        elif chosen_by.startswith(("default", "profile")):
            super().__setattr__("bit_width", 2)
            self._sources["bit_width"] = self.target[0]

    def yaml_text(self) -> str:
        """The settings as YAML that :meth:`from_yaml` reads back."""
        values = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.model_dump(exclude=set(_NOT_FROM_FILES)).items()
            if value is not None and value != {}
        }
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def to_yaml(self, path: str | os.PathLike[str]) -> None:
        """Write the settings to the YAML file `path` that :meth:`from_yaml` reads back.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        try:
            Path(path).write_text(self.yaml_text(), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{path}: the configuration cannot be written: {error.strerror}", path=str(path)
            ) from error

    def explain(self) -> dict[str, tuple[Any, str]]:
        """Map every field to its value and where that value comes from."""
        return {
            name: (getattr(self, name), self._sources.get(name, "default"))
            for name in type(self).model_fields
        }

    def recorded_json(self) -> str:
        """JSON of the settings that decide the bytes of the artefact, as it is embedded there."""
        matters = {"max_memory_mb"} if self.method == "learned" else set()
        values = self.model_dump(exclude=_NOT_RECORDED - matters)
        chosen = {k: v for k, v in values.items() if k not in _SAMPLING or v is not None}
        return json.dumps(chosen, sort_keys=True)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
            return
        if name not in type(self).model_fields:
            raise _unknown_settings([name])
        if name in TARGETS and value is not None:
            _refuse_two_targets([*self._targets(), name])
        try:
            super().__setattr__(name, value)
        except pydantic.ValidationError as error:
            raise _configuration_error(error, {}, "") from None
        self._sources[name] = "assignment"
        if name == "deployment_profile":
            self._apply_profile(str(value))
        self._settle_least_width()

    def _apply_profile(self, name: str) -> None:
        """Give the values of a newly assigned profile to the fields that nothing else has set."""
        for other in type(self).model_fields:
            if not self._sources.get(other, "default").startswith(("default", "profile")):
                continue
            value = PROFILES[name].get(other, type(self).model_fields[other].get_default())
            if other in PROFILES[name] or other in PROFILES["edge"]:
                super().__setattr__(other, value)
                self._sources[other] = f"profile '{name}'"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DiffusionQuantConfig):
            return NotImplemented
        return self.model_dump() == other.model_dump()


def known_modality(name: str) -> Any:
    """`name` as a setting: None where it is unknown."""
    return None if name == UNKNOWN_MODALITY else name


def _refuse_two_targets(names: list[str], path: str = "") -> None:
    if len(set(names)) > 1:
        both = " and ".join(dict.fromkeys(names))
        raise ConfigurationError(f"{both} were both given", path=path, hint="Give one target.")


def _resolve(layers: _Layers) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by precedence, without defaults, and the source of each."""
    fields = DiffusionQuantConfig.model_fields
    for given, file, lines in (
        (layers.arguments, "", {}),
        (layers.document.values, str(layers.path or ""), layers.document.lines),
    ):
        unknown = [name for name in given if name not in fields]
        if unknown:
            sections = [name for name in unknown if isinstance(given[name], Mapping)]
            raise _unknown_settings(unknown, file, lines, sections)
    candidates: dict[str, tuple[Any, str]] = {}
    for name in _NOT_FROM_FILES:
        if name in layers.document.values:
            raise ConfigurationError(
                f"{layers.path}, line {layers.document.lines[name]}: {name} cannot be set in a "
                "file",
                path=str(layers.path or ""),
                hint="Pass trust_remote_code=True (--trust-remote-code) after you have read the "
                "model's code.",
            )
    for name, value in layers.document.values.items():
        line = layers.document.lines[name]
        candidates[name] = (value, f"{layers.path}, line {line}")
    for name, (value, variable) in environment.settings().items():
        candidates[name] = (value, f"environment {variable}")
    if layers.profile is not None:
        candidates["deployment_profile"] = (layers.profile, "from_profile")
    for name, value in layers.arguments.items():
        candidates[name] = (value, "argument")
    profile = candidates.get("deployment_profile", (None, ""))[0]
    if isinstance(profile, str):
        for name, value in PROFILES.get(profile, {}).items():
            candidates.setdefault(name, (value, f"profile '{profile}'"))
    values = {name: value for name, (value, _) in candidates.items()}
    return values, {name: source for name, (_, source) in candidates.items()}


def _unknown_settings(
    names: list[str],
    path: str = "",
    lines: Mapping[str, int] | None = None,
    sections: Sequence[str] = (),
) -> ConfigurationError:
    """An error for settings that do not exist: their V2 names, or the nearest match.

    Of `names`, `sections` hold settings of their own.
    """
    plural = "s" if len(names) > 1 else ""
    what = f"Unknown setting{plural} " + ", ".join(repr(name) for name in names) + "."
    hints = []
    old = [name for name in names if name in V1_NAMES]
    for name in names:
        where = f"Line {lines[name]}: " if lines else ""
        if name in V1_NAMES:
            hints.append(f"{where}'{name}' is a V1 name; V2 calls it {V1_NAMES[name]}.")
            continue
        if name in sections:
            hints.append(f"{where}Settings have no sections: write what is under '{name}' alone.")
            continue
        known = [*DiffusionQuantConfig.model_fields, *V1_NAMES]
        near = difflib.get_close_matches(name, known, n=1)
        near = near or [other for other in known if f"_{name}" in other or f"{name}_" in other]
        if near:
            meant = V1_NAMES.get(near[0], near[0])
            hints.append(f"{where}Did you mean '{meant}' instead of '{name}'?")
        else:
            hints.append(f"{where}Nothing is called '{name}'.")
    if any("Nothing is called" in hint for hint in hints):
        hints.append("Settings are: " + ", ".join(DiffusionQuantConfig.model_fields) + ".")
    if path:
        what = f"{path}: {what}"
        if old:
            hints.append(f"Convert the file with: arrow-quant migrate --write {path}")
    return ConfigurationError(what, path=path, hint="\n".join(hints))


def v2_spelling(
    settings: Mapping[str, Any], call: str = "DiffusionQuantConfig", *positional: str
) -> str:
    """How V2 writes V1 settings: as arguments of `call`, behind `positional` ones."""
    fields = [f"{V1_NAMES.get(str(name), name)}={value!r}" for name, value in settings.items()]
    return f"{call}({', '.join([*positional, *fields])})"


def _positional_error(given: Any) -> ConfigurationError:
    if isinstance(given, Mapping):
        hint = f"Write {v2_spelling(given)}."
    elif isinstance(given, (str, os.PathLike)):
        hint = "A file is read by DiffusionQuantConfig.from_yaml(path)."
    else:
        hint = "Write DiffusionQuantConfig(bit_width=4)."
    return ConfigurationError(
        f"settings are keyword arguments, found {type(given).__name__} {given!r}", hint=hint
    )


def _configuration_error(
    error: pydantic.ValidationError, sources: Mapping[str, str], path: str
) -> ConfigurationError:
    """One sentence per wrong field, the contract's own, and where the value comes from."""
    wrong: dict[str, Any] = {}
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0])
        # Within a container the detail is about one item; the rule is about the whole value.
        wrong.setdefault(name, detail["input"])
    sentences = []
    hints = []
    for name, value in wrong.items():
        sentences.append(f"Invalid {name}: {value!r}. Must be {_requirement(name)}.")
        source = sources.get(name, "argument")
        if source not in ("argument", "assignment", "from_profile"):
            hints.append(f"The value comes from {source}.")
    return ConfigurationError("\n".join(sentences), path=path, hint="\n".join(hints))


def _requirement(name: str) -> str:
    metadata = DiffusionQuantConfig.model_fields[name].metadata
    return next(item.text for item in metadata if isinstance(item, Must))


def checked_config(config: DiffusionQuantConfig | None) -> DiffusionQuantConfig:
    """A private, validated copy of `config`; the defaults when it is None.

    Raises
    ------
    ConfigurationError
        `config` is something else, or a list or mapping in it was changed to something invalid.
    """
    if config is None:
        return DiffusionQuantConfig()
    if not isinstance(config, DiffusionQuantConfig):
        if isinstance(config, Mapping):
            hint = f"Where V1 took a dict, write {v2_spelling(config)}."
        elif isinstance(config, (str, os.PathLike)):
            hint = "Read a file with DiffusionQuantConfig.from_yaml(path)."
        else:
            hint = "Write config=DiffusionQuantConfig(bit_width=4)."
        raise ConfigurationError(
            f"config: expected a DiffusionQuantConfig, found {type(config).__name__}", hint=hint
        )
    return DiffusionQuantConfig(**config.model_dump())


def with_settings(config: DiffusionQuantConfig, **changes: Any) -> DiffusionQuantConfig:
    """A validated copy of `config` with other values for some settings."""
    return DiffusionQuantConfig(**{**config.model_dump(), **changes})
