"""The compiled engine, loaded after the libraries that it shares with other wheels."""

from __future__ import annotations

import atexit
import ctypes
from pathlib import Path

PYARROW_SERIES = "26.0"


def _load_arrow() -> None:
    """Import pyarrow, which maps libarrow and libparquet, and check that it is the right series."""
    wanted = f"Install it with: pip install 'pyarrow=={PYARROW_SERIES}.*'"
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"arrow_quant_v2 needs pyarrow {PYARROW_SERIES}, which cannot be imported: {error}. "
            + wanted
        ) from error
    found = pyarrow.__version__
    if found.split(".")[:2] != PYARROW_SERIES.split("."):
        raise ImportError(
            f"arrow_quant_v2 was built for pyarrow {PYARROW_SERIES}, found pyarrow {found}. "
            f"The two share one copy of the Arrow libraries. {wanted}"
        )


def _load_openblas() -> None:
    """Map the OpenBLAS of its wheel, wherever that is installed."""
    try:
        import scipy_openblas32 as wheel
    except ImportError as error:
        raise ImportError(
            f"arrow_quant_v2 needs scipy-openblas32, which cannot be imported: {error}. "
            "Install it with: pip install scipy-openblas32"
        ) from error
    ctypes.CDLL(str(Path(wheel.get_lib_dir()) / wheel.get_library(fullname=True)))


_load_arrow()
_load_openblas()

from arrow_quant_v2 import _core as core  # noqa: E402

__version__ = core.VERSION

# Before the interpreter ends, so that no thread of it is in the engine when it does.
atexit.register(core.stop_running_calls)

__all__ = ["PYARROW_SERIES", "__version__", "core"]
