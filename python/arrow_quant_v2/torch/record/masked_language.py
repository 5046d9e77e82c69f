"""Calibration tapes of masked-diffusion language models: texts at every ratio of masked tokens.

The diffusion time is the ratio of masked tokens, as in LLaDA (Nie et al. 2025, section 2.1).
Without texts of the user the model writes its own by unmasking random positions step by step; its
intermediate states are the tape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arrow_quant_v2.calibration.model_kind import CannotRunError
from arrow_quant_v2.config.settings import CALIBRATION
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.torch.record.samples import Samples
from arrow_quant_v2.torch.record.trajectory import Batch, batches_of, is_held_out
from arrow_quant_v2.torch.text_models.bidirectional import block_mask
from arrow_quant_v2.torch.text_models.tokens import added_around

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
    mask_token_id: int | None = None,
) -> list[Batch]:
    """Record `samples` texts, each at several ratios of masked tokens.

    `mask_token_id` is the token of hidden positions where the tokenizer does not know it.

    Raises
    ------
    CannotRunError
        Nobody knows the mask token.
    ConfigurationError
        The data is no texts, or they are empty.
    """
    mask = tokenizer.mask_token_id if mask_token_id is None else mask_token_id
    if mask is None:
        raise CannotRunError("the tokenizer has no mask token")
    if data.kind == "user" and not data.texts:
        raise ConfigurationError(
            f"calibration_data: expected texts for a language model, found {data.what}"
        )
    length = _longest(model, tokenizer)
    state = _States(mask, int(getattr(model, "block_length", 0)))
    generator = torch.Generator().manual_seed(seed)
    tape: list[Batch] = []
    for run, numbers in enumerate(batches_of(samples, _BATCH)):
        if data.texts:
            texts = [data.texts[i % len(data.texts)] for i in numbers]
            tape += _masked_texts(state, tokenizer, texts, numbers, length, generator)
        else:
            part = _LENGTHS[run % len(_LENGTHS)]
            blank = _blank(tokenizer, mask, max(8, int(part * length)))
            tape += _own_texts(state, model, blank, numbers, generator)
        progress((numbers[-1] + 1) / samples)
    return tape


def _longest(model: Any, tokenizer: Any) -> int:
    known = getattr(model.config, "max_position_embeddings", None) or CALIBRATION.text_length
    return int(min(CALIBRATION.text_length, known, tokenizer.model_max_length))


def _masked_texts(
    state: _States,
    tokenizer: Any,
    texts: list[str],
    numbers: range,
    length: int,
    generator: torch.Generator,
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
        ids = coded["input_ids"].masked_fill(order < masked[:, None], state.mask)
        batches.append(state.batch(ids, present, masked / counts, numbers))
    return batches


def _blank(tokenizer: Any, mask: int, length: int) -> Tensor:
    """So many tokens [1, length]: masks, with what the tokenizer puts around every text."""
    if tokenizer.mask_token_id == mask:
        specials = tokenizer.num_special_tokens_to_add()
        text = tokenizer.mask_token * max(1, length - specials)
        found: Tensor = tokenizer(text, return_tensors="pt")["input_ids"]
        return found
    before, behind = added_around(tokenizer)
    masks = [mask] * max(1, length - len(before) - len(behind))
    return torch.tensor([[*before, *masks, *behind]])


def _own_texts(
    state: _States, model: Any, blank: Tensor, numbers: range, generator: torch.Generator
) -> list[Batch]:
    """States on the way from nothing but masks to a text, sampled at temperature 1."""
    ids = blank.repeat(len(numbers), 1)
    present = torch.ones_like(ids, dtype=torch.bool)
    maskable = (ids == state.mask).sum(dim=1)
    total = int(maskable[0])
    steps = min(CALIBRATION.sampler_steps, total)
    wanted = _recorded_steps(len(numbers), steps, generator)
    batches = []
    for step in range(steps):
        masked = ids == state.mask
        rows = torch.nonzero(wanted[:, step])[:, 0]
        if len(rows):
            ratio = masked[rows].sum(dim=1) / total
            batches.append(state.batch(ids[rows], present[rows], ratio, _pick(numbers, rows)))
        if step == steps - 1:
            break
        seen = state.attention_mask(present)
        logits = model(input_ids=ids, attention_mask=seen).logits.float()
        logits[..., state.mask] = -torch.inf
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


@dataclass(frozen=True)
class _States:
    """How states of a text become calls of the model.

    Attributes
    ----------
    mask
        The token of hidden positions.
    block_length
        Positions see their own block of so many and earlier ones; 0: all.
    """

    mask: int
    block_length: int

    def attention_mask(self, present: Tensor) -> Tensor:
        """What goes with texts whose tokens are `present`, [texts, tokens]."""
        if not self.block_length:
            return present.long()
        blocks = block_mask(present.shape[1], self.block_length)
        return blocks & present[:, None, None, :]

    def batch(
        self, ids: Tensor, present: Tensor, ratio: Tensor, numbers: range | list[int]
    ) -> Batch:
        """One call with the texts of these numbers, `ratio` of whose tokens are hidden."""
        return Batch(
            kwargs={"input_ids": ids, "attention_mask": self.attention_mask(present)},
            timestep=ratio.double(),
            held_out=is_held_out(torch.tensor(numbers)),
            valid=present,
            masked=ids == self.mask,
        )
