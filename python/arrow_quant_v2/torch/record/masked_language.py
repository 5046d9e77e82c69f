"""Calibration tapes of masked-diffusion language models: texts at every ratio of masked tokens.

The diffusion time is the ratio of masked tokens, as in LLaDA (Nie et al. 2025, section 2.1).
Without texts of the user the model writes its own by unmasking random positions step by step; its
intermediate states are the tape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from arrow_quant_v2.calibration.model_kind import CannotRunError
from arrow_quant_v2.config.settings import CALIBRATION
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.torch.record.samples import Samples
from arrow_quant_v2.torch.record.trajectory import Batch, batches_of, is_held_out

__all__ = ["masked_language_tape"]

_BATCH = 16
#: Lengths of texts that the model writes itself, as parts of the longest.
_LENGTHS = (1.0, 0.75, 0.5, 0.25)


def masked_language_tape(
    model: Any,
    tokenizer: Any,
    data: Samples,
    *,
    samples: int,
    seed: int,
    progress: Callable[[float], None],
) -> list[Batch]:
    """Record `samples` texts, each at several ratios of masked tokens.

    Raises
    ------
    CannotRunError
        The tokenizer has no mask token.
    ConfigurationError
        The data is no texts, or they are empty.
    """
    if tokenizer.mask_token_id is None:
        raise CannotRunError("the tokenizer has no mask token")
    if data.kind == "user" and not data.texts:
        raise ConfigurationError(
            f"calibration_data: expected texts for a language model, found {data.what}"
        )
    length = _longest(model, tokenizer)
    generator = torch.Generator().manual_seed(seed)
    tape: list[Batch] = []
    for run, numbers in enumerate(batches_of(samples, _BATCH)):
        if data.texts:
            texts = [data.texts[i % len(data.texts)] for i in numbers]
            tape += _masked_texts(tokenizer, texts, numbers, length, generator)
        else:
            part = _LENGTHS[run % len(_LENGTHS)]
            tape += _own_texts(model, tokenizer, numbers, max(8, int(part * length)), generator)
        progress((numbers[-1] + 1) / samples)
    return tape


def _longest(model: Any, tokenizer: Any) -> int:
    known = getattr(model.config, "max_position_embeddings", None) or CALIBRATION.text_length
    return int(min(CALIBRATION.text_length, known, tokenizer.model_max_length))


def _masked_texts(
    tokenizer: Any, texts: list[str], numbers: range, length: int, generator: torch.Generator
) -> list[Batch]:
    """One batch for each part of the mask ratios from 0 to 1."""
    coded = tokenizer(
        texts,
        truncation=True,
        max_length=length,
        padding=True,
        return_tensors="pt",
        return_special_tokens_mask=True,
    )
    present = coded["attention_mask"].bool()
    maskable = present & ~coded["special_tokens_mask"].bool()
    counts = maskable.sum(dim=1)
    if not counts.all():
        empty = int(torch.nonzero(counts == 0)[0])
        raise ConfigurationError(f"calibration_data: text {numbers[empty]} has no tokens")
    parts = CALIBRATION.steps_per_trajectory
    batches = []
    for part in range(parts):
        draw = torch.rand(len(texts), generator=generator)
        masked = ((part + draw) / parts * counts).ceil().long().clamp(min=1)
        scores = torch.rand(maskable.shape, generator=generator).masked_fill(~maskable, 2.0)
        order = scores.argsort(dim=1).argsort(dim=1)
        ids = coded["input_ids"].masked_fill(order < masked[:, None], tokenizer.mask_token_id)
        hidden = ids == tokenizer.mask_token_id
        batches.append(_batch(ids, present, hidden, masked / counts, numbers))
    return batches


def _own_texts(
    model: Any, tokenizer: Any, numbers: range, length: int, generator: torch.Generator
) -> list[Batch]:
    """States on the way from nothing but masks to a text, sampled at temperature 1."""
    specials = tokenizer.num_special_tokens_to_add()
    blank = tokenizer(tokenizer.mask_token * max(1, length - specials), return_tensors="pt")
    ids = blank["input_ids"].repeat(len(numbers), 1)
    present = torch.ones_like(ids, dtype=torch.bool)
    maskable = (ids == tokenizer.mask_token_id).sum(dim=1)
    total = int(maskable[0])
    steps = min(CALIBRATION.sampler_steps, total)
    wanted = _recorded_steps(len(numbers), steps, generator)
    batches = []
    for step in range(steps):
        masked = ids == tokenizer.mask_token_id
        rows = torch.nonzero(wanted[:, step])[:, 0]
        if len(rows):
            ratio = masked[rows].sum(dim=1) / total
            batches.append(
                _batch(ids[rows], present[rows], masked[rows], ratio, _pick(numbers, rows))
            )
        if step == steps - 1:
            break
        logits = model(input_ids=ids, attention_mask=present.long()).logits.float()
        logits[..., tokenizer.mask_token_id] = -torch.inf
        drawn = torch.multinomial(
            logits.softmax(dim=-1).flatten(0, 1), 1, generator=generator
        ).reshape(ids.shape)
        left = total - round(total * (step + 1) / steps)
        scores = torch.rand(ids.shape, generator=generator).masked_fill(~masked, -1.0)
        stays = scores.argsort(dim=1, descending=True).argsort(dim=1) < left
        ids = torch.where(masked & ~stays, drawn, ids)
    return batches


def _recorded_steps(texts: int, steps: int, generator: torch.Generator) -> Tensor:
    """For each text one step in each of several equal parts of the way: booleans."""
    wanted = torch.zeros(texts, steps, dtype=torch.bool)
    parts = min(CALIBRATION.steps_per_trajectory, steps)
    for part in range(parts):
        draw = torch.rand(texts, generator=generator)
        chosen = ((part + draw) / parts * steps).long().clamp(max=steps - 1)
        wanted[torch.arange(texts), chosen] = True
    return wanted


def _pick(numbers: range, rows: Tensor) -> list[int]:
    return [numbers[int(row)] for row in rows]


def _batch(
    ids: Tensor, present: Tensor, masked: Tensor, ratio: Tensor, numbers: range | list[int]
) -> Batch:
    return Batch(
        kwargs={"input_ids": ids, "attention_mask": present.long()},
        timestep=ratio.double(),
        held_out=is_held_out(torch.tensor(numbers)),
        valid=present,
        masked=masked,
    )
