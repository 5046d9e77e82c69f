"""FLUX, FLUX.2, Chroma and other models with their double and single blocks."""

from __future__ import annotations

from typing import Any

from families import autoencoders, encoders, words
from families.pictures import mask, picture
from families.table import pipeline

GROUP = "flux"
SIZE: dict[str, Any] = {"height": 16, "width": 16, "max_sequence_length": 16}


def euler(**settings: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)


def transformer_sizes(**more: Any) -> dict[str, Any]:
    return {
        "patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1,
        "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32,
        "pooled_projection_dim": 32, "axes_dims_rope": [4, 4, 8],
    } | more  # fmt: skip


def transformer(**more: Any) -> Any:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(**transformer_sizes(**more))


def parts(**more: Any) -> dict[str, Any]:
    return {
        "transformer": transformer(guidance_embeds=True), "vae": autoencoders.flow(),
        "scheduler": euler(shift=3.0, use_dynamic_shifting=True),
        "text_encoder": encoders.clip(), "tokenizer": words.clip(),
        "text_encoder_2": encoders.t5(), "tokenizer_2": words.t5(),
    } | more  # fmt: skip


@pipeline("FluxPipeline", GROUP, **SIZE)
def flux() -> dict[str, Any]:
    return parts()


@pipeline("FluxPipeline", GROUP, **SIZE, guidance_scale=0.0, notes="schnell: no guidance")
def flux_schnell() -> dict[str, Any]:
    return parts(transformer=transformer(), scheduler=euler())


@pipeline("FluxImg2ImgPipeline", GROUP, **SIZE, image=picture(16), strength=1.0)
def flux_img2img() -> dict[str, Any]:
    return parts()


@pipeline(
    "FluxInpaintPipeline", GROUP, **SIZE, image=picture(16), mask_image=mask(16), strength=1.0
)
def flux_inpaint() -> dict[str, Any]:
    return parts()


@pipeline("FluxFillPipeline", GROUP, **SIZE, image=picture(16), mask_image=mask(16))
def flux_fill() -> dict[str, Any]:
    # 16 channels of noise, 16 of the picture, and the mask's 2 x 2 pixels for each of 4 patches.
    return parts(transformer=transformer(in_channels=48, out_channels=16, guidance_embeds=True))


@pipeline("FluxControlPipeline", GROUP, **SIZE, control_image=picture(16))
def flux_control() -> dict[str, Any]:
    return parts(transformer=transformer(in_channels=32, out_channels=16, guidance_embeds=True))


@pipeline("FluxKontextPipeline", GROUP, **SIZE, image=picture(16), max_area=256, _auto_resize=False)
def flux_kontext() -> dict[str, Any]:
    return parts()


@pipeline(
    "FluxKontextInpaintPipeline",
    GROUP,
    **SIZE,
    image=picture(16),
    mask_image=mask(16),
    strength=1.0,
    max_area=256,
    _auto_resize=False,
)
def flux_kontext_inpaint() -> dict[str, Any]:
    return parts()


@pipeline(
    "FluxControlNetPipeline",
    GROUP,
    **SIZE,
    denoisers=("transformer", "controlnet"),
    control_image=picture(16),
)
def flux_control_net() -> dict[str, Any]:
    from diffusers import FluxControlNetModel

    return parts(controlnet=FluxControlNetModel(**transformer_sizes(guidance_embeds=True)))


@pipeline(
    "VisualClozeGenerationPipeline",
    GROUP,
    "prompt",
    task_prompt="paint",
    content_prompt="a cat",
    image=[[picture(), picture(32, 1)], [picture(32, 2), None]],
    max_sequence_length=16,
)
def visual_cloze() -> dict[str, Any]:
    model = transformer(in_channels=48, out_channels=16, guidance_embeds=True)
    return parts(transformer=model) | {"resolution": 32}


def flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(
        block_out_channels=(8, 8), latent_channels=4, norm_num_groups=2, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


def flux2_transformer(**more: Any) -> Any:
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=[4, 4, 4, 4],
        timestep_guidance_channels=256, **more,
    )  # fmt: skip


def mistral3() -> Any:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    vision = {
        "model_type": "pixtral", "hidden_size": 32, "intermediate_size": 32, "image_size": 28,
        "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14,
    }  # fmt: skip
    text = encoders.decoder_sizes(head_dim=16) | {"model_type": "mistral"}
    config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=1)
    return Mistral3ForConditionalGeneration(config)


@pipeline(
    "Flux2Pipeline",
    GROUP,
    **SIZE,
    text_encoder_out_layers=(1,),
    notes="a tokenizer in place of the PixtralProcessor, which needs torchvision",
)
def flux_2() -> dict[str, Any]:
    return {
        "transformer": flux2_transformer(), "vae": flux2_vae(), "scheduler": euler(),
        "text_encoder": mistral3(), "tokenizer": words.llama(),
    }  # fmt: skip


def klein(**more: Any) -> dict[str, Any]:
    return {
        "transformer": flux2_transformer(guidance_embeds=False), "vae": flux2_vae(),
        "scheduler": euler(), "text_encoder": encoders.qwen3("Qwen3ForCausalLM"),
        "tokenizer": words.qwen2(),
    } | more  # fmt: skip


KLEIN = SIZE | {"max_sequence_length": 64, "text_encoder_out_layers": (1,)}


@pipeline("Flux2KleinPipeline", GROUP, **KLEIN)
def flux_2_klein() -> dict[str, Any]:
    return klein()


@pipeline("Flux2KleinPipeline", GROUP, **KLEIN, image=picture(64), notes="with a reference image")
def flux_2_klein_edit() -> dict[str, Any]:
    return klein()


@pipeline(
    "Flux2KleinInpaintPipeline",
    GROUP,
    **KLEIN,
    image=picture(16),
    mask_image=mask(16),
    strength=1.0,
)
def flux_2_klein_inpaint() -> dict[str, Any]:
    return klein()


@pipeline(
    "Flux2KleinKVPipeline",
    GROUP,
    **KLEIN,
    image=picture(64),
    notes="keys and values of the reference image are kept from the first step",
)
def flux_2_klein_kv() -> dict[str, Any]:
    return klein()


def chroma_parts() -> dict[str, Any]:
    from diffusers import ChromaTransformer2DModel

    sizes = transformer_sizes(approximator_hidden_dim=32, approximator_layers=1)
    sizes.pop("pooled_projection_dim")
    model = ChromaTransformer2DModel(approximator_num_channels=16, **sizes)
    model.register_to_config(guidance_embeds=False)  # read by ChromaInpaintPipeline alone
    return {
        "transformer": model, "vae": autoencoders.flow(), "scheduler": euler(),
        "text_encoder": encoders.t5(), "tokenizer": words.t5(),
    }  # fmt: skip


@pipeline("ChromaPipeline", GROUP, **SIZE)
def chroma() -> dict[str, Any]:
    return chroma_parts()


@pipeline("ChromaImg2ImgPipeline", GROUP, **SIZE, image=picture(16), strength=1.0)
def chroma_img2img() -> dict[str, Any]:
    return chroma_parts()


@pipeline(
    "ChromaInpaintPipeline", GROUP, **SIZE, image=picture(16), mask_image=mask(16), strength=1.0
)
def chroma_inpaint() -> dict[str, Any]:
    return chroma_parts()


@pipeline("OvisImagePipeline", GROUP, height=16, width=16, max_sequence_length=64)
def ovis_image() -> dict[str, Any]:
    from diffusers import OvisImageTransformer2DModel

    sizes = transformer_sizes(out_channels=16)
    sizes.pop("pooled_projection_dim")
    return {
        "transformer": OvisImageTransformer2DModel(**sizes), "vae": autoencoders.flow(),
        "scheduler": euler(), "text_encoder": encoders.qwen3(), "tokenizer": words.qwen2(),
    }  # fmt: skip


@pipeline("BriaPipeline", GROUP, **SIZE)
def bria() -> dict[str, Any]:
    from diffusers import BriaTransformer2DModel

    model = BriaTransformer2DModel(**transformer_sizes(pooled_projection_dim=None))
    return {
        "transformer": model, "vae": autoencoders.kl(shift_factor=0), "scheduler": euler(),
        "text_encoder": encoders.t5(), "tokenizer": words.t5(),
    }  # fmt: skip


@pipeline("BriaFiboPipeline", GROUP, height=32, width=32, prompt='{"text": "a cat"}')
def bria_fibo() -> dict[str, Any]:
    from diffusers import BriaFiboTransformer2DModel

    sizes = transformer_sizes(pooled_projection_dim=None, joint_attention_dim=32)
    model = BriaFiboTransformer2DModel(text_encoder_dim=16, **sizes)
    # The pipeline knows the number of the token that stands for an empty prompt: 128000.
    text = encoders.decoder("SmolLM3ForCausalLM", "SmolLM3Config", 16, vocab_size=128256)
    return {
        "transformer": model, "vae": autoencoders.wan(), "scheduler": euler(),
        "text_encoder": text, "tokenizer": words.qwen2(),
    }  # fmt: skip


@pipeline(
    "LongCatImagePipeline",
    GROUP,
    height=16,
    width=16,
    enable_prompt_rewrite=False,
    notes="a tokenizer in place of the Qwen2VLProcessor, which needs torchvision",
)
def longcat_image() -> dict[str, Any]:
    from diffusers import LongCatImageTransformer2DModel

    model = LongCatImageTransformer2DModel(**transformer_sizes(in_channels=64))
    return {
        "transformer": model, "vae": autoencoders.flow(latents=16), "scheduler": euler(),
        "text_encoder": encoders.qwen2_5_vl(), "tokenizer": words.qwen2(),
        "text_processor": words.qwen2(),
    }  # fmt: skip


@pipeline(
    "FluxControlImg2ImgPipeline",
    GROUP,
    **SIZE,
    image=picture(16),
    control_image=picture(16),
    strength=1.0,
)
def flux_control_img2img() -> dict[str, Any]:
    return flux_control()


@pipeline(
    "FluxControlInpaintPipeline",
    GROUP,
    **SIZE,
    image=picture(16),
    mask_image=mask(16),
    control_image=picture(16),
    strength=1.0,
)
def flux_control_inpaint() -> dict[str, Any]:
    return flux_control()


@pipeline(
    "FluxControlNetImg2ImgPipeline",
    GROUP,
    **SIZE,
    denoisers=("transformer", "controlnet"),
    image=picture(16),
    control_image=picture(16),
    strength=1.0,
)
def flux_control_net_img2img() -> dict[str, Any]:
    return flux_control_net()


@pipeline(
    "FluxControlNetInpaintPipeline",
    GROUP,
    **SIZE,
    denoisers=("transformer", "controlnet"),
    image=picture(16),
    mask_image=mask(16),
    control_image=picture(16),
    strength=1.0,
)
def flux_control_net_inpaint() -> dict[str, Any]:
    return flux_control_net()


@pipeline(
    "BriaFiboEditPipeline",
    GROUP,
    height=32,
    width=32,
    prompt='{"text": "a cat", "edit_instruction": "blue"}',
    image=picture(),
)
def bria_fibo_edit() -> dict[str, Any]:
    return bria_fibo()


@pipeline(
    "VisualClozePipeline",
    GROUP,
    "prompt",
    task_prompt="paint",
    content_prompt="a cat",
    image=[[picture(), picture(32, 1)], [picture(32, 2), None]],
    max_sequence_length=16,
    upsampling_height=32,
    upsampling_width=32,
    upsampling_strength=1.0,
)
def visual_cloze_upsampled() -> dict[str, Any]:
    return visual_cloze()
