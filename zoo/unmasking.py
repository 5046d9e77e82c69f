"""Text from a masked diffusion language model: all tokens masked, then step by step fewer."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BATCH = 50
#: Of the distribution that tokens are drawn from; below 1 the likely becomes likelier.
TEMPERATURE = 0.6


def unmask(
    model: Any,
    tokenizer: Any,
    lengths: Sequence[int],
    *,
    steps: int,
    seed: int,
    temperature: float = TEMPERATURE,
) -> list[list[int]]:
    """Generate items of ``lengths`` tokens, boundaries not counted; each is like training's items.

    Tokens are unmasked in random order, at each step as many as leave the rest evenly to the other
    steps: the reverse process of masked diffusion (LLaDA, Nie et al. 2025, section 2.4, random
    remasking). The same seed gives the same order and random numbers to every model.
    """
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
    samples: list[list[int]] = [[] for _ in lengths]
    for start in range(0, len(by_length), BATCH):
        rows = by_length[start : start + BATCH]
        generator = torch.Generator().manual_seed(seed * len(lengths) + start)
        counts = torch.tensor([lengths[i] for i in rows])
        found = _unmask_batch(model, tokenizer, counts, steps, generator, temperature)
        for i, tokens in zip(rows, found, strict=True):
            samples[i] = tokens[1 : 1 + lengths[i]].tolist()
    return samples


def _unmask_batch(
    model: Any,
    tokenizer: Any,
    counts: Tensor,
    steps: int,
    generator: torch.Generator,
    temperature: float,
) -> Tensor:
    position = torch.arange(int(counts.max()) + 2)
    end = counts[:, None] + 1
    tokens = torch.full((len(counts), len(position)), tokenizer.mask_token_id)
    tokens[:, 0] = tokenizer.bos_token_id
    tokens[position == end] = tokenizer.eos_token_id
    tokens[position > end] = tokenizer.pad_token_id
    present = (position <= end).long()
    forbidden = torch.tensor(tokenizer.all_special_ids)
    priority = torch.rand(tokens.shape, generator=generator)
    with torch.inference_mode():
        for step in range(steps):
            masked = tokens == tokenizer.mask_token_id
            logits = model(input_ids=tokens, attention_mask=present).logits.float()
            logits[..., forbidden] = -torch.inf
            drawn = _draw(logits / temperature, generator)
            now = torch.ceil(masked.sum(dim=1) / (steps - step)).long()
            rank = (priority + ~masked).argsort(dim=1).argsort(dim=1)  # masked ones first
            tokens = torch.where(masked & (rank < now[:, None]), drawn, tokens)
    return tokens


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens by inversion of the cumulative distribution: one random number a token."""
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    uniform = torch.rand((*logits.shape[:-1], 1), generator=generator)
    drawn = torch.searchsorted(cumulative, uniform * cumulative[..., -1:], right=True)
    return drawn[..., 0].clamp(max=logits.shape[-1] - 1)


def save_panel(samples: Sequence[str], path: str | Path, *, columns: int = 2) -> None:
    """Write samples as a PNG, one frame each, in letters of one width."""
    from PIL import Image, ImageDraw, ImageFont

    font: Any = ImageFont.load_default_imagefont()
    letters, scale, pad = 64, 2, 8
    blocks = ["\n".join(_wrapped(sample, letters)) for sample in samples]
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    boxes = [draw.multiline_textbbox((0, 0), block, font=font) for block in blocks]
    width = round(letters * draw.textlength("m", font=font)) + 2 * pad
    rows = [range(i, min(i + columns, len(blocks))) for i in range(0, len(blocks), columns)]
    heights = [round(max(boxes[i][3] for i in row)) + 2 * pad for row in rows]
    sheet = Image.new("L", (columns * width, sum(heights)), 255)
    draw = ImageDraw.Draw(sheet)
    for row, height, top in zip(rows, heights, _starts(heights), strict=True):
        for column, i in enumerate(row):
            draw.rectangle(
                (column * width, top, (column + 1) * width - 1, top + height - 1), outline=200
            )
            draw.multiline_text((column * width + pad, top + pad), blocks[i], 0, font)
    size = (sheet.width * scale, sheet.height * scale)
    sheet.resize(size, Image.Resampling.NEAREST).save(path)


def _wrapped(text: str, letters: int) -> list[str]:
    lines = []
    for line in text.encode("latin-1", "replace").decode("latin-1").expandtabs(4).split("\n"):
        indent = line[: len(line) - len(line.lstrip())] + "    "
        lines += textwrap.wrap(line, letters, subsequent_indent=indent) or [""]
    return lines


def _starts(heights: Sequence[int]) -> list[int]:
    return [sum(heights[:i]) for i in range(len(heights))]
