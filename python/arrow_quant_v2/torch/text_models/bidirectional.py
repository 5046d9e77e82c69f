"""A causal language model of transformers as a masked-diffusion model."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from arrow_quant_v2.errors import ConfigurationError

__all__ = ["MaskedDiffusion", "block_mask"]


class MaskedDiffusion:
    """Mixed into a causal language model: every token attends to every other.

    Attributes
    ----------
    mask_token_id
        The token of hidden positions.
    shifted
        The network's output at a position predicts the next one. Outputs of :meth:`forward` are
        moved, so that they always predict the tokens of their own positions.
    block_length
        Positions attend to their own block of so many and to earlier ones when text is sampled; 0:
        to all.
    """

    mask_token_id: int
    shifted = False
    block_length = 0

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Predict the tokens of all positions.

        Parameters
        ----------
        input_ids
            Integers ``[batch, tokens]``.
        attention_mask
            ``[batch, tokens]``, 0 for padding; or booleans ``[batch, 1, tokens, tokens]`` of which
            position (third dimension) sees which (last); None: all see all.
        position_ids
            ``[batch, tokens]``; None: 0, 1, 2, ...
        inputs_embeds
            ``[batch, tokens, channels]`` in place of `input_ids`.

        Returns
        -------
        transformers.utils.ModelOutput
            With ``logits [batch, tokens, vocabulary]``.
        """
        if kwargs.get("labels") is not None:
            raise ConfigurationError(
                "labels: the loss of a causal model is not that of masked diffusion",
                hint="Compute the loss from the logits of the masked positions.",
            )
        tokens = input_ids if input_ids is not None else inputs_embeds
        if tokens is None:
            raise ConfigurationError("expected input_ids or inputs_embeds, found neither")
        if attention_mask is None:
            attention_mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if attention_mask.dim() == 2:
            attention_mask = attention_mask[:, None, None, :].bool()
        output = super().forward(  # type: ignore[misc]
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **{**kwargs, "use_cache": False},
        )
        if self.shifted:
            logits = output.logits
            output.logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
        return output

    def generate(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: the library's generation goes from left to right."""
        raise ConfigurationError(
            f"{type(self).__name__} does not write from left to right",
            hint="Use arrow_quant_v2.torch.sample_text(model, prompt=..., tokenizer=...).",
        )


def block_mask(tokens: int, block_length: int) -> Tensor:
    """Booleans ``[1, 1, tokens, tokens]``: positions see their own block and earlier ones."""
    blocks = torch.arange(tokens) // block_length
    return (blocks[:, None] >= blocks[None, :])[None, None]
