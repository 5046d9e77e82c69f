"""Options that several commands share, and the configuration they add up to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.config.yaml_file import scalar
from arrow_quant_v2.errors import ConfigurationError

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Every = Annotated[bool, typer.Option("--all", help="List kept tensors one by one as well.")]
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

Profile = Annotated[
    str | None, typer.Option("--profile", metavar="edge|local|cloud", help="Deployment profile.")
]
# Numbers are read as those of a YAML file, so that a wrong one gets the message of its setting.
BitWidth = Annotated[
    Any, typer.Option("--bit-width", parser=scalar, metavar="2|4|8", help="Bits of a code.")
]
GroupSize = Annotated[
    Any,
    typer.Option("--group-size", parser=scalar, metavar="N", help="Weights that share parameters."),
]
Samples = Annotated[
    Any,
    typer.Option(
        "--samples",
        parser=scalar,
        metavar="N",
        help="Samples that the model makes to calibrate; 0: quantize without.",
    ),
]
MethodName = Annotated[
    str | None,
    typer.Option(
        "--method", metavar="auto|rtn|search|gptq|r2q|learned", help="How parameters are found."
    ),
]
ParamEncoding = Annotated[
    str | None,
    typer.Option(
        "--param-encoding",
        metavar="auto|two_level|fp16|row|residual_binary",
        help="How parameters are stored.",
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE.yaml", help="Settings from a YAML file.")
]
LayerRules = Annotated[
    list[str] | None,
    typer.Option(
        "--layer-rule",
        metavar="GLOB=2|4|8|keep",
        help="Bits for the tensors a pattern matches; the last match wins. Repeatable.",
    ),
]
Components = Annotated[
    str | None,
    typer.Option("--components", metavar="A,B", help="Components to quantize: unet,text_encoder."),
]
Statistics = Annotated[
    Path | None,
    typer.Option("--stats", metavar="FILE", help="What calibration learned about this model."),
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
Modality = Annotated[
    str | None,
    typer.Option("--modality", metavar="text|code|image|audio", help="Overrides the detection."),
]
MinAccuracy = Annotated[
    Any,
    typer.Option(
        "--min-accuracy",
        parser=scalar,
        metavar="X",
        help="Mean cosine similarity to reach, 0 to 1.",
    ),
]
TargetBits = Annotated[
    float | None,
    typer.Option(
        "--target-bits", metavar="X", help="Mixed precision with at most X bits per weight."
    ),
]
TargetSize = Annotated[
    float | None,
    typer.Option("--target-size-mb", metavar="X", help="Mixed precision with at most X MB."),
]
MaxQualityLoss = Annotated[
    float | None,
    typer.Option(
        "--max-quality-loss",
        metavar="X",
        help="Mixed precision, as small as the predictions drift by X at most.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the Python code that the model's folder brings; read it first.",
    ),
]
FailFast = Annotated[
    bool, typer.Option("--fail-fast", help="Fail when the accuracy is missed; do not add bits.")
]
Threads = Annotated[
    Any,
    typer.Option("--threads", parser=scalar, metavar="N", help="Threads to use; 0: all cores."),
]
MaxMemory = Annotated[
    Any,
    typer.Option(
        "--max-memory-mb", parser=scalar, metavar="N", help="Working memory of the engine."
    ),
]

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting that 'arrow-quant config' lists, as in YAML. Repeatable.",
    ),
]


def build_config(
    *,
    config: Path | None,
    layer_rules: list[str] | None,
    components: str | None,
    fail_fast: bool,
    settings: list[str] | None,
    trust_remote_code: bool = False,
    **options: Any,
) -> DiffusionQuantConfig:
    """The configuration of a run: a file if one is named, and the options that were given."""
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in parse_settings(settings or []).items():
        if name in given:
            raise ConfigurationError(f"{name} is given by its own option and by --set")
        given[name] = value
    if layer_rules:
        given["layer_rules"] = parse_layer_rules(layer_rules)
    if components is not None:
        given["components"] = [name.strip() for name in components.split(",")]
    if fail_fast:
        given["fail_fast"] = True
    if trust_remote_code:
        given["trust_remote_code"] = True
    if config is None:
        return DiffusionQuantConfig(**given)
    return DiffusionQuantConfig.from_yaml(config, **given)


def parse_layer_rules(rules: list[str]) -> dict[str, int | str]:
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


def parse_settings(texts: list[str]) -> dict[str, Any]:
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
