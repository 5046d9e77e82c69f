"""Texts written by masked-diffusion language models."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.torch.evaluation import evaluating
from arrow_quant_v2.torch.load.loading import load_quantized
from arrow_quant_v2.torch.record.text_model import load_text_model
from arrow_quant_v2.torch.text_models.bidirectional import block_mask
from arrow_quant_v2.torch.text_models.pipelines import MODEL, TOKENIZER, text_pipeline
from arrow_quant_v2.torch.text_models.tokens import added_around, read_tokens

__all__ = ["sample_text"]


def sample_text(
    model: nn.Module | Any | StrPath,
    prompt: str = "",
    *,
    length: int = 128,
    steps: int | None = None,
    block_length: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    tokenizer: Any = None,
    return_ids: bool = False,
) -> str | list[int]:
    """Write a text behind a prompt by unmasking, the surest tokens first.

    All tokens behind the prompt begin as masks. Each step predicts them all and keeps those whose
    prediction has the highest probability; the others stay masks (low-confidence remasking, LLaDA,
    Nie et al. 2025, section 2.4 and algorithm 5). Blocks of tokens are written one after the other
    (semi-autoregressive sampling, the same paper).

    Parameters
    ----------
    model
        A masked language model that predicts the tokens of all positions, quantized or not, as
        :func:`load_quantized` returns it; a diffusers pipeline of such a model, which samples
        itself; or the folder of either, or of an artefact.
    prompt
        The beginning. It is taken as it is: apply the chat template of an instruction model first.
    length
        Tokens to write.
    steps
        Predictions in all, shared evenly by the blocks; None: one for each token.
    block_length
        Tokens of a block; None: the model's own block length, or all in one block.
    temperature
        0: the likeliest token. Above: tokens are drawn from the probabilities of the logits divided
        by it.
    seed
        Of the draws.
    tokenizer
        Of transformers; None: that of the folder which the model was loaded from.
    return_ids
        Return the numbers of the new tokens instead.

    Returns
    -------
    str or list of int
        What was written, without the prompt and without special tokens.

    Raises
    ------
    ConfigurationError
        An argument is invalid, or the tokenizer or the mask token is not known.

    Examples
    --------
    >>> from arrow_quant_v2.torch import load_quantized, sample_text
    >>> model = load_quantized("dream-7b-int4/")  # doctest: +SKIP
    >>> sample_text(model, prompt="The sky is", length=32)  # doctest: +SKIP
    """
    for name, value in (("length", length), ("steps", steps), ("block_length", block_length)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < 1
        ):
            raise ConfigurationError(
                f"Invalid {name}: {value!r}. Must be an integer of at least 1."
            )
    if temperature < 0:
        raise ConfigurationError(f"Invalid temperature: {temperature!r}. Must be at least 0.")
    if isinstance(model, (str, os.PathLike)):
        model = _loaded(Path(model))
    if not isinstance(model, nn.Module):
        return _by_pipeline(
            model, prompt, length, steps, block_length, temperature, seed, return_ids
        )
    words, mask = _tokens(model, tokenizer)
    before, behind = added_around(words)
    given = [*before, *words(prompt, add_special_tokens=False)["input_ids"]]
    block = min(block_length or int(getattr(model, "block_length", 0)) or length, length)
    device = next(iter([*model.parameters(), *model.buffers()])).device
    start = len(given)
    row = [*given, *[mask] * length, *behind]
    ids = torch.tensor([row], dtype=torch.long, device=device)
    generator = torch.Generator().manual_seed(seed)
    # Blocks of a model that attends by blocks are counted from the beginning of the prompt.
    first = -(start % block) if getattr(model, "block_length", 0) else 0
    blocks = [range(max(n, 0), min(n + block, length)) for n in range(first, length, block)]
    with evaluating(model):
        for places, count in zip(blocks, _shares(steps or length, blocks), strict=True):
            where = slice(start + places.start, start + places.stop)
            _write_block(model, ids, where, count, mask, temperature, generator)
    written: list[int] = ids[0, start : start + length].tolist()
    if return_ids:
        return written
    return str(words.decode(written, skip_special_tokens=True))


def _shares(steps: int, blocks: list[range]) -> list[int]:
    """Steps of each block: as many as its part of the tokens, at least one, at most its tokens."""
    total = blocks[-1].stop
    ends = [round(steps * places.stop / total) for places in blocks]
    starts = [0, *ends[:-1]]
    return [
        max(1, min(len(places), end - begin))
        for places, begin, end in zip(blocks, starts, ends, strict=True)
    ]


def _write_block(
    model: Any,
    ids: Tensor,
    where: slice,
    steps: int,
    mask: int,
    temperature: float,
    generator: torch.Generator,
) -> None:
    """Replace the masks of one block of `ids` [1, tokens] within so many steps."""
    seen = ids[:, : where.stop] if getattr(model, "block_length", 0) else ids
    for step in range(steps):
        hidden = ids[0, where] == mask
        count = -(-int(hidden.sum()) // (steps - step))
        if count == 0:
            return
        logits = model(input_ids=seen, attention_mask=_attention(model, seen)).logits
        chosen, surety = _chosen(logits[0, where].float(), mask, temperature, generator)
        surest = surety.masked_fill(~hidden, -1.0).topk(count).indices
        ids[0, where.start + surest] = chosen[surest]


def _attention(model: Any, ids: Tensor) -> Tensor:
    block_length = int(getattr(model, "block_length", 0))
    if block_length:
        return block_mask(ids.shape[1], block_length).to(ids.device)
    return torch.ones_like(ids)


def _chosen(
    logits: Tensor, mask: int, temperature: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A token for each position of logits [positions, vocabulary], and its probability."""
    logits[:, mask] = -torch.inf
    probabilities = logits.softmax(dim=-1)
    if temperature == 0:
        chosen = logits.argmax(dim=-1)
    else:
        tempered = (logits / temperature).softmax(dim=-1).cpu()
        chosen = torch.multinomial(tempered, 1, generator=generator)[:, 0].to(logits.device)
    return chosen, probabilities.gather(1, chosen[:, None])[:, 0]


def _loaded(folder: Path) -> Any:
    if (folder / "manifest.json").is_file():
        return load_quantized(folder)
    if (folder / "model_index.json").is_file():
        model, _ = load_text_model(folder / MODEL, tokenizer=folder / TOKENIZER)
        return text_pipeline(folder, model)
    model, _ = load_text_model(folder)
    return model


def _tokens(model: Any, tokenizer: Any) -> tuple[Any, int]:
    """The tokenizer that was given, or that of the model's folder; and the mask token."""
    mask = getattr(model, "mask_token_id", None)
    if tokenizer is None:
        folder = Path(str(getattr(model, "name_or_path", "")))
        if not (folder / "config.json").is_file():
            raise ConfigurationError(
                "nobody knows the tokenizer of this model", hint="Pass tokenizer=."
            )
        tokens = read_tokens(folder)
        tokenizer, mask = tokens.tokenizer, tokens.mask_token_id
    elif mask is None:
        mask = tokenizer.mask_token_id
    if mask is None:
        raise ConfigurationError(
            f"{type(model).__name__}: nobody knows its mask token",
            hint="Give the tokenizer a mask token: tokenizer.mask_token = '<|mask|>'.",
        )
    return tokenizer, int(mask)


def _by_pipeline(
    pipeline: Any,
    prompt: str,
    length: int,
    steps: int | None,
    block_length: int | None,
    temperature: float,
    seed: int,
    return_ids: bool,
) -> str | list[int]:
    """What a text pipeline of diffusers writes itself."""
    accepted = inspect.signature(pipeline.__call__).parameters
    if "gen_length" not in accepted:
        raise ConfigurationError(
            f"expected a masked language model or a text pipeline, found {type(pipeline).__name__}"
        )
    settings: dict[str, Any] = {
        "prompt": prompt,
        "gen_length": length,
        "num_inference_steps": steps,
        "block_length": block_length,
        "temperature": temperature,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "seq" if return_ids else "text",
    }
    given = {k: v for k, v in settings.items() if k in accepted and v is not None}
    found = pipeline(**given)
    return found.sequences[0].tolist() if return_ids else str(found.texts[0])
