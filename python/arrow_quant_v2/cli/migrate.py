"""``arrow-quant migrate``: V1 configuration files and programs in their V2 spelling."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from arrow_quant_v2.cli.console import note, print_plain
from arrow_quant_v2.cli.exit_codes import command
from arrow_quant_v2.errors import ConfigurationError, OutputError
from arrow_quant_v2.migrate import migrate_file


@command
def migrate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="V1 configuration (.yaml) or program (.py).")
    ],
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="Write the V2 file there.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Replace FILE by its V2 form.")] = False,
) -> None:
    """Turn a V1 configuration or program into V2.

    Without OUT and --write, the change is only shown, as a diff.
    """
    if write and out is not None:
        raise ConfigurationError("--write replaces FILE, so there can be no OUT beside it")
    migration = migrate_file(file)
    if out is not None:
        if os.path.lexists(out):
            raise OutputError(f"{out}: the file exists", path=str(out), hint="Remove it first.")
        migration.write(out)
    elif write and migration.changed:
        migration.write(file)
    else:
        print_plain(migration.diff())
        sys.stdout.flush()
    for text in migration.notes:
        note(f"{file}, {text}")
    if not migration.changed:
        note(f"{file}: nothing to change")
