"""Folders of text models: published settings, tensor names and shapes, random weights, letters.

Widths are small, everything else is as in the published ``config.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["BUILDERS", "LETTERS", "published_folder", "write_tokenizer"]

WIDTH, HEADS, LAYERS, VOCABULARY = 64, 4, 2, 96
LETTERS = "abcdefghijklmnopqrstuvwxyz .,"
_SPECIAL = ["<|endoftext|>", "<|startoftext|>", "<|unk|>"]
MASK = VOCABULARY - 8

Shapes = dict[str, tuple[int, ...]]


def write_tokenizer(folder: Path, hidden: str, fields: Mapping[str, Any]) -> None:
    """A tokenizer of letters whose mask token is an added token and nothing more."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate([*_SPECIAL, *LETTERS])}
    words.update({f"<|unused{n}|>": n for n in range(len(words), MASK)})
    words[hidden] = MASK
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens([AddedToken(w, special=True) for w in [*_SPECIAL, hidden]])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|unk|>",
        "model_max_length": 48,
        **fields,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _llada_shapes(config: Mapping[str, Any]) -> Shapes:
    width, hidden = config["d_model"], config["mlp_hidden_size"]
    narrow = width // config["n_heads"] * config["n_kv_heads"]
    shapes: Shapes = {
        "model.transformer.wte.weight": (config["embedding_size"], width),
        "model.transformer.ln_f.weight": (width,),
        "model.transformer.ff_out.weight": (config["embedding_size"], width),
    }
    for n in range(config["n_layers"]):
        block = f"model.transformer.blocks.{n}."
        shapes |= {
            block + "attn_norm.weight": (width,),
            block + "ff_norm.weight": (width,),
            block + "q_proj.weight": (width, width),
            block + "k_proj.weight": (narrow, width),
            block + "v_proj.weight": (narrow, width),
            block + "attn_out.weight": (width, width),
            block + "ff_proj.weight": (hidden, width),
            block + "up_proj.weight": (hidden, width),
            block + "ff_out.weight": (width, hidden),
        }
    return shapes


def _llada_config(**changes: Any) -> dict[str, Any]:
    return {
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
            "AutoModel": "modeling_llada.LLaDAModelLM",
        },
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": WIDTH,
        "embedding_dropout": 0.0,
        "embedding_size": VOCABULARY,
        "eos_token_id": 0,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_device": "meta",
        "init_fn": "mitchell",
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": MASK,
        "max_sequence_length": 128,
        "mlp_hidden_size": 3 * WIDTH,
        "mlp_ratio": 4,
        "model_type": "llada",
        "multi_query_attention": None,
        "n_heads": HEADS,
        "n_kv_heads": HEADS,
        "n_layers": LAYERS,
        "pad_token_id": 0,
        "precision": "amp_bf16",
        "residual_dropout": 0.0,
        "rms_norm_eps": 1e-05,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "use_cache": False,
        "vocab_size": VOCABULARY,
        "weight_tying": False,
        **changes,
    }


def _dream_shapes(config: Mapping[str, Any]) -> Shapes:
    width, hidden = config["hidden_size"], config["intermediate_size"]
    narrow = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: Shapes = {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
        "lm_head.weight": (config["vocab_size"], width),
    }
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        shapes |= {
            layer + "input_layernorm.weight": (width,),
            layer + "post_attention_layernorm.weight": (width,),
            layer + "self_attn.q_proj.weight": (width, width),
            layer + "self_attn.q_proj.bias": (width,),
            layer + "self_attn.k_proj.weight": (narrow, width),
            layer + "self_attn.k_proj.bias": (narrow,),
            layer + "self_attn.v_proj.weight": (narrow, width),
            layer + "self_attn.v_proj.bias": (narrow,),
            layer + "self_attn.o_proj.weight": (width, width),
            layer + "mlp.gate_proj.weight": (hidden, width),
            layer + "mlp.up_proj.weight": (hidden, width),
            layer + "mlp.down_proj.weight": (width, hidden),
        }
    return shapes


def _dream_config(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["DreamModel"],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_dream.DreamConfig",
            "AutoModel": "modeling_dream.DreamModel",
        },
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": 3 * WIDTH,
        "mask_token_id": MASK,
        "max_position_embeddings": 128,
        "max_window_layers": 28,
        "model_type": "Dream",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS // 2,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCABULARY,
        **changes,
    }


def _llada_moe_shapes(config: Mapping[str, Any]) -> Shapes:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    narrow = width // heads * config["num_key_value_heads"]
    shapes: Shapes = {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
        "lm_head.weight": (config["vocab_size"], width),
    }
    for n, mixture in enumerate(config["moe_layer_freq"]):
        layer = f"model.layers.{n}."
        shapes |= {
            layer + "input_layernorm.weight": (width,),
            layer + "post_attention_layernorm.weight": (width,),
            layer + "self_attn.q_proj.weight": (width, width),
            layer + "self_attn.k_proj.weight": (narrow, width),
            layer + "self_attn.v_proj.weight": (narrow, width),
            layer + "self_attn.o_proj.weight": (width, width),
            layer + "self_attn.q_norm.weight": (width // heads,),
            layer + "self_attn.k_norm.weight": (width // heads,),
        }
        if mixture:
            shapes[layer + "mlp.gate.weight"] = (config["num_experts"], width)
            parts = [f"mlp.experts.{e}." for e in range(config["num_experts"])]
            hidden = config["expert_intermediate_size"]
        else:
            parts, hidden = ["mlp."], config["dense_intermediate_size"]
        for part in parts:
            shapes |= _feed_forward(layer + part, width, hidden)
    return shapes


def _feed_forward(prefix: str, width: int, hidden: int) -> Shapes:
    return {
        prefix + "gate_proj.weight": (hidden, width),
        prefix + "up_proj.weight": (hidden, width),
        prefix + "down_proj.weight": (width, hidden),
    }


def _llada_moe_config(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LLaDAMoEModelLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_lladamoe.LLaDAConfig",
            "AutoModel": "modeling_lladamoe.LLaDAMoEModelLM",
            "AutoModelForCausalLM": "modeling_lladamoe.LLaDAMoEModelLM",
        },
        "clip_qkv": None,
        "dense_intermediate_size": 2 * WIDTH,
        "eos_token_id": 0,
        "expert_intermediate_size": WIDTH,
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "max_position_embeddings": 128,
        "model_type": "llada",
        "moe_layer_freq": [0, 1],
        "moe_router_enable_expert_bias": False,
        "moe_router_score_function": "softmax",
        "norm_topk_prob": None,
        "num_attention_heads": HEADS,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS,
        "pad_token_id": 0,
        "partial_rotary_factor": 1,
        "qk_layernorm": True,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 50000,
        "routed_scaling_factor": 1,
        "shared_expert_intermediate_size": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "vocab_size": VOCABULARY,
        **changes,
    }


def _llada2_shapes(config: Mapping[str, Any]) -> Shapes:
    width, head = config["hidden_size"], config["head_dim"]
    heads, narrow = config["num_attention_heads"], config["num_key_value_heads"]
    hidden = config["moe_intermediate_size"]
    shapes: Shapes = {
        "model.word_embeddings.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
        "lm_head.weight": (config["vocab_size"], width),
    }
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        shapes |= {
            layer + "input_layernorm.weight": (width,),
            layer + "post_attention_layernorm.weight": (width,),
            layer + "attention.query_key_value.weight": ((heads + 2 * narrow) * head, width),
            layer + "attention.query_layernorm.weight": (head,),
            layer + "attention.key_layernorm.weight": (head,),
            layer + "attention.dense.weight": (width, heads * head),
        }
        if n < config["first_k_dense_replace"]:
            shapes |= _feed_forward(layer + "mlp.", width, config["intermediate_size"])
            continue
        shapes[layer + "mlp.gate.weight"] = (config["num_experts"], width)
        shapes[layer + "mlp.gate.expert_bias"] = (config["num_experts"],)
        for expert in range(config["num_experts"]):
            shapes |= _feed_forward(f"{layer}mlp.experts.{expert}.", width, hidden)
        shared = hidden * config["num_shared_experts"]
        shapes |= _feed_forward(layer + "mlp.shared_experts.", width, shared)
    return shapes


def _llada2_config(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LLaDA2MoeModelLM"],
        "auto_map": {
            "AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig",
            "AutoModel": "modeling_llada2_moe.LLaDA2MoeModel",
            "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM",
        },
        "dtype": "bfloat16",
        "first_k_dense_replace": 1,
        "head_dim": WIDTH // HEADS,
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "max_position_embeddings": 128,
        "model_type": "llada2_moe",
        "moe_intermediate_size": WIDTH,
        "n_group": 2,
        "norm_head": False,
        "norm_topk_prob": True,
        "num_attention_heads": HEADS,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS // 2,
        "num_shared_experts": 1,
        "pad_token_id": 0,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 600000,
        "routed_scaling_factor": 2.5,
        "score_function": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 1,
        "use_bias": False,
        "use_qk_norm": True,
        "use_qkv_bias": False,
        "vocab_size": VOCABULARY,
        **changes,
    }


def _weights(shapes: Shapes, dtype: torch.dtype) -> dict[str, Tensor]:
    """Sharp enough that predictions differ from one token to the next."""
    generator = torch.Generator().manual_seed(7)
    found = {}
    for name, shape in shapes.items():
        draw = torch.randn(shape, generator=generator)
        if len(shape) == 2:
            scale = 1.0 if "embed" in name or "wte" in name else shape[1] ** -0.5
            found[name] = (draw * scale).to(dtype)
        else:
            centre = 1.0 if "norm" in name or "ln_f" in name else 0.0
            found[name] = (centre + 0.1 * draw).to(dtype)
    return found


def published_folder(
    folder: Path,
    config: Mapping[str, Any],
    shapes: Shapes,
    hidden: str,
    *,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    tokenizer: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model as its authors publish it: without the code, which is not to be run."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    weights = _weights(shapes, dtype)
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        where = {}
        for part in range(shards):
            name = f"model-{part + 1:05d}-of-{shards:05d}.safetensors"
            own = {key: weights[key] for key in list(weights)[part::shards]}
            save_file(own, folder / name, metadata={"format": "pt"})
            where.update(dict.fromkeys(own, name))
        index = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    write_tokenizer(folder, hidden, tokenizer or {})
    return folder


def llada(folder: Path, **changes: Any) -> Path:
    """LLaDA 8B."""
    config = _llada_config(**changes)
    return published_folder(folder, config, _llada_shapes(config), "<|mdm_mask|>")


def llada_shared_keys(folder: Path) -> Path:
    """LLaDA with two key heads, in bfloat16 and two shards."""
    config = _llada_config(n_kv_heads=HEADS // 2)
    shapes = _llada_shapes(config)
    return published_folder(folder, config, shapes, "<|mdm_mask|>", dtype=torch.bfloat16, shards=2)


def dream(folder: Path, **changes: Any) -> Path:
    """Dream 7B, whose tokenizer is published with code of its own."""
    config = _dream_config(**changes)
    custom = {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "mask_token": "<|mask|>",
    }
    return published_folder(folder, config, _dream_shapes(config), "<|mask|>", tokenizer=custom)


def diffucoder(folder: Path) -> Path:
    """DiffuCoder 7B: Dream's classes, in a folder that says what it writes."""
    return dream(folder.with_name(folder.name + "-DiffuCoder-7B"))


def dream_coder(folder: Path) -> Path:
    """Dream-Coder 7B, in bfloat16."""
    config = _dream_config(torch_dtype="bfloat16")
    return published_folder(
        folder.with_name(folder.name + "-Dream-Coder-v0-Instruct-7B"),
        config,
        _dream_shapes(config),
        "<|mask|>",
        dtype=torch.bfloat16,
    )


def llada_moe(folder: Path, **changes: Any) -> Path:
    """LLaDA-MoE 7B-A1B; its settings do not name the mask token."""
    config = _llada_moe_config(**changes)
    return published_folder(folder, config, _llada_moe_shapes(config), "<|mask|>")


def llada2(folder: Path, **changes: Any) -> Path:
    """LLaDA2 mini."""
    config = _llada2_config(**changes)
    return published_folder(folder, config, _llada2_shapes(config), "<|mask|>")


#: Models of every family, by the names that tests go by.
BUILDERS: dict[str, Callable[[Path], Path]] = {
    "llada": llada,
    "llada-shared-keys": llada_shared_keys,
    "llada-moe": llada_moe,
    "llada2": llada2,
    "dream": dream,
    "diffucoder": diffucoder,
    "dream-coder": dream_coder,
}
