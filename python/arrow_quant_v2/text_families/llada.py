"""LLaDA (Nie et al. 2025, arXiv:2502.09992): Llama without the causal mask, under its own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arrow_quant_v2.text_families.family import TextFamily

__all__ = ["LLADA"]

_BLOCK = "model.transformer.blocks.{}."
_LAYER = "model.layers.{}."


def _library_config(config: Mapping[str, Any]) -> dict[str, Any]:
    width, heads = config["d_model"], config["n_heads"]
    return {
        "vocab_size": config.get("embedding_size") or config["vocab_size"],
        "hidden_size": width,
        "intermediate_size": config.get("mlp_hidden_size") or config["mlp_ratio"] * width,
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("n_kv_heads") or heads,
        "max_position_embeddings": config["max_sequence_length"],
        "rms_norm_eps": config.get("rms_norm_eps", 1e-5),
        "rope_theta": config.get("rope_theta", 10000.0),
        "tie_word_embeddings": False,
    }


LLADA = TextFamily(
    name="LLaDA",
    architectures=("LLaDAModelLM",),
    library_class="LlamaForCausalLM",
    mask_token_id=126336,
    mask_tokens=("<|mdm_mask|>",),
    library_config=_library_config,
    required={
        "block_type": ("llama",),
        "block_group_size": (1,),
        "layer_norm_type": ("rms",),
        "layer_norm_with_affine": (True,),
        "bias_for_layer_norm": (False, None),
        "attention_layer_norm": (False,),
        "input_emb_norm": (False,),
        "activation_type": ("silu",),
        "rope": (True,),
        "alibi": (False,),
        "include_bias": (False,),
        "include_qkv_bias": (False, None),
        "multi_query_attention": (False, None),
        "clip_qkv": (None,),
        "scale_logits": (False,),
        "weight_tying": (False,),
    },
    names={
        "model.transformer.wte": "model.embed_tokens",
        "model.transformer.ln_f": "model.norm",
        "model.transformer.ff_out": "lm_head",
        _BLOCK + "attn_norm": _LAYER + "input_layernorm",
        _BLOCK + "q_proj": _LAYER + "self_attn.q_proj",
        _BLOCK + "k_proj": _LAYER + "self_attn.k_proj",
        _BLOCK + "v_proj": _LAYER + "self_attn.v_proj",
        _BLOCK + "attn_out": _LAYER + "self_attn.o_proj",
        _BLOCK + "ff_norm": _LAYER + "post_attention_layernorm",
        _BLOCK + "ff_proj": _LAYER + "mlp.gate_proj",
        _BLOCK + "up_proj": _LAYER + "mlp.up_proj",
        _BLOCK + "ff_out": _LAYER + "mlp.down_proj",
    },
)
