"""Text and image encoders of a few thousand weights."""

from __future__ import annotations

from typing import Any

from families import words

WIDTH = 32


def clip_config(width: int = WIDTH, positions: int = 77, layers: int = 2) -> Any:
    from transformers import CLIPTextConfig

    size = len(words.CLIP_WORDS)
    return CLIPTextConfig(
        vocab_size=size, hidden_size=width, intermediate_size=2 * width, projection_dim=width,
        num_hidden_layers=layers, num_attention_heads=2, max_position_embeddings=positions,
        bos_token_id=size - 2, eos_token_id=size - 1, pad_token_id=size - 1,
    )  # fmt: skip


def clip(**config: Any) -> Any:
    from transformers import CLIPTextModel

    return CLIPTextModel(clip_config(**config))


def clip_projected(**config: Any) -> Any:
    from transformers import CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(clip_config(**config))


def clip_vision(width: int = WIDTH, size: int = 32, patch: int = 8) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=width,
            projection_dim=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=size,
            patch_size=patch,
        )
    )


def clip_images(size: int = 32) -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size=size, crop_size=size)


def t5_config(kind: str = "T5Config", width: int = WIDTH) -> Any:
    import transformers

    return getattr(transformers, kind)(
        vocab_size=len(words.T5_WORDS), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2,
        num_heads=4, feed_forward_proj="gated-gelu",
    )  # fmt: skip


def t5(width: int = WIDTH) -> Any:
    from transformers import T5EncoderModel

    return T5EncoderModel(t5_config(width=width))


def byt5(width: int = WIDTH) -> Any:
    from transformers import T5EncoderModel

    config = t5_config(width=width)
    config.vocab_size = 384
    return T5EncoderModel(config)


def umt5(width: int = WIDTH) -> Any:
    from transformers import UMT5EncoderModel

    return UMT5EncoderModel(t5_config("UMT5Config", width))


def decoder_sizes(width: int = WIDTH, **more: Any) -> dict[str, Any]:
    """Sizes that the configurations of all decoders share."""
    return {
        "vocab_size": words.BYTES, "hidden_size": width, "intermediate_size": 2 * width,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 2048, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    } | more  # fmt: skip


def decoder(kind: str, config: str, width: int = WIDTH, **more: Any) -> Any:
    """A decoder of transformers by the names of its class and configuration."""
    import transformers

    return getattr(transformers, kind)(
        getattr(transformers, config)(**decoder_sizes(width, **more))
    )


def qwen3(kind: str = "Qwen3Model", width: int = WIDTH) -> Any:
    return decoder(kind, "Qwen3Config", width, head_dim=width // 2)


def llama(kind: str = "LlamaModel", width: int = WIDTH, **more: Any) -> Any:
    return decoder(kind, "LlamaConfig", width, **more)


def gemma2(width: int = WIDTH) -> Any:
    return decoder("Gemma2Model", "Gemma2Config", width, head_dim=16, sliding_window=64)


def qwen2_5_vl_config(width: int = WIDTH) -> Any:
    from transformers import Qwen2_5_VLConfig

    tokens = words.numbered([*words.byte_letters(), *words.CHAT])
    text = decoder_sizes(width)
    text["rope_parameters"] = {
        "rope_type": "default", "mrope_section": [width // 16, width // 16, width // 8],
        "rope_theta": 10000.0,
    }  # fmt: skip
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision | {"out_hidden_size": width, "fullatt_block_indexes": [1]},
        image_token_id=tokens["<|image_pad|>"],
        video_token_id=tokens["<|video_pad|>"],
        vision_start_token_id=tokens["<|vision_start|>"],
        vision_end_token_id=tokens["<|vision_end|>"],
    )


def qwen2_5_vl(width: int = WIDTH) -> Any:
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration(qwen2_5_vl_config(width))
