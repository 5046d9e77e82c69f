"""The diffusion time that layers choose their time-dependent parameters by.

Every loaded model has one :class:`Clock`. A hook on the denoiser reads the timestep of each call
from its arguments; ``with timestep(t):`` sets it for modules whose arguments nobody can know.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.torch.build.empty_model import is_pipeline, read_index
from arrow_quant_v2.torch.text_models.bidirectional import MaskedDiffusion
from arrow_quant_v2.torch.text_models.pipelines import MODEL, TOKENIZER, is_text_pipeline

__all__ = ["TIME_ARGUMENTS", "Clock", "clock_of", "timestep"]

#: Arguments of denoisers that hold the timestep, in the order they are looked for.
TIME_ARGUMENTS = ("timestep", "timesteps", "t", "time", "sigma", "timestep_ratio", "r")

#: What ``with timestep(t):`` set, in this thread or task.
_forced: ContextVar[Tensor | None] = ContextVar("forced_timestep", default=None)


@contextmanager
def timestep(t: float | Tensor) -> Iterator[None]:
    """Set the diffusion time of every quantized layer that runs in the body.

    Parameters
    ----------
    t
        One number, or a tensor ``[batch]`` with one for each sample. For text and code models the
        share of masked tokens.

    Examples
    --------
    >>> import arrow_quant_v2.torch
    >>> with arrow_quant_v2.torch.timestep(500):  # doctest: +SKIP
    ...     noise = module(x)
    """
    token = _forced.set(_as_tensor(t))
    try:
        yield
    finally:
        _forced.reset(token)


class Clock:
    """The time of the call that a model is in; each thread and each task has its own.

    Attributes
    ----------
    mask_token_id, special_ids
        For models that are driven by token ids, whose time is the share of masked tokens: the token
        that stands for a hidden one, and those that never are hidden.
    """

    def __init__(self, mask_token_id: int | None = None, special_ids: Sequence[int] = ()) -> None:
        self._value: ContextVar[Tensor | None] = ContextVar("timestep", default=None)
        self.mask_token_id = mask_token_id
        self.special_ids = tuple(special_ids)

    @property
    def value(self) -> Tensor | None:
        """float32 ``[]`` or ``[batch]``, or None before the first call in this thread."""
        return self._value.get()

    def now(self) -> Tensor:
        """Give the time of this call.

        Raises
        ------
        ConfigurationError
            Nobody has set it.
        """
        forced = _forced.get()
        if forced is not None:
            return forced
        value = self._value.get()
        if value is None:
            raise ConfigurationError(
                "static activation scales depend on the diffusion timestep, which is not known",
                hint="Call the model inside `with arrow_quant_v2.torch.timestep(t):`.",
            )
        return value

    def watch(self, denoiser: nn.Module) -> None:
        """Read the time of each call of `denoiser` from its arguments."""
        denoiser.register_forward_pre_hook(self._read, with_kwargs=True)

    def _read(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        arguments = _bound(module, args, kwargs)
        for name in TIME_ARGUMENTS:
            if arguments.get(name) is not None:
                self._value.set(_as_tensor(arguments[name]))
                return
        ids = arguments.get("input_ids")
        if self.mask_token_id is not None and isinstance(ids, Tensor):
            self._value.set(self._mask_ratio(ids, arguments.get("attention_mask")))

    def _mask_ratio(self, ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Masked tokens over those that could be, ``[batch]``; the time that calibration uses."""
        maskable = torch.ones_like(ids, dtype=torch.bool)
        if attention_mask is not None and attention_mask.shape == ids.shape:
            maskable = attention_mask.bool()
        for special in self.special_ids:
            maskable = maskable & (ids != special)
        masked = (ids == self.mask_token_id).sum(dim=-1)
        return masked.to(torch.float32) / maskable.sum(dim=-1).clamp(min=1)


def clock_of(model: nn.Module, folder: Path) -> Clock:
    """A clock for the layers of `model`; `folder` may hold the tokenizer that goes with it."""
    tokenizer, of = folder, folder
    if is_pipeline(folder) and is_text_pipeline(read_index(folder)):
        tokenizer, of = folder / TOKENIZER, folder / MODEL
    if not (tokenizer / "tokenizer_config.json").is_file():
        found = getattr(getattr(model, "config", None), "mask_token_id", None)
        return Clock(found if isinstance(found, int) else None)
    from arrow_quant_v2.torch.text_models.tokens import read_tokens

    tokens = read_tokens(tokenizer, model=of)
    if isinstance(model, MaskedDiffusion) and tokens.mask_token_id is not None:
        model.mask_token_id = tokens.mask_token_id
    return Clock(tokens.mask_token_id, tokens.special_ids)


def _bound(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Arguments of ``module.forward`` by name."""
    if not args:
        return kwargs
    names = list(inspect.signature(module.forward).parameters)
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _as_tensor(t: float | Tensor) -> Tensor:
    value = torch.as_tensor(t, dtype=torch.float32).detach()
    if value.dim() > 1:
        value = value.flatten(1)[:, 0]
    # Pipelines repeat one time for every sample. Products are faster with one scale for all.
    if value.dim() == 1 and value.device.type == "cpu" and not torch.compiler.is_compiling():
        first = value[:1]
        if first.numel() and bool((value == first).all()):
            return first.view(())
    return value
