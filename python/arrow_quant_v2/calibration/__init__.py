"""Statistics of what enters the layers, and whether a run gets them. Needs no torch."""

from arrow_quant_v2.calibration.statistics import (
    CalibrationStatistics,
    Fold,
    FoldSource,
    TimeStatistics,
)

__all__ = ["CalibrationStatistics", "Fold", "FoldSource", "TimeStatistics"]
