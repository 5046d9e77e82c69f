"""The floating-point type of a loaded model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import torch

from arrow_quant_v2.tensors.tensor import QuantizedTensor

__all__ = ["source_dtype", "stored_dtype"]

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def source_dtype(tensor: QuantizedTensor) -> torch.dtype:
    """The type of the source; bfloat16 where that was narrower."""
    return _TYPES.get(tensor.source_dtype, torch.bfloat16)


def stored_dtype(components: Iterable[Mapping[str, QuantizedTensor]]) -> torch.dtype:
    """The type that most numbers of the source have, which the model computes in."""
    counts: Counter[torch.dtype] = Counter()
    for component in components:
        for tensor in component.values():
            if tensor.is_quantized or tensor.source_dtype in _TYPES:
                counts[source_dtype(tensor)] += tensor.size
    return max(counts, key=lambda kind: counts[kind], default=torch.float32)
