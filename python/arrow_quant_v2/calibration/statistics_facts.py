"""What a file of statistics says about itself, without its matrices."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from arrow_quant_v2.calibration.statistics import CalibrationStatistics
from arrow_quant_v2.paths import StrPath, checked_path

__all__ = ["StatisticsFacts", "read_facts"]

_FORMAT = b"arrow_quant_v2.calibration"


@dataclass(frozen=True)
class StatisticsFacts:
    """What statistics are of.

    Attributes
    ----------
    data
        ``"user"`` or ``"neutral"`` inputs.
    layers
        How many layers they know.
    tokens
        The most that a layer was shown.
    """

    data: str
    layers: int
    tokens: int


def read_facts(path: StrPath) -> StatisticsFacts:
    """Read a few columns of a file that :meth:`CalibrationStatistics.save` wrote.

    Raises
    ------
    ArrowQuantError
        The file is absent or is no file of statistics: what :meth:`CalibrationStatistics.load`
        says of it.
    """
    try:
        with pyarrow.parquet.ParquetFile(checked_path(path, "statistics")) as file:
            metadata = file.metadata.metadata or {}
            if _FORMAT not in metadata:
                raise pyarrow.ArrowInvalid("another format")
            table = file.read(columns=["kind", "input", "tokens"])
    except (OSError, pyarrow.ArrowException, KeyError):
        loaded = CalibrationStatistics.load(path)  # raises, and says what is wrong
        layers = sum(len(loaded.layers(number)) for number in range(len(loaded)))
        tokens = max(map(loaded.tokens, range(len(loaded))), default=0)
        return StatisticsFacts(loaded.data, layers, tokens)
    shown: Counter[int] = Counter()
    for row in table.filter(pyarrow.compute.equal(table["kind"], "time")).to_pylist():
        shown[row["input"]] += row["tokens"]
    layers = table["kind"].to_pylist().count("layer")
    return StatisticsFacts(metadata[b"data"].decode(), layers, max(shown.values(), default=0))
