"""What a migration gives: the new text, and what a person has to look at."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from arrow_quant_v2.errors import OutputError


@dataclass(frozen=True)
class Migration:
    """A file before and after, and notes on what was left as it was.

    Attributes
    ----------
    path
        The file, as the diff names it.
    old, new
        Its text before and after.
    notes
        ``line N: what is left to do``, in the order of the lines.
    encoding
        How the text is written to a file.
    """

    path: str
    old: str
    new: str
    notes: tuple[str, ...] = ()
    encoding: str = "utf-8"

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return self.old != self.new

    def diff(self) -> str:
        """The change as a unified diff that ``patch -p0`` takes."""
        lines = difflib.unified_diff(
            self.old.splitlines(keepends=True),
            self.new.splitlines(keepends=True),
            fromfile=self.path,
            tofile=self.path,
        )
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in lines
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the new text to `path` in one step; a file that is there keeps its permissions.

        Raises
        ------
        OutputError
            The file cannot be written; what was there is still whole.
        """
        target = Path(path).resolve()
        try:
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            staged = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(self.new.encode(self.encoding))
                shutil.copymode(target if target.exists() else Path(self.path), staged)
                staged.replace(target)
            except BaseException:
                staged.unlink()
                raise
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written: {error.strerror}", path=str(path)
            ) from error
