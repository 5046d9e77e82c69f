"""Pipelines for images whose denoiser is a transformer, FLUX and its relatives apart."""

from __future__ import annotations

import inspect
from typing import Any

from families import autoencoders, encoders, words
from families.flux import euler
from families.pictures import mask, picture
from families.table import pipeline

GROUP = "image"
SIZE: dict[str, Any] = {"height": 16, "width": 16}
SHORT: dict[str, Any] = SIZE | {"max_sequence_length": 16}


def sd3_sizes(**more: Any) -> dict[str, Any]:
    return {
        "sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 2,
        "attention_head_dim": 16, "num_attention_heads": 2, "caption_projection_dim": 32,
        "joint_attention_dim": 64, "pooled_projection_dim": 64, "out_channels": 4,
        "pos_embed_max_size": 16,
    } | more  # fmt: skip


def sd3(**more: Any) -> dict[str, Any]:
    from diffusers import SD3Transformer2DModel

    sizes = sd3_sizes(qk_norm="rms_norm", dual_attention_layers=(0,))
    parts = {"transformer": SD3Transformer2DModel(**sizes), "vae": autoencoders.flow()}
    parts |= {"scheduler": euler(shift=3.0)}
    for end in ("", "_2"):
        parts |= {f"text_encoder{end}": encoders.clip_projected(), f"tokenizer{end}": words.clip()}
    return parts | {"text_encoder_3": encoders.t5(width=64), "tokenizer_3": words.t5()} | more


@pipeline(
    "StableDiffusion3Pipeline",
    GROUP,
    **SHORT,
    notes="3.5: normalised queries, one block of two attentions",
)
def stable_diffusion_3() -> dict[str, Any]:
    return sd3()


@pipeline("StableDiffusion3Img2ImgPipeline", GROUP, **SHORT, image=picture(16), strength=1.0)
def stable_diffusion_3_img2img() -> dict[str, Any]:
    return sd3()


@pipeline(
    "StableDiffusion3InpaintPipeline",
    GROUP,
    **SHORT,
    image=picture(16),
    mask_image=mask(16),
    strength=1.0,
)
def stable_diffusion_3_inpaint() -> dict[str, Any]:
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(**sd3_sizes(in_channels=16, out_channels=16))
    return sd3(transformer=model, vae=autoencoders.flow(latents=16))


@pipeline(
    "StableDiffusion3ControlNetPipeline",
    GROUP,
    **SHORT,
    denoisers=("transformer", "controlnet"),
    control_image=picture(16),
)
def stable_diffusion_3_control_net() -> dict[str, Any]:
    from diffusers import SD3ControlNetModel

    return sd3(controlnet=SD3ControlNetModel(**sd3_sizes()))


@pipeline("AuraFlowPipeline", GROUP, **SHORT)
def aura_flow() -> dict[str, Any]:
    from diffusers import AuraFlowTransformer2DModel

    model = AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_mmdit_layers=1,
        num_single_dit_layers=1, attention_head_dim=16, num_attention_heads=2,
        caption_projection_dim=32, joint_attention_dim=32, pos_embed_max_size=64,
    )  # fmt: skip
    return {
        "transformer": model, "vae": autoencoders.kl(), "scheduler": euler(),
        "text_encoder": encoders.umt5(), "tokenizer": words.t5(),
    }  # fmt: skip


def z_sizes() -> dict[str, Any]:
    return {
        "all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 4, "dim": 32,
        "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 32,
        "axes_dims": [8, 4, 4], "axes_lens": [256, 32, 32],
    }  # fmt: skip


def z_parts(**more: Any) -> dict[str, Any]:
    from diffusers import ZImageTransformer2DModel

    return {
        "transformer": ZImageTransformer2DModel(**z_sizes()), "vae": autoencoders.flow(),
        "scheduler": euler(shift=3.0), "text_encoder": encoders.qwen3(), "tokenizer": words.qwen2(),
    } | more  # fmt: skip


Z = {"height": 32, "width": 32, "max_sequence_length": 64}


@pipeline("ZImagePipeline", GROUP, **Z)
def z_image() -> dict[str, Any]:
    return z_parts()


@pipeline("ZImageImg2ImgPipeline", GROUP, **Z, image=picture(), strength=1.0)
def z_image_img2img() -> dict[str, Any]:
    return z_parts()


@pipeline("ZImageInpaintPipeline", GROUP, **Z, image=picture(), mask_image=mask(), strength=1.0)
def z_image_inpaint() -> dict[str, Any]:
    return z_parts()


@pipeline(
    "ZImageControlNetPipeline",
    GROUP,
    **Z,
    denoisers=("transformer", "controlnet"),
    control_image=picture(),
)
def z_image_control_net() -> dict[str, Any]:
    from diffusers import ZImageControlNetModel

    model = ZImageControlNetModel(
        control_layers_places=[0], control_refiner_layers_places=[0], control_in_dim=4, dim=32,
        n_refiner_layers=1, n_heads=2, n_kv_heads=2,
    )  # fmt: skip
    return z_parts(controlnet=model)


def qwen_sizes(**more: Any) -> dict[str, Any]:
    return {
        "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2,
        "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32,
        "axes_dims_rope": (8, 4, 4),
    } | more  # fmt: skip


def qwen_parts(**more: Any) -> dict[str, Any]:
    from diffusers import QwenImageTransformer2DModel

    return {
        "transformer": QwenImageTransformer2DModel(**qwen_sizes()), "vae": autoencoders.qwen(),
        "scheduler": euler(), "text_encoder": encoders.qwen2_5_vl(), "tokenizer": words.qwen2(),
    } | more  # fmt: skip


QWEN = {"height": 32, "width": 32, "max_sequence_length": 64, "negative_prompt": "bad"}


@pipeline("QwenImagePipeline", GROUP, **QWEN)
def qwen_image() -> dict[str, Any]:
    return qwen_parts()


@pipeline("QwenImageImg2ImgPipeline", GROUP, **QWEN, image=picture(), strength=1.0)
def qwen_image_img2img() -> dict[str, Any]:
    return qwen_parts()


@pipeline(
    "QwenImageInpaintPipeline", GROUP, **QWEN, image=picture(), mask_image=mask(), strength=1.0
)
def qwen_image_inpaint() -> dict[str, Any]:
    return qwen_parts()


@pipeline(
    "QwenImageControlNetPipeline",
    GROUP,
    **QWEN,
    denoisers=("transformer", "controlnet"),
    control_image=picture(),
)
def qwen_image_control_net() -> dict[str, Any]:
    from diffusers import QwenImageControlNetModel

    return qwen_parts(controlnet=QwenImageControlNetModel(**qwen_sizes()))


@pipeline(
    "HiDreamImagePipeline",
    GROUP,
    height=16,
    width=16,
    max_sequence_length=16,
    notes="routed experts",
)
def hidream() -> dict[str, Any]:
    from diffusers import HiDreamImageTransformer2DModel

    model = HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1,
        attention_head_dim=16, num_attention_heads=2, caption_channels=[32, 32], text_emb_dim=64,
        num_routed_experts=4, num_activated_experts=2, axes_dims_rope=(8, 4, 4),
        max_resolution=(32, 32), llama_layers=(0, 1),
    )  # fmt: skip
    return {
        "transformer": model, "vae": autoencoders.flow(), "scheduler": euler(),
        "text_encoder": encoders.clip_projected(positions=128), "tokenizer": words.clip(128),
        "text_encoder_2": encoders.clip_projected(positions=128), "tokenizer_2": words.clip(128),
        "text_encoder_3": encoders.t5(), "tokenizer_3": words.t5(128),
        "text_encoder_4": encoders.llama("LlamaForCausalLM"), "tokenizer_4": words.llama(128),
    }  # fmt: skip


def sana_parts(**more: Any) -> dict[str, Any]:
    from diffusers import SanaTransformer2DModel

    model = SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=2, num_attention_heads=4,
        attention_head_dim=8, num_cross_attention_heads=4, cross_attention_head_dim=8,
        cross_attention_dim=32, caption_channels=32, sample_size=8, **more,
    )  # fmt: skip
    return {
        "transformer": model, "vae": autoencoders.dc(), "scheduler": euler(shift=3.0),
        "text_encoder": encoders.gemma2(), "tokenizer": words.gemma(),
    }  # fmt: skip


SANA = {"height": 32, "width": 32, "max_sequence_length": 16, "complex_human_instruction": None}
SANA |= {"use_resolution_binning": False}


@pipeline("SanaPipeline", GROUP, **SANA)
def sana() -> dict[str, Any]:
    return sana_parts()


@pipeline("SanaPAGPipeline", GROUP, **SANA, notes="perturbed attention")
def sana_perturbed_attention() -> dict[str, Any]:
    return sana_parts()


@pipeline("SanaSprintPipeline", GROUP, **SANA, notes="two steps, guidance is an input")
def sana_sprint() -> dict[str, Any]:
    from diffusers import SCMScheduler

    parts = sana_parts(qk_norm="rms_norm_across_heads", guidance_embeds=True)
    return parts | {"scheduler": SCMScheduler()}


def pixart_parts() -> dict[str, Any]:
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

    model = PixArtTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=16, num_attention_heads=2,
        in_channels=4, out_channels=8, caption_channels=32, cross_attention_dim=32,
        use_additional_conditions=False,
    )  # fmt: skip
    return {
        "transformer": model, "vae": autoencoders.kl(), "scheduler": DPMSolverMultistepScheduler(),
        "text_encoder": encoders.t5(), "tokenizer": words.t5(),
    }  # fmt: skip


PIXART = SHORT | {"use_resolution_binning": False, "clean_caption": False}


@pipeline("PixArtAlphaPipeline", GROUP, **PIXART)
def pixart_alpha() -> dict[str, Any]:
    return pixart_parts()


@pipeline("PixArtSigmaPipeline", GROUP, **PIXART)
def pixart_sigma() -> dict[str, Any]:
    return pixart_parts()


@pipeline("LuminaPipeline", GROUP, **SHORT, clean_caption=False)
def lumina() -> dict[str, Any]:
    from diffusers import LuminaNextDiT2DModel

    model = LuminaNextDiT2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=32, num_layers=2,
        num_attention_heads=2, num_kv_heads=1, multiple_of=16, learn_sigma=True, qk_norm=True,
        cross_attention_dim=32,
    )  # fmt: skip
    text = encoders.decoder("GemmaForCausalLM", "GemmaConfig", head_dim=16)
    return {
        "transformer": model, "vae": autoencoders.kl(), "scheduler": euler(),
        "text_encoder": text, "tokenizer": words.gemma(),
    }  # fmt: skip


@pipeline("Lumina2Pipeline", GROUP, **SHORT)
def lumina_2() -> dict[str, Any]:
    from diffusers import Lumina2Transformer2DModel

    model = Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=32, num_layers=2,
        num_refiner_layers=1, num_attention_heads=2, num_kv_heads=1, multiple_of=16,
        axes_dim_rope=[8, 4, 4], axes_lens=[300, 64, 64], cap_feat_dim=32,
    )  # fmt: skip
    return {
        "transformer": model, "vae": autoencoders.flow(), "scheduler": euler(),
        "text_encoder": encoders.gemma2(), "tokenizer": words.gemma(),
    }  # fmt: skip


@pipeline("CogView3PlusPipeline", GROUP, **SHORT)
def cogview_3() -> dict[str, Any]:
    from diffusers import CogVideoXDDIMScheduler, CogView3PlusTransformer2DModel

    model = CogView3PlusTransformer2DModel(
        patch_size=2, in_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        out_channels=4, text_embed_dim=32, time_embed_dim=16, condition_dim=8,
        pos_embed_max_size=16, sample_size=8,
    )  # fmt: skip
    return {
        "transformer": model, "vae": autoencoders.kl(), "scheduler": CogVideoXDDIMScheduler(),
        "text_encoder": encoders.t5(), "tokenizer": words.t5(),
    }  # fmt: skip


def cogview_4_parts(channels: int = 4) -> dict[str, Any]:
    from diffusers import CogView4Transformer2DModel

    model = CogView4Transformer2DModel(
        patch_size=2, in_channels=channels, num_layers=2, attention_head_dim=16,
        num_attention_heads=2, out_channels=4, text_embed_dim=32, time_embed_dim=16,
        condition_dim=8, rope_axes_dim=(16, 16),
    )  # fmt: skip
    steps = euler(
        base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True,
        time_shift_type="linear",
    )  # fmt: skip
    return {
        "transformer": model, "vae": autoencoders.kl(), "scheduler": steps,
        "text_encoder": encoders.decoder("GlmModel", "GlmConfig", head_dim=16),
        "tokenizer": words.gemma(),
    }  # fmt: skip


@pipeline("CogView4Pipeline", GROUP, **SHORT)
def cogview_4() -> dict[str, Any]:
    return cogview_4_parts()


@pipeline("CogView4ControlPipeline", GROUP, **SHORT, control_image=picture(16))
def cogview_4_control() -> dict[str, Any]:
    return cogview_4_parts(channels=8)


@pipeline("HunyuanDiTPipeline", GROUP, **SIZE, use_resolution_binning=False)
def hunyuan_dit() -> dict[str, Any]:
    from diffusers import DDPMScheduler, HunyuanDiT2DModel
    from transformers import BertConfig, BertModel

    model = HunyuanDiT2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=16, num_attention_heads=2,
        in_channels=4, cross_attention_dim=32, cross_attention_dim_t5=32, pooled_projection_dim=16,
        hidden_size=32, activation_fn="gelu-approximate",
    )  # fmt: skip
    bert = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=77,
    )  # fmt: skip
    return {
        "transformer": model, "vae": autoencoders.kl(), "scheduler": DDPMScheduler(),
        "text_encoder": BertModel(bert), "tokenizer": words.bert(),
        "text_encoder_2": encoders.t5(), "tokenizer_2": words.t5(),
    } | dict.fromkeys(("safety_checker", "feature_extractor")) | {
        "requires_safety_checker": False
    }  # fmt: skip


@pipeline("HunyuanImagePipeline", GROUP, **SIZE, negative_prompt="bad")
def hunyuan_image() -> dict[str, Any]:
    from diffusers import AutoencoderKLHunyuanImage, HunyuanImageTransformer2DModel
    from diffusers.guiders import AdaptiveProjectedMixGuidance
    from transformers import ByT5Tokenizer

    model = HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, patch_size=(1, 1), text_embed_dim=32,
        text_embed_2_dim=32, rope_axes_dim=(8, 8),
    )  # fmt: skip
    vae = AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 64, 64, 64),
        layers_per_block=1, scaling_factor=0.476986, spatial_compression_ratio=8, sample_size=128,
    )  # fmt: skip
    return {
        "transformer": model, "vae": vae, "scheduler": euler(shift=7.0),
        "text_encoder": encoders.qwen2_5_vl(), "tokenizer": words.qwen2(),
        "text_encoder_2": encoders.byt5(), "tokenizer_2": ByT5Tokenizer(),
        "guider": AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=2),
        "ocr_guider": AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=3),
    }  # fmt: skip


def qwen3_vl(kind: str = "Qwen3VLForConditionalGeneration", layers: int = 2) -> Any:
    import transformers
    from transformers import Qwen3VLConfig

    text = encoders.decoder_sizes(head_dim=16, num_hidden_layers=layers)
    text["rope_parameters"] = {
        "rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 10000.0,
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
        "out_hidden_size": 32, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    return getattr(transformers, kind)(Qwen3VLConfig(text_config=text, vision_config=vision))


@pipeline("Krea2Pipeline", GROUP, height=32, width=32, max_sequence_length=64)
def krea_2() -> dict[str, Any]:
    from diffusers import Krea2Transformer2DModel

    model = Krea2Transformer2DModel(
        in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=64, timestep_embed_dim=16, text_hidden_dim=32,
        num_text_layers=3, text_num_attention_heads=2, text_num_key_value_heads=1,
        text_intermediate_size=32, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
        axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    return {
        "transformer": model, "vae": autoencoders.qwen(),
        "scheduler": euler(use_dynamic_shifting=True),
        "text_encoder": qwen3_vl("Qwen3VLModel"), "tokenizer": words.qwen2(),
        "text_encoder_select_layers": (0, 1, 2),
    }  # fmt: skip


@pipeline(
    "NucleusMoEImagePipeline",
    GROUP,
    height=32,
    width=32,
    max_sequence_length=64,
    return_index=-1,
    notes="stacked experts; a tokenizer in place of the Qwen3VLProcessor, which needs torchvision",
)
def nucleus_moe() -> dict[str, Any]:
    from diffusers import NucleusMoEImageTransformer2DModel

    model = NucleusMoEImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16,
        num_attention_heads=4, joint_attention_dim=32, axes_dims_rope=(8, 4, 4), num_experts=4,
        moe_intermediate_dim=32, capacity_factors=[8.0, 2.0],
        dense_moe_strategy="leave_first_block_dense",
    )  # fmt: skip
    return {
        "transformer": model, "vae": autoencoders.qwen(), "scheduler": euler(),
        "text_encoder": qwen3_vl(), "processor": words.qwen2(),
    }  # fmt: skip


@pipeline("ErnieImagePipeline", GROUP, height=32, width=32, use_pe=False)
def ernie_image() -> dict[str, Any]:
    from diffusers import ErnieImageTransformer2DModel

    from families.flux import flux2_vae, mistral3

    model = ErnieImageTransformer2DModel(
        hidden_size=32, num_attention_heads=2, num_layers=2, ffn_hidden_size=64, in_channels=16,
        out_channels=16, text_in_dim=32, rope_axes_dim=(8, 4, 4),
    )  # fmt: skip
    return {
        "transformer": model, "vae": flux2_vae(), "scheduler": euler(),
        "text_encoder": mistral3().model, "tokenizer": words.llama(),
    }  # fmt: skip


@pipeline(
    "Ideogram4Pipeline",
    GROUP,
    height=32,
    width=32,
    max_sequence_length=64,
    guidance_schedule=(7.0, 3.0),
    denoisers=("transformer", "unconditional_transformer"),
    notes="a second network takes the steps without a prompt",
)
def ideogram_4() -> dict[str, Any]:
    from diffusers import Ideogram4Transformer2DModel

    from families.flux import flux2_vae

    def model() -> Any:
        return Ideogram4Transformer2DModel(
            in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            intermediate_size=64, adaln_dim=16, llm_features_dim=13 * 32, mrope_section=(4, 2, 2),
        )  # fmt: skip

    return {
        "transformer": model(), "unconditional_transformer": model(), "vae": flux2_vae(),
        "scheduler": euler(), "text_encoder": qwen3_vl("Qwen3VLModel", 36),
        "tokenizer": words.qwen2(),
    }  # fmt: skip


def t5_gemma() -> Any:
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    model = T5GemmaEncoder(t5_gemma_config().encoder)
    model.config = t5_gemma_config()  # what the published folders hold
    return model


def t5_gemma_config() -> Any:
    from transformers import T5GemmaConfig, T5GemmaModuleConfig

    sizes = encoders.decoder_sizes(head_dim=16, sliding_window=64)
    module = T5GemmaModuleConfig(layer_types=["full_attention"] * 2, **sizes)
    return T5GemmaConfig(
        encoder=module.to_dict(), decoder=module.to_dict(), is_encoder_decoder=False
    )


def prx_transformer(**more: Any) -> Any:
    from diffusers import PRXTransformer2DModel

    return PRXTransformer2DModel(
        patch_size=2, context_in_dim=32, hidden_size=32, mlp_ratio=2.0, num_heads=2, depth=2,
        axes_dim=[8, 8], **more,
    )  # fmt: skip


@pipeline("PRXPipeline", GROUP, **SIZE, use_resolution_binning=False)
def prx() -> dict[str, Any]:
    return {
        "transformer": prx_transformer(in_channels=4), "vae": autoencoders.flow(),
        "scheduler": euler(), "text_encoder": t5_gemma(), "tokenizer": words.gemma(32),
        "default_sample_size": 16,
    }  # fmt: skip


@pipeline(
    "PRXPixelPipeline",
    GROUP,
    **SIZE,
    use_resolution_binning=False,
    notes="denoises pixels, no autoencoder",
)
def prx_pixel() -> dict[str, Any]:
    return {
        "transformer": prx_transformer(in_channels=3, bottleneck_size=16, resolution_embeds=True),
        "scheduler": euler(), "text_encoder": encoders.qwen3(), "tokenizer": words.qwen2(32),
        "default_sample_size": 16,
    }  # fmt: skip


def kandinsky_5_text(**more: Any) -> dict[str, Any]:
    return {
        "text_encoder": encoders.qwen2_5_vl(), "tokenizer": words.qwen2(),
        "text_encoder_2": encoders.clip(), "tokenizer_2": words.clip(),
    } | more  # fmt: skip


def kandinsky_5_transformer(channels: int = 4, **more: Any) -> Any:
    from diffusers import Kandinsky5Transformer3DModel

    return Kandinsky5Transformer3DModel(
        in_visual_dim=channels, in_text_dim=32, in_text_dim2=32, time_dim=16,
        out_visual_dim=channels, patch_size=(1, 2, 2), model_dim=32, ff_dim=64, num_text_blocks=1,
        num_visual_blocks=2, axes_dims=(4, 6, 6), attention_type="regular",
        **{"visual_cond": False} | more,
    )  # fmt: skip


@pipeline(
    "Kandinsky5T2IPipeline",
    GROUP,
    **SHORT,
    notes="a tokenizer in place of the Qwen2VLProcessor, which needs torchvision",
)
def kandinsky_5_image() -> dict[str, Any]:
    return kandinsky_5_text(
        transformer=kandinsky_5_transformer(), vae=autoencoders.flow(), scheduler=euler(shift=5.0)
    )


@pipeline("StableDiffusion3PAGPipeline", GROUP, **SHORT, pag_scale=1.0)
def sd3_perturbed_attention() -> dict[str, Any]:
    return sd3()


@pipeline("StableDiffusion3PAGImg2ImgPipeline", GROUP, **SHORT, image=picture(16), strength=1.0)
def sd3_perturbed_attention_img2img() -> dict[str, Any]:
    return sd3()


@pipeline("PixArtSigmaPAGPipeline", GROUP, **PIXART)
def pixart_perturbed_attention() -> dict[str, Any]:
    return pixart_parts()


@pipeline("HunyuanDiTPAGPipeline", GROUP, **SIZE, use_resolution_binning=False, pag_scale=1.0)
def hunyuan_dit_perturbed_attention() -> dict[str, Any]:
    return hunyuan_dit()


@pipeline("SanaSprintImg2ImgPipeline", GROUP, **SANA, image=picture(), strength=1.0)
def sana_sprint_img2img() -> dict[str, Any]:
    return sana_sprint()


@pipeline(
    "SanaControlNetPipeline",
    GROUP,
    **SANA,
    denoisers=("transformer", "controlnet"),
    control_image=picture(),
)
def sana_control_net() -> dict[str, Any]:
    from diffusers import SanaControlNetModel

    parts = sana_parts()
    known = inspect.signature(SanaControlNetModel).parameters
    sizes = {k: v for k, v in parts["transformer"].config.items() if k in known}
    return parts | {"controlnet": SanaControlNetModel(**sizes)}


@pipeline(
    "QwenImageControlNetInpaintPipeline",
    GROUP,
    **QWEN,
    denoisers=("transformer", "controlnet"),
    control_image=picture(),
    control_mask=mask(),
)
def qwen_image_control_net_inpaint() -> dict[str, Any]:
    from diffusers import QwenImageControlNetModel

    model = QwenImageControlNetModel(**qwen_sizes(extra_condition_channels=4))
    return qwen_parts(controlnet=model)


@pipeline(
    "ZImageControlNetInpaintPipeline",
    GROUP,
    **Z,
    denoisers=("transformer", "controlnet"),
    image=picture(),
    mask_image=mask(),
    control_image=picture(),
)
def z_image_control_net_inpaint() -> dict[str, Any]:
    from diffusers import ZImageControlNetModel

    model = ZImageControlNetModel(
        control_layers_places=[0], control_refiner_layers_places=[0], control_in_dim=9, dim=32,
        n_refiner_layers=1, n_heads=2, n_kv_heads=2,
    )  # fmt: skip
    return z_parts(controlnet=model)


@pipeline(
    "StableDiffusion3ControlNetInpaintingPipeline",
    GROUP,
    **SHORT,
    denoisers=("transformer", "controlnet"),
    control_image=picture(16),
    control_mask=mask(16),
)
def stable_diffusion_3_control_net_inpaint() -> dict[str, Any]:
    from diffusers import SD3ControlNetModel

    return sd3(controlnet=SD3ControlNetModel(**sd3_sizes(extra_conditioning_channels=1)))
