"""``arrow-quant config``: the settings that a run would have, and where each comes from."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from arrow_quant_v2.cli import options
from arrow_quant_v2.cli.console import print_blank, print_json, print_plain, print_table
from arrow_quant_v2.cli.exit_codes import command
from arrow_quant_v2.config.settings import DiffusionQuantConfig


@command
@options.takes_settings(*options.WITHOUT_TARGETS)
def config(
    settings: DiffusionQuantConfig,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show where each value comes from.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Print the settings that a run would have.

    The output is YAML that --config reads; --explain says where each value comes from.
    """
    if json:
        print_json(json_module.dumps(_facts(settings, explain), indent=2, ensure_ascii=False))
    elif explain:
        _print_explanation(settings)
    else:
        print_plain(settings.yaml_text())


def _facts(settings: DiffusionQuantConfig, explain: bool) -> dict[str, Any]:
    if not explain:
        return settings.model_dump()
    return {
        name: {"value": value, "source": source}
        for name, (value, source) in settings.explain().items()
    }


def _print_explanation(settings: DiffusionQuantConfig) -> None:
    rows = []
    for name, (value, source) in settings.explain().items():
        if isinstance(value, Mapping) and value:
            rows.append([name, "", source])
            rows += [[f"  {key}", _value_text(item), ""] for key, item in value.items()]
        else:
            rows.append([name, _value_text(value), source])
    print_table(["setting", "value", "source"], rows)
    print_blank()
    print_plain(
        "What comes first wins: argument or assignment, environment, YAML file,\n"
        "profile, default.\n"
    )


def _value_text(value: Any) -> str:
    return json_module.dumps(value, ensure_ascii=False)
