"""V1 programs: imports, calls, settings and result keys in their V2 spelling.

Only what is certain is rewritten, so that the diff is short enough to read: names imported from
``arrow_quant``, calls of the form ``x.quantize(model, output, ...)``, settings in their arguments,
and keys of what those calls return. What needs a person becomes a note.
"""

from __future__ import annotations

import os
from pathlib import Path

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.migrate.migration import Migration


def migrate_python(path: str | os.PathLike[str]) -> Migration:
    """Rewrite a program that uses V1.

    Raises
    ------
    ConfigurationError
        The file cannot be read, or is not Python.
    ImportError
        libcst, which reads programs without losing their layout, is not installed.
    """
    try:
        import libcst
    except ImportError as error:
        raise ImportError(
            "migrating Python files needs libcst. "
            "Install it with: pip install 'arrow-quant-v2[migrate]'"
        ) from error
    from arrow_quant_v2.migrate.python_rewriter import rewrite

    try:
        source = Path(path).read_bytes()
        module = libcst.parse_module(source)
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read: {error.strerror}", path=str(path)
        ) from error
    except (libcst.ParserSyntaxError, SyntaxError, UnicodeDecodeError) as error:
        where = f", line {error.raw_line}" if isinstance(error, libcst.ParserSyntaxError) else ""
        raise ConfigurationError(
            f"{path}{where}: not valid Python",
            path=str(path),
        ) from None
    new, notes = rewrite(module)
    return Migration(str(path), module.code, new, tuple(notes), module.encoding)
