"""Dream (Ye et al. 2025, arXiv:2508.15487) and DiffuCoder (Gong et al. 2025, arXiv:2506.20639).

Both are Qwen2 without the causal mask. Training began with weights of the causal model, and the
output at a position still predicts the token after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arrow_quant_v2.text_families.family import TextFamily

__all__ = ["DREAM"]

_COPIED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "tie_word_embeddings",
)


def _library_config(config: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: config[key] for key in _COPIED if config.get(key) is not None}
    return {"tie_word_embeddings": False, **found}


DREAM = TextFamily(
    name="Dream",
    architectures=("DreamModel", "DreamForCausalLM"),
    library_class="Qwen2ForCausalLM",
    mask_token_id=151666,
    mask_tokens=("<|mask|>",),
    library_config=_library_config,
    required={"use_sliding_window": (False, None)},
    shifted=True,
    tokenizer_class="Qwen2TokenizerFast",
)
