"""LLaDA-MoE (Zhu et al. 2025, arXiv:2509.24389): Qwen3-MoE without the causal mask.

Queries and keys of every head are normalized; each token goes to the experts with the highest
softmax of the router, weighted by it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arrow_quant_v2.text_families.family import TextFamily

__all__ = ["LLADA_MOE"]

_COPIED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "attention_bias",
    "num_experts",
    "num_experts_per_tok",
)


def _library_config(config: Mapping[str, Any]) -> dict[str, Any]:
    layers = config["num_hidden_layers"]
    experts = config.get("moe_layer_freq") or [1] * layers
    dense = [layer for layer in range(layers) if not experts[layer]]
    heads = config["num_attention_heads"]
    return {
        **{key: config[key] for key in _COPIED if config.get(key) is not None},
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config["hidden_size"] // heads,
        "intermediate_size": config.get("dense_intermediate_size") or config["hidden_size"],
        "moe_intermediate_size": config["expert_intermediate_size"],
        "mlp_only_layers": dense,
        "decoder_sparse_step": 1,
        "norm_topk_prob": False,
        "tie_word_embeddings": False,
    }


LLADA_MOE = TextFamily(
    name="LLaDA-MoE",
    architectures=("LLaDAMoEModelLM", "LLaDAMoEModel"),
    library_class="Qwen3MoeForCausalLM",
    mask_token_id=156895,
    mask_tokens=("<|mask|>",),
    library_config=_library_config,
    required={
        "qk_layernorm": (True,),
        "clip_qkv": (None,),
        "partial_rotary_factor": (1, None, -1),
        "shared_expert_intermediate_size": (None, 0),
        "moe_router_enable_expert_bias": (False, None),
        "moe_router_score_function": ("softmax", None),
        "routed_scaling_factor": (1, None),
        "norm_topk_prob": (False, None),
        "tie_word_embeddings": (False,),
    },
)
