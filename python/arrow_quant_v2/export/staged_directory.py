"""A directory that appears complete or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arrow_quant_v2.errors import OutputError


@contextmanager
def staged_directory(destination: Path) -> Iterator[Path]:
    """Give a hidden folder beside `destination`, and rename it to that when the body is done.

    The folder goes when the body fails. `destination` must be absent or an empty folder.

    Raises
    ------
    OutputError
        `destination` is in use, or the file system refuses.
    """
    destination = Path(os.path.abspath(destination))
    is_folder = os.path.isdir(destination)
    if os.path.islink(destination) or (os.path.exists(destination) and not is_folder):
        raise OutputError(f"{destination}: exists and is no folder", path=str(destination))
    if is_folder and os.listdir(destination):
        raise OutputError(
            f"{destination}: exists and is not empty",
            path=str(destination),
            hint="Choose another destination, or remove it first.",
        )
    staging = destination.parent / f".{destination.name}.staging-{secrets.token_hex(4)}"
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
        yield staging
        sync_directory(staging)
        os.replace(staging, destination)
        sync_directory(destination.parent)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{destination}: cannot be written: {error.strerror or error}",
            path=str(destination),
            hint="Check free space and permissions of the parent folder.",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def sync_directory(path: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
