"""One weight: an array that comes in, codes and parameters, the floats that they stand for."""

from arrow_quant_v2.tensors.tensor import QuantizedTensor, TimeGroup

__all__ = ["QuantizedTensor", "TimeGroup"]
