"""Where the tokens of an expert come from."""

from __future__ import annotations

from torch import Tensor

from arrow_quant_v2.torch.record.trajectory import Batch

__all__ = ["tokens_of_a_sample"]


def tokens_of_a_sample(batch: Batch, given: Tensor) -> int:
    """How many tokens each sample of a batch has, some of which are `given` to an expert."""
    ids = batch.valid if batch.valid is not None else batch.kwargs.get("input_ids")
    if isinstance(ids, Tensor) and ids.ndim == 2:
        return int(ids.shape[1])
    return -(-(int(given.max()) + 1) // batch.samples)
