"""What needs torch: calibration on a running model. Importing it imports torch."""

from arrow_quant_v2.torch.calibrate import CalibrationRun, calibrate
from arrow_quant_v2.torch.capture import CannotRunError, capture
from arrow_quant_v2.torch.tape import Batch

__all__ = ["Batch", "CalibrationRun", "CannotRunError", "calibrate", "capture"]
