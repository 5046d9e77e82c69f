"""LLaDA2 (Bie et al. 2025, arXiv:2512.15745): GLM-4-MoE with one projection for q, k and v.

Half of the channels of a head are rotated, each token goes to experts of the best groups of
experts, and positions attend to their own block and to earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arrow_quant_v2.text_families.family import TextFamily

__all__ = ["LLADA2"]

_LAYER = "model.layers.{}."
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
    "moe_intermediate_size",
    "num_experts_per_tok",
    "n_group",
    "topk_group",
    "routed_scaling_factor",
    "first_k_dense_replace",
)


def _library_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: config[key] for key in _COPIED if config.get(key) is not None},
        "head_dim": config.get("head_dim")
        or config["hidden_size"] // config["num_attention_heads"],
        "attention_bias": bool(config.get("use_qkv_bias")),
        "partial_rotary_factor": config.get("partial_rotary_factor", 0.5),
        "n_routed_experts": config["num_experts"],
        "n_shared_experts": config.get("num_shared_experts", 1),
        "norm_topk_prob": config["num_experts_per_tok"] > 1,
        "use_qk_norm": True,
        "tie_word_embeddings": False,
    }


LLADA2 = TextFamily(
    name="LLaDA2",
    architectures=("LLaDA2MoeModelLM",),
    library_class="Glm4MoeForCausalLM",
    mask_token_id=156895,
    mask_tokens=("<|mask|>",),
    library_config=_library_config,
    required={
        "use_bias": (False,),
        "use_qk_norm": (True,),
        "norm_head": (False,),
        "rope_scaling": (None,),
        "score_function": ("sigmoid",),
        "norm_topk_prob": (True,),
        "use_sliding_window": (False, None),
        "tie_word_embeddings": (False,),
    },
    names={
        "model.word_embeddings": "model.embed_tokens",
        _LAYER + "attention.query_key_value": _LAYER + "self_attn.qkv_proj",
        _LAYER + "attention.query_layernorm": _LAYER + "self_attn.q_norm",
        _LAYER + "attention.key_layernorm": _LAYER + "self_attn.k_norm",
        _LAYER + "attention.dense": _LAYER + "self_attn.o_proj",
        _LAYER + "mlp.gate.expert_bias": _LAYER + "mlp.gate.e_score_correction_bias",
    },
    block_length=32,
    joint_projection=True,
)
