"""Options that several commands share, and the configuration they add up to.

The options of settings are stated once: :data:`FLAGS` names the option of each setting, and the
settings themselves (:class:`DiffusionQuantConfig`) have its values and its help. The commands get
their parameters from there, and so does the page of the settings.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from arrow_quant_v2.cli.command_line import SHELL_HINT, has_plain_name
from arrow_quant_v2.config.settings import TARGETS, DiffusionQuantConfig
from arrow_quant_v2.config.yaml_file import scalar
from arrow_quant_v2.errors import ConfigurationError

__all__ = ["ALL_FLAGS", "FLAGS", "WITHOUT_TARGETS", "Flag", "takes_settings"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Every = Annotated[
    bool, typer.Option("--all", help="List every tensor on a line of its own, kept ones as well.")
]
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="Directory of a pipeline or component, or a weight file (.safetensors, .bin, .pt).",
    ),
]
Artefact = Annotated[
    Path, typer.Argument(metavar="ARTEFACT", help="Directory that 'quantize' wrote.")
]
Statistics = Annotated[
    Path | None,
    typer.Option("--stats", metavar="FILE", help="Statistics that 'arrow-quant calibrate' wrote."),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="What the model runs on to calibrate: prompts or texts (.txt, .jsonl), clean samples "
        "(.npy), or a folder of images or .wav files; without it, neutral inputs.",
    ),
]
# Numbers are read as those of a YAML file, so that a wrong one gets the message of its setting.
MinAccuracy = Annotated[
    Any,
    typer.Option(
        "--min-accuracy",
        parser=scalar,
        metavar="X",
        help="Mean cosine similarity to reach, 0 to 1.",
    ),
]
Threads = Annotated[
    Any,
    typer.Option("--threads", parser=scalar, metavar="N", help="Threads to use; 0: all cores."),
]


@dataclass(frozen=True)
class Flag:
    """The option of a setting.

    Attributes
    ----------
    name
        As it is typed: ``"--bit-width"``.
    metavar
        What stands for the value in the help; empty: the values that the setting may have.
    """

    name: str
    metavar: str = ""


#: Setting -> its option, in the order of the help. Other settings are given by ``--set``.
FLAGS: Mapping[str, Flag] = {
    "deployment_profile": Flag("--profile"),
    "bit_width": Flag("--bit-width"),
    "group_size": Flag("--group-size", "N"),
    "method": Flag("--method"),
    "param_encoding": Flag("--param-encoding"),
    "layer_rules": Flag("--layer-rule", "GLOB=2|4|8|keep"),
    "components": Flag("--components", "A,B"),
    "calibration_samples": Flag("--samples", "N"),
    "modality": Flag("--modality"),
    "min_accuracy": Flag("--min-accuracy", "X"),
    "target_bits": Flag("--target-bits", "X"),
    "target_size_mb": Flag("--target-size-mb", "X"),
    "max_quality_loss": Flag("--max-quality-loss", "X"),
    "fail_fast": Flag("--fail-fast"),
    "num_threads": Flag("--threads", "N"),
    "max_memory_mb": Flag("--max-memory-mb", "N"),
    "trust_remote_code": Flag("--trust-remote-code"),
}
ALL_FLAGS = tuple(FLAGS)
WITHOUT_TARGETS = tuple(name for name in FLAGS if name not in TARGETS)

_Command = Callable[..., None]


def takes_settings(*names: str) -> Callable[[_Command], _Command]:
    """Give a command the options of these settings, ``--config`` and ``--set``.

    The command has a parameter ``settings``; what the options add up to arrives there.
    """
    shared = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )
        for name, annotation, default in [*map(_parameter, names), *_SOURCES]
    ]

    def decorate(function: _Command) -> _Command:
        @functools.wraps(function)
        def run(**given: Any) -> None:
            options = {parameter.name: given.pop(parameter.name) for parameter in shared}
            settings = _build_config(**options)
            try:
                function(settings=settings, **given)
            except ConfigurationError as error:
                if "matches no tensor" in error.message and has_plain_name(settings.layer_rules):
                    error.hint = f"{error.hint}\n{SHELL_HINT}".strip()
                raise

        parameters: list[inspect.Parameter] = []
        for own in inspect.signature(function, eval_str=True).parameters.values():
            own = own.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            parameters += shared if own.name == "settings" else [own]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def _parameter(name: str) -> tuple[str, Any, Any]:
    """Name, annotation and default of the parameter for a setting, as typer reads them."""
    flag = FLAGS[name]
    kind = _value_type(name)
    metavar = flag.metavar or "|".join(str(value) for value in typing.get_args(kind))
    help_text = _help(name)
    if kind is bool:
        return name, Annotated[bool, typer.Option(flag.name, help=help_text)], False
    if typing.get_origin(kind) is dict:
        text = f"{help_text} Repeatable."
        option = typer.Option(flag.name, metavar=metavar, help=text)
        return name, Annotated[list[str] | None, option], None
    if typing.get_origin(kind) is tuple or _is_word(kind):
        option = typer.Option(flag.name, metavar=metavar, help=help_text)
        return name, Annotated[str | None, option], None
    option = typer.Option(flag.name, parser=scalar, metavar=metavar, help=help_text)
    return name, Annotated[Any, option], None


#: Where settings come from beside their own options.
_SOURCES: tuple[tuple[str, Any, Any], ...] = (
    (
        "config",
        Annotated[
            Path | None,
            typer.Option("--config", metavar="FILE.yaml", help="Settings from a YAML file."),
        ],
        None,
    ),
    (
        "set_",
        Annotated[
            list[str] | None,
            typer.Option(
                "--set",
                metavar="NAME=VALUE",
                help="Any other setting that 'arrow-quant config' lists, as in YAML. Repeatable.",
            ),
        ],
        None,
    ),
)


def _value_type(name: str) -> Any:
    """The type of a setting's values, without None and annotations."""
    kind: Any = DiffusionQuantConfig.model_fields[name].annotation
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def _is_word(kind: Any) -> bool:
    return typing.get_origin(kind) is Literal and isinstance(typing.get_args(kind)[0], str)


def _help(name: str) -> str:
    """The first sentence about a setting."""
    description = DiffusionQuantConfig.model_fields[name].description or ""
    sentence, stop, _ = description.partition(". ")
    return (sentence + stop.rstrip()).replace("`", "")


def _build_config(
    *, config: Path | None, set_: list[str] | None, **options: Any
) -> DiffusionQuantConfig:
    """The configuration of a run: a file if one is named, and the options that were given."""
    given = {
        name: value
        for name, value in options.items()
        if value is not None and value is not False and value != []
    }
    for name, value in _parse_settings(set_ or []).items():
        if name in given:
            raise ConfigurationError(f"{name} is given by its own option and by --set")
        given[name] = value
    if options.get("layer_rules"):
        given["layer_rules"] = _parse_layer_rules(given["layer_rules"])
    if options.get("components") is not None:
        given["components"] = [name.strip() for name in options["components"].split(",")]
    if config is None:
        return DiffusionQuantConfig(**given)
    return DiffusionQuantConfig.from_yaml(config, **given)


def _parse_layer_rules(rules: list[str]) -> dict[str, int | str]:
    """``GLOB=BITS`` texts as a mapping in the same order.

    Raises
    ------
    ConfigurationError
        A text is not of that form, or one pattern is given two values.
    """
    parsed: dict[str, int | str] = {}
    for rule in rules:
        glob, equals, action = rule.rpartition("=")
        if not equals or not glob or action not in ("2", "4", "8", "keep"):
            raise ConfigurationError(
                f"Invalid layer rule: {rule!r}. Must be GLOB=2, GLOB=4, GLOB=8, or GLOB=keep.",
                hint="For example: --layer-rule '*.to_q=8' --layer-rule 'proj_out=keep'",
            )
        value: int | str = action if action == "keep" else int(action)
        if parsed.setdefault(glob, value) != value:
            raise ConfigurationError(f"the layer rule for {glob!r} is given two values")
    return parsed


def _parse_settings(texts: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` texts as a mapping; a value is read as an unquoted one in a YAML file.

    Raises
    ------
    ConfigurationError
        A text is not of that form, or a name is given twice.
    """
    parsed: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigurationError(
                f"Invalid setting: {text!r}. Must be NAME=VALUE.",
                hint="For example: --set calibration_samples=32",
            )
        if name in parsed:
            raise ConfigurationError(f"--set gives {name!r} twice")
        parsed[name] = scalar(value)
    return parsed
