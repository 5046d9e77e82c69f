"""The page of all commands and options, from the functions behind the commands."""

from __future__ import annotations

import enum
import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from typer.models import ArgumentInfo, OptionInfo

from arrow_quant_v2.cli.main import COMMANDS, app
from reference_pages.markdown import NOTE, one_line, table

HEAD = f"""\
# Command line

{NOTE}
`arrow-quant COMMAND --help` prints the same. Options may stand before or after the arguments. Exit
codes are in [errors](errors.md), settings in [configuration](configuration.md). Progress and
warnings go to stderr, results to stdout.
"""


@dataclass(frozen=True)
class Parameter:
    """An argument or an option of a command."""

    name: str
    info: ArgumentInfo | OptionInfo
    type: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether the command cannot do without it."""
        return self.default is inspect.Parameter.empty or self.default is ...

    @property
    def spelling(self) -> str:
        """As it is written: `--bit-width 2|4|8`, or `MODEL`."""
        if isinstance(self.info, ArgumentInfo):
            return str(self.info.metavar or self.name.upper())
        # Where an option stands in Annotated, typer takes its first name for a default.
        given = [self.info.default, *(self.info.param_decls or ())]
        names = [name for name in given if isinstance(name, str) and name.startswith("-")]
        spelled = ", ".join(names) or "--" + self.name.replace("_", "-")
        if self.type is bool:
            return spelled
        return f"{spelled} {self.info.metavar or _values(self.type)}"

    @property
    def text(self) -> str:
        """What it means, and its default."""
        text = one_line(self.info.help or "")
        if isinstance(self.info, OptionInfo) and self.required:
            return f"{text} Required."
        if self.default in (None, False, inspect.Parameter.empty) or isinstance(self.default, list):
            return text
        default = self.default.value if isinstance(self.default, enum.Enum) else self.default
        return f"{text} Default: `{default}`."


def command_line_page() -> str:
    """All of docs/reference/command-line.md."""
    overview = [
        [f"[`{command.__name__}`](#arrow-quant-{command.__name__})", _paragraphs(command)[0]]
        for command in COMMANDS
    ]
    callback = app.registered_callback
    assert callback is not None
    assert callback.callback is not None
    parts = [HEAD, table(["command", "what it does"], overview)]
    parts += ["## Options of `arrow-quant` itself\n", _options(callback.callback)]
    parts += [_section(command) for command in COMMANDS]
    return "\n".join(parts)


def parameters(command: Callable[..., Any]) -> Iterator[Parameter]:
    """Arguments and options of a command, in order."""
    hints = typing.get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        kind, *extras = typing.get_args(hints[name])
        info = next(extra for extra in extras if isinstance(extra, (ArgumentInfo, OptionInfo)))
        yield Parameter(name, info, kind, parameter.default)


def _section(command: Callable[..., Any]) -> str:
    arguments = [p for p in parameters(command) if isinstance(p.info, ArgumentInfo)]
    usage = " ".join(["arrow-quant", command.__name__, "[OPTIONS]", *map(_usage, arguments)])
    parts = [f"## `arrow-quant {command.__name__}`\n", "\n\n".join(_paragraphs(command)) + "\n"]
    parts.append(f"```text\n{usage}\n```\n")
    if arguments:
        rows = [[f"`{argument.spelling}`", argument.text] for argument in arguments]
        parts.append(table(["argument", "meaning"], rows))
    parts.append(_options(command))
    return "\n".join(parts)


def _options(command: Callable[..., Any]) -> str:
    options = [p for p in parameters(command) if isinstance(p.info, OptionInfo)]
    return table(["option", "meaning"], [[f"`{o.spelling}`", o.text] for o in options])


def _usage(argument: Parameter) -> str:
    several = "..." if typing.get_origin(argument.type) is list else ""
    name = argument.spelling + several
    return name if argument.required else f"[{name}]"


def _paragraphs(command: Callable[..., Any]) -> list[str]:
    return [one_line(part) for part in (inspect.getdoc(command) or "").split("\n\n")]


def _values(kind: Any) -> str:
    """Choices of a literal or an enumeration; else the name of the type."""
    for part in (kind, *typing.get_args(kind)):
        if isinstance(part, type) and issubclass(part, enum.Enum):
            return "|".join(str(item.value) for item in part)
        if typing.get_origin(part) is typing.Literal:
            return "|".join(map(str, typing.get_args(part)))
    return str(getattr(kind, "__name__", kind)).upper()
