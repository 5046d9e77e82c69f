"""Entry point of the ``arrow-quant`` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from arrow_quant_v2._native import __version__
from arrow_quant_v2.cli.batch import batch
from arrow_quant_v2.cli.calibrate import calibrate
from arrow_quant_v2.cli.command_line import Command, quiet_libraries
from arrow_quant_v2.cli.config import config
from arrow_quant_v2.cli.console import prepare_streams
from arrow_quant_v2.cli.exit_codes import enable_debug, run_app
from arrow_quant_v2.cli.export import export
from arrow_quant_v2.cli.info import info
from arrow_quant_v2.cli.inspect import inspect, validate
from arrow_quant_v2.cli.migrate import migrate
from arrow_quant_v2.cli.quantize import plan, quantize
from arrow_quant_v2.errors import ConfigurationError

#: Options spelt with the names of V1 -> what to write instead.
_V1_OPTIONS = {
    "--bits": "--bit-width",
    "--min-acc": "--min-accuracy",
    "--strategy": "--method",
}

app = typer.Typer(
    name="arrow-quant",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    quantize,
    batch,
    plan,
    calibrate,
    inspect,
    validate,
    export,
    config,
    migrate,
    info,
)
for function in COMMANDS:
    app.command(cls=Command)(function)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"arrow-quant {__version__}")
        raise typer.Exit


@app.callback()
def _arrow_quant(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Quantize diffusion models to small, self-contained, queryable Parquet artefacts."""
    if debug:
        enable_debug()


def main() -> None:
    """Run the command; ``--debug`` may stand anywhere."""
    prepare_streams()
    quiet_libraries()
    arguments = sys.argv[1:]
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--debug" in options:
        arguments.remove("--debug")
        arguments.insert(0, "--debug")
    for option in options:
        new = _V1_OPTIONS.get(option.partition("=")[0])
        if new is not None:
            sys.stderr.write(f"error: {option} is a V1 name\nhint: Use {new}.\n")
            sys.exit(ConfigurationError.exit_code)
    run_app(app, arguments)
