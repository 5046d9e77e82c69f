"""What users rely on stays: Python names, options of the command, exit codes, classes of errors.

``public_names.json`` is the list of version 2.0. New names may come; none of the list may go.
"""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

FILE = Path(__file__).with_name("public_names.json")
MODULES = (
    "arrow_quant_v2",
    "arrow_quant_v2.torch",
    "arrow_quant_v2.errors",
    "arrow_quant_v2.v1",
    "arrow_quant_v2.integrations.diffusers",
    "arrow_quant_v2.integrations.transformers",
)


def members(thing: Any) -> list[str]:
    """Attributes of a class, or parameters of a function."""
    if inspect.isclass(thing):
        inherited = set(dir(Exception)) if issubclass(thing, Exception) else set(dir(object))
        names = {name for name in dir(thing) if not name.startswith("_")} - inherited
        fields = set(getattr(thing, "__annotations__", {})) | set(
            getattr(thing, "model_fields", {})
        )
        return sorted(names | {name for name in fields if not name.startswith("_")})
    return sorted(inspect.signature(thing).parameters) if callable(thing) else []


def python_names() -> dict[str, dict[str, list[str]]]:
    listed = {}
    for name in MODULES:
        module = importlib.import_module(name)
        listed[name] = {one: members(getattr(module, one)) for one in sorted(module.__all__)}
    return listed


def parameters_of_methods() -> dict[str, list[str]]:
    import arrow_quant_v2

    return {
        f"{kind.__name__}.{name}": sorted(inspect.signature(method).parameters)
        for kind in (arrow_quant_v2.ArrowQuantV2, arrow_quant_v2.AsyncArrowQuantV2)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def command_line() -> dict[str, list[str]]:
    import typer.main

    from arrow_quant_v2.cli.main import app

    group: Any = typer.main.get_command(app)
    commands = {"": group, **group.commands}
    return {
        name: sorted(
            option for one in command.params for option in (*one.opts, *one.secondary_opts)
        )
        for name, command in commands.items()
    }


def error_classes() -> dict[str, list[Any]]:
    from arrow_quant_v2 import errors

    return {
        name: [
            getattr(errors, name).code,
            getattr(errors, name).exit_code,
            [base.__name__ for base in getattr(errors, name).__mro__[1:-1]],
        ]
        for name in sorted(errors.__all__)
    }


def listing() -> dict[str, Any]:
    return {
        "python": python_names(),
        "methods": parameters_of_methods(),
        "command line": command_line(),
        "errors": error_classes(),
    }


def lost(before: Any, now: Any, where: str = "") -> list[str]:
    """What `before` has and `now` has not."""
    if isinstance(before, dict):
        return [
            text
            for key, value in before.items()
            for text in (
                lost(value, now[key], f"{where}/{key}") if key in now else [f"{where}/{key}"]
            )
        ]
    return [f"{where}: {value}" for value in before if value not in now]


def test_no_public_name_option_or_error_is_lost() -> None:
    assert not lost(json.loads(FILE.read_text()), listing())


def test_errors_keep_their_exit_codes_and_bases() -> None:
    assert error_classes() == json.loads(FILE.read_text())["errors"]


def test_a_lost_name_is_noticed() -> None:
    before = json.loads(FILE.read_text())
    now = listing()
    del now["python"]["arrow_quant_v2"]["open_quantized"]
    now["command line"]["quantize"].remove("--samples")
    assert lost(before, now) == [
        "/command line/quantize: --samples",
        "/python/arrow_quant_v2/open_quantized",
    ]


def test_the_package_lists_what_it_has_and_no_helpers_of_typing() -> None:
    import arrow_quant_v2

    names = dir(arrow_quant_v2)
    assert set(arrow_quant_v2.__all__) <= set(names)
    assert {"load_quantized", "torch"} <= set(names)
    assert not {"Any", "TYPE_CHECKING", "annotations", "importlib"} & set(names)
