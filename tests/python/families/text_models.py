"""Text diffusion: masked language models, and folders whose code is not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from families import encoders, words
from families.table import BUILDERS, Builder, fill, pipeline

GROUP = "text"
LENGTH = 24
MASKED = 4

# Masked language models of transformers.


def unmask(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Two steps: the surest masked place is filled, then the rest is predicted again."""
    tokens = arguments["input_ids"].clone()
    masked = tokens == arguments["mask_token"]
    first = model(input_ids=tokens).logits
    sure = first.softmax(-1).amax(-1).masked_fill(~masked, -1)
    place = sure.argmax(-1, keepdim=True)
    tokens.scatter_(1, place, first.argmax(-1).gather(1, place))
    return {"first": first, "second": model(input_ids=tokens).logits}


def masked_text(model: Any) -> dict[str, Any]:
    """Tokens of which every second one is masked."""
    mask = model.mask_token
    tokens = torch.arange(5, 5 + 2 * MASKED)[None]
    tokens[:, ::2] = mask
    return {"input_ids": tokens, "mask_token": mask}


def masked(
    name: str, kind: str, tokenizer: Callable[[], Any], notes: str = "", **sizes: Any
) -> None:
    """Add ``<kind>ForMaskedLM``; the sizes that most configurations share have defaults."""

    def make(folder: Path, dtype: torch.dtype) -> Path:
        import transformers

        made = tokenizer()
        config = getattr(transformers, f"{kind}Config")(
            **{
                "vocab_size": len(made), "hidden_size": 32, "num_hidden_layers": 2,
                "num_attention_heads": 2, "intermediate_size": 64,
                "max_position_embeddings": LENGTH + 8, "pad_token_id": made.pad_token_id,
                "bos_token_id": made.bos_token_id, "eos_token_id": made.eos_token_id,
                "mask_token_id": made.mask_token_id,
            } | sizes
        )  # fmt: skip
        model = getattr(transformers, f"{kind}ForMaskedLM")(config).eval()
        fill(model.parameters(), name)
        model.to(dtype).save_pretrained(folder)
        made.save_pretrained(folder)
        return folder

    def load(folder: Path, dtype: torch.dtype) -> Any:
        from transformers import AutoModelForMaskedLM

        model = AutoModelForMaskedLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
        return model.eval()

    def prepare(model: Any) -> None:
        model.mask_token = model.config.mask_token_id

    assert name not in BUILDERS, name
    BUILDERS[name] = Builder(
        name,
        f"{kind}ForMaskedLM",
        GROUP,
        make,
        load,
        masked_text,
        (),
        notes,
        prepare=prepare,
        sample=unmask,
    )


def bert_words() -> Any:
    return words.bert(LENGTH)


def roberta_words() -> Any:
    return words.roberta(LENGTH)


def xlm_words() -> Any:
    return words.xlm_roberta(LENGTH)


masked("bert", "Bert", bert_words)
masked("distilbert", "DistilBert", bert_words, dim=32, hidden_dim=64, n_layers=2, n_heads=2)
masked("electra", "Electra", bert_words, embedding_size=16)
masked("albert", "Albert", xlm_words, notes="all layers share one", embedding_size=16)
masked(
    "mobilebert",
    "MobileBert",
    bert_words,
    embedding_size=16,
    intra_bottleneck_size=16,
    true_hidden_size=16,
)
masked("megatron_bert", "MegatronBert", bert_words)
masked("roformer", "RoFormer", bert_words, embedding_size=32)
masked("convbert", "ConvBert", bert_words, embedding_size=32, head_ratio=2, conv_kernel_size=3)
masked(
    "squeezebert",
    "SqueezeBert",
    bert_words,
    notes="linear layers as grouped convolutions",
    embedding_size=32,
    q_groups=2,
    k_groups=2,
    v_groups=2,
    post_attention_groups=1,
    intermediate_groups=2,
    output_groups=2,
)
masked("fnet", "FNet", xlm_words, notes="no attention", tpu_short_seq_length=LENGTH)
masked("mpnet", "MPNet", roberta_words)
masked("roberta", "Roberta", roberta_words)
masked("longformer", "Longformer", roberta_words, attention_window=[8, 8])
masked("xlm_roberta", "XLMRoberta", xlm_words)
masked("camembert", "Camembert", xlm_words)
masked(
    "modernbert",
    "ModernBert",
    roberta_words,
    cls_token_id=0,
    sep_token_id=2,
    local_attention=8,
    global_attn_every_n_layers=2,
)
masked(
    "deberta",
    "Deberta",
    roberta_words,
    relative_attention=True,
    pos_att_type=["p2c", "c2p"],
    max_relative_positions=-1,
)
masked(
    "deberta_v2",
    "DebertaV2",
    xlm_words,
    relative_attention=True,
    pos_att_type=["p2c", "c2p"],
    position_buckets=8,
    share_att_key=True,
    norm_rel_ebd="layer_norm",
)
masked("nomic_bert", "NomicBert", bert_words)
masked("eurobert", "EuroBert", roberta_words, num_key_value_heads=1, head_dim=16)


def protein_words() -> Any:
    from transformers import EsmTokenizer

    special = ["<cls>", "<pad>", "<eos>", "<unk>"]
    listed = [*special, *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
    file = Path(temporary()) / "vocab.txt"
    file.write_text("\n".join(listed))
    return EsmTokenizer(str(file), model_max_length=LENGTH)


def temporary() -> str:
    import tempfile

    return tempfile.mkdtemp()


masked(
    "esm",
    "Esm",
    protein_words,
    notes="proteins",
    position_embedding_type="rotary",
    token_dropout=True,
)

# Folders of models whose modelling code comes with the weights and is never run: the names and
# shapes of their tensors and the keys of their configuration as published, in small.

Shapes = dict[str, tuple[int, ...]]
WIDTH, INNER, HEADS, LAYERS, EXPERTS = 32, 64, 2, 2, 4
MASK_WORD = "<|mask|>"
SPECIAL = ["<|endoftext|>", "<|beginoftext|>", MASK_WORD, "<|mdm_mask|>", *words.CHAT[1:3]]
TOKENS = words.numbered([*words.byte_letters(), *SPECIAL])

#: More rows than tokens, as in the published models.
ROWS = 288


def plain_tokenizer(folder: Path, mask: str | None) -> None:
    """A tokenizer in one file; LLaDA's has a token for the mask but no name for it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(vocab=TOKENS, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=64, chat_template=words.CHAT_TEMPLATE,
        pad_token=SPECIAL[0], eos_token=SPECIAL[0], bos_token=SPECIAL[1], mask_token=mask,
    ).save_pretrained(folder)  # fmt: skip


def dream_tokenizer(folder: Path) -> None:
    """The files of a tokenizer whose class is in a module that is not there."""
    regular = {word: number for word, number in TOKENS.items() if word not in SPECIAL}
    (folder / "vocab.json").write_text(json.dumps(regular))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    added = {str(TOKENS[word]): {"content": word, "special": True} for word in SPECIAL}
    settings = {
        "tokenizer_class": "DreamTokenizer", "added_tokens_decoder": added,
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "pad_token": SPECIAL[0], "eos_token": SPECIAL[0], "bos_token": SPECIAL[1],
        "mask_token": MASK_WORD, "model_max_length": 64, "chat_template": words.CHAT_TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def published(
    name: str, architecture: str, module: str, tokenizer: Callable[[Path], None], notes: str = ""
) -> Callable[[Callable[[], tuple[dict[str, Any], Shapes]]], None]:
    """Add a folder; the function below it gives the configuration and the tensors' shapes.

    ``module`` ends the names of the modules that ``auto_map`` speaks of.
    """

    def add(contents: Callable[[], tuple[dict[str, Any], Shapes]]) -> None:
        def make(folder: Path, dtype: torch.dtype) -> Path:
            from safetensors.torch import save_file

            config, shapes = contents()
            tensors = {
                key: torch.full(shape, float(key.endswith(("norm.weight", "ln_f.weight"))))
                for key, shape in shapes.items()
            }  # fmt: skip
            fill(tensors.values(), name)
            tensors = {key: value.to(dtype) for key, value in tensors.items()}
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
            config |= {"architectures": [architecture], "torch_dtype": str(dtype).split(".")[-1]}
            (folder / "config.json").write_text(json.dumps(config, indent=2))
            tokenizer(folder)
            return folder

        def load(folder: Path, dtype: torch.dtype) -> Any:
            from arrow_quant_v2.torch.record.text_model import load_text_model

            return load_text_model(folder, dtype=dtype)[0]

        def prepare(model: Any) -> None:
            model.mask_token = model.mask_token_id

        BUILDERS[name] = Builder(
            name,
            architecture,
            GROUP,
            make,
            load,
            masked_text,
            (),
            notes or "its own code is not there; modules of transformers compute the same",
            prepare=prepare,
            sample=unmask,
        )

    return add


def attention(bias: bool = False, key_rows: int = WIDTH, normed: bool = False) -> Shapes:
    """Everything but the perceptrons, as Llama, Qwen2 and OLMoE name it."""
    shapes: Shapes = {"model.embed_tokens.weight": (ROWS, WIDTH)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for key, rows in (("q", WIDTH), ("k", key_rows), ("v", key_rows)):
            shapes[f"{at}.self_attn.{key}_proj.weight"] = (rows, WIDTH)
            if bias:
                shapes[f"{at}.self_attn.{key}_proj.bias"] = (rows,)
        shapes[f"{at}.self_attn.o_proj.weight"] = (WIDTH, WIDTH)
        if normed:
            shapes[f"{at}.self_attn.q_norm.weight"] = (WIDTH // HEADS,)
            shapes[f"{at}.self_attn.k_norm.weight"] = (WIDTH // HEADS,)
        shapes[f"{at}.input_layernorm.weight"] = (WIDTH,)
        shapes[f"{at}.post_attention_layernorm.weight"] = (WIDTH,)
    return shapes | {"model.norm.weight": (WIDTH,), "lm_head.weight": (ROWS, WIDTH)}


def gated(at: str, inner: int = INNER) -> Shapes:
    """A gated perceptron of three weights."""
    return {
        f"{at}.gate_proj.weight": (inner, WIDTH), f"{at}.up_proj.weight": (inner, WIDTH),
        f"{at}.down_proj.weight": (WIDTH, inner),
    }  # fmt: skip


def mapped(module: str, config: str, model: str, *more: str) -> dict[str, str]:
    autos = {"AutoConfig": f"configuration_{module}.{config}"}
    return autos | dict.fromkeys(("AutoModel", *more), f"modeling_{module}.{model}")


@published("llada", "LLaDAModelLM", "llada", lambda folder: plain_tokenizer(folder, None))
def llada() -> tuple[dict[str, Any], Shapes]:
    config = {
        "model_type": "llada", "d_model": WIDTH, "n_heads": HEADS, "n_kv_heads": HEADS,
        "n_layers": LAYERS, "mlp_hidden_size": INNER, "mlp_ratio": 4, "vocab_size": ROWS,
        "embedding_size": ROWS, "max_sequence_length": 64, "mask_token_id": TOKENS["<|mdm_mask|>"],
        "pad_token_id": TOKENS[SPECIAL[0]], "eos_token_id": TOKENS[SPECIAL[0]], "rope": True,
        "rope_theta": 500000.0, "rope_full_precision": True, "rms_norm_eps": 1e-5,
        "weight_tying": False, "block_type": "llama", "block_group_size": 1,
        "activation_type": "silu", "layer_norm_type": "rms", "layer_norm_with_affine": True,
        "attention_layer_norm": False, "include_bias": False, "include_qkv_bias": False,
        "bias_for_layer_norm": False, "alibi": False, "input_emb_norm": False,
        "scale_logits": False, "multi_query_attention": None, "use_cache": False,
        "init_device": "meta", "auto_map": mapped(
            "llada", "LLaDAConfig", "LLaDAModelLM", "AutoModelForCausalLM"
        ),
    }  # fmt: skip
    at = "model.transformer"
    shapes: Shapes = {f"{at}.wte.weight": (ROWS, WIDTH), f"{at}.ln_f.weight": (WIDTH,)}
    shapes[f"{at}.ff_out.weight"] = (ROWS, WIDTH)
    for layer in range(LAYERS):
        block = f"{at}.blocks.{layer}"
        for key in ("q_proj", "k_proj", "v_proj", "attn_out"):
            shapes[f"{block}.{key}.weight"] = (WIDTH, WIDTH)
        for key in ("ff_proj", "up_proj"):
            shapes[f"{block}.{key}.weight"] = (INNER, WIDTH)
        shapes[f"{block}.ff_out.weight"] = (WIDTH, INNER)
        shapes |= {f"{block}.attn_norm.weight": (WIDTH,), f"{block}.ff_norm.weight": (WIDTH,)}
    return config, shapes


@published("llada_moe", "LLaDAMoEModelLM", "lladamoe", lambda folder: plain_tokenizer(folder, None))
def llada_moe() -> tuple[dict[str, Any], Shapes]:
    config = {
        "model_type": "llada", "hidden_size": WIDTH, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "num_hidden_layers": LAYERS, "vocab_size": ROWS,
        "num_experts": EXPERTS, "num_experts_per_tok": 2, "expert_intermediate_size": INNER,
        "dense_intermediate_size": INNER, "shared_expert_intermediate_size": None,
        "moe_layer_freq": [1] * LAYERS, "norm_topk_prob": None, "qk_layernorm": True,
        "rms_norm_eps": 1e-5, "rope_theta": 50000, "rope_scaling": None, "hidden_act": "silu",
        "attention_bias": False, "attention_dropout": 0.0, "clip_qkv": None, "use_cache": False,
        "tie_word_embeddings": False, "max_position_embeddings": 64,
        "pad_token_id": TOKENS[SPECIAL[0]], "eos_token_id": TOKENS[SPECIAL[0]],
        "mask_token_id": TOKENS[MASK_WORD], "auto_map": mapped(
            "lladamoe", "LLaDAConfig", "LLaDAMoEModelLM", "AutoModelForCausalLM"
        ),
    }  # fmt: skip
    shapes = attention(normed=True)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}.mlp"
        shapes[f"{at}.gate.weight"] = (EXPERTS, WIDTH)
        for expert in range(EXPERTS):
            shapes |= gated(f"{at}.experts.{expert}")
    return config, shapes


def dream_contents() -> tuple[dict[str, Any], Shapes]:
    config = {
        "model_type": "Dream", "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 1,
        "vocab_size": ROWS, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "rope_scaling": None, "max_position_embeddings": 64, "max_window_layers": LAYERS,
        "use_sliding_window": False, "sliding_window": None, "attention_dropout": 0.0,
        "initializer_range": 0.02, "tie_word_embeddings": False, "use_cache": True,
        "mask_token_id": TOKENS[MASK_WORD], "pad_token_id": TOKENS[SPECIAL[0]],
        "bos_token_id": TOKENS[SPECIAL[1]], "eos_token_id": TOKENS[SPECIAL[0]],
        "auto_map": mapped("dream", "DreamConfig", "DreamModel"),
    }  # fmt: skip
    shapes = attention(bias=True, key_rows=WIDTH // HEADS)
    for layer in range(LAYERS):
        shapes |= gated(f"model.layers.{layer}.mlp")
    return config, shapes


NEXT = "logits stand one place to the left, as in the causal model it was made from"
published("dream", "DreamModel", "dream", dream_tokenizer, NEXT)(dream_contents)
published("diffucoder", "DreamModel", "dream", dream_tokenizer, NEXT)(dream_contents)


@published(
    "llada_2",
    "LLaDA2MoeModelLM",
    "llada2_moe",
    lambda folder: plain_tokenizer(folder, MASK_WORD),
    "blocks; group-limited routing",
)
def llada_2() -> tuple[dict[str, Any], Shapes]:
    config = {
        "model_type": "llada2_moe", "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 1,
        "head_dim": WIDTH // HEADS, "vocab_size": ROWS, "num_experts": EXPERTS,
        "num_experts_per_tok": 2, "num_shared_experts": 1, "moe_intermediate_size": INNER,
        "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1, "norm_topk_prob": True,
        "moe_router_enable_expert_bias": True, "routed_scaling_factor": 2.5,
        "score_function": "sigmoid", "use_qk_norm": True, "use_qkv_bias": False,
        "use_bias": False, "rms_norm_eps": 1e-6, "rope_theta": 600000, "rope_scaling": None,
        "partial_rotary_factor": 0.5, "hidden_act": "silu", "tie_word_embeddings": False,
        "max_position_embeddings": 64, "pad_token_id": TOKENS[SPECIAL[0]],
        "eos_token_id": TOKENS[SPECIAL[0]], "auto_map": mapped(
            "llada2_moe", "LLaDA2MoeConfig", "LLaDA2MoeModel"
        ) | {"AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM"},
    }  # fmt: skip
    head = WIDTH // HEADS
    shapes: Shapes = {"model.word_embeddings.weight": (ROWS, WIDTH)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.attention.query_key_value.weight": ((HEADS + 2) * head, WIDTH),
            f"{at}.attention.query_layernorm.weight": (head,),
            f"{at}.attention.key_layernorm.weight": (head,),
            f"{at}.attention.dense.weight": (WIDTH, WIDTH),
            f"{at}.input_layernorm.weight": (WIDTH,),
            f"{at}.post_attention_layernorm.weight": (WIDTH,),
        }
        if layer == 0:
            shapes |= gated(f"{at}.mlp")
            continue
        shapes |= {
            f"{at}.mlp.gate.weight": (EXPERTS, WIDTH), f"{at}.mlp.gate.expert_bias": (EXPERTS,)
        } | gated(f"{at}.mlp.shared_experts")  # fmt: skip
        for expert in range(EXPERTS):
            shapes |= gated(f"{at}.mlp.experts.{expert}")
    return config, shapes | {"model.norm.weight": (WIDTH,), "lm_head.weight": (ROWS, WIDTH)}


# Pipelines of diffusers over tokens.


def mask_words() -> Any:
    made = words.qwen2(64)
    made.add_special_tokens({"mask_token": MASK_WORD})
    return made


def save_tokenizer(folder: Path, parts: dict[str, Any]) -> None:
    parts["tokenizer"].save_pretrained(folder / "tokenizer")


def load_tokenizer(folder: Path) -> dict[str, Any]:
    from transformers import AutoTokenizer

    return {"tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer")}


@pipeline(
    "LLaDA2Pipeline",
    GROUP,
    denoisers=("model",),
    gen_length=8,
    block_length=4,
    output_type="seq",
    eos_early_stop=False,
    notes="an autoregressive mixture of experts stands for the model, whose code is not there; "
    "diffusers neither saves nor loads the tokenizer",
    after=save_tokenizer,
    passed=load_tokenizer,
)
def llada_2_pipeline() -> dict[str, Any]:
    from diffusers import BlockRefinementScheduler

    model = encoders.decoder(
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig", head_dim=16, num_experts=EXPERTS,
        num_experts_per_tok=2, moe_intermediate_size=INNER,
    )  # fmt: skip
    return {"model": model, "scheduler": BlockRefinementScheduler(), "tokenizer": mask_words()}


def diffusion_gemma() -> None:
    """The folder of the model alone, as published; it samples by itself."""

    def make(folder: Path, dtype: torch.dtype) -> Path:
        from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

        text = encoders.decoder_sizes(
            head_dim=16, global_head_dim=16, sliding_window=64, num_experts=EXPERTS,
            top_k_experts=2, moe_intermediate_size=INNER,
        )  # fmt: skip
        vision = {
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16,
            "num_attention_heads": 2, "num_key_value_heads": 2, "patch_size": 4,
        }  # fmt: skip
        config = DiffusionGemmaConfig(
            text_config=text, vision_config=vision, canvas_length=8, image_token_id=300,
            boi_token_id=301, eoi_token_id=302,
        )  # fmt: skip
        model = DiffusionGemmaForBlockDiffusion(config).eval()
        fill(model.parameters(), "diffusion_gemma")
        model.to(dtype).save_pretrained(folder)
        words.gemma(64).save_pretrained(folder)
        return folder

    def load(folder: Path, dtype: torch.dtype) -> Any:
        from transformers import DiffusionGemmaForBlockDiffusion

        return DiffusionGemmaForBlockDiffusion.from_pretrained(
            folder, dtype=dtype, local_files_only=True
        ).eval()

    def call(model: Any) -> dict[str, Any]:
        tokens = torch.arange(10, 16)[None]
        return {"input_ids": tokens, "max_new_tokens": 8, "max_denoising_steps": 2}

    BUILDERS["diffusion_gemma"] = Builder(
        "diffusion_gemma", "DiffusionGemmaForBlockDiffusion", GROUP, make, load, call, (),
        "block diffusion; an encoder and a decoder that share weights; stacked experts",
        sample=lambda model, arguments: model.generate(**arguments),
    )  # fmt: skip


diffusion_gemma()
