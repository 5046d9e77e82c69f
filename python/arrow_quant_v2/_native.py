"""The compiled engine, loaded after the Arrow libraries that it shares with pyarrow."""

from __future__ import annotations

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


_load_arrow()

from arrow_quant_v2 import _core as core  # noqa: E402

__version__ = core.VERSION

__all__ = ["PYARROW_SERIES", "__version__", "core"]
