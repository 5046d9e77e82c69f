"""Pipelines for video."""

from __future__ import annotations

from typing import Any

from families import autoencoders, encoders, words
from families.flux import euler
from families.image import kandinsky_5_text, kandinsky_5_transformer
from families.pictures import frames, mask, picture
from families.table import pipeline

GROUP = "video"
SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16}


def t5_text() -> dict[str, Any]:
    return {"text_encoder": encoders.t5(), "tokenizer": words.t5()}


def wan_sizes(**more: Any) -> dict[str, Any]:
    return {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 16,
        "in_channels": 16, "out_channels": 16, "text_dim": 32, "freq_dim": 32, "ffn_dim": 64,
        "num_layers": 2, "rope_max_seq_len": 32,
    } | more  # fmt: skip


def wan_transformer(kind: str = "WanTransformer3DModel", **more: Any) -> Any:
    import diffusers

    return getattr(diffusers, kind)(**wan_sizes(**more))


def unipc(shift: float = 3.0) -> Any:
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


def wan(**more: Any) -> dict[str, Any]:
    parts = {"transformer": wan_transformer(), "vae": autoencoders.wan(), "scheduler": unipc()}
    return parts | t5_text() | more


def wan_22(channels: int = 16) -> dict[str, Any]:
    return wan(
        transformer=wan_transformer(in_channels=channels),
        transformer_2=wan_transformer(in_channels=channels),
        boundary_ratio=0.875,
    )


@pipeline("WanPipeline", GROUP, **SIZE)
def wan_2_1() -> dict[str, Any]:
    return wan()


@pipeline(
    "WanPipeline",
    GROUP,
    **SIZE,
    denoisers=("transformer", "transformer_2"),
    notes="the first network takes the steps of much noise, the second the rest",
)
def wan_2_2() -> dict[str, Any]:
    return wan_22()


def clip_images_of_wan() -> dict[str, Any]:
    return {
        "image_encoder": encoders.clip_vision(), "image_processor": encoders.clip_images()
    }  # fmt: skip


@pipeline("WanImageToVideoPipeline", GROUP, **SIZE, image=picture(16))
def wan_2_1_image_to_video() -> dict[str, Any]:
    return wan(transformer=wan_transformer(in_channels=36, image_dim=32)) | clip_images_of_wan()


@pipeline(
    "WanImageToVideoPipeline",
    GROUP,
    **SIZE,
    image=picture(16),
    denoisers=("transformer", "transformer_2"),
)
def wan_2_2_image_to_video() -> dict[str, Any]:
    return wan_22(channels=36)


@pipeline("WanVideoToVideoPipeline", GROUP, height=16, width=16, video=frames(5, 16), strength=1.0)
def wan_video_to_video() -> dict[str, Any]:
    return wan()


@pipeline("WanVACEPipeline", GROUP, **SIZE, video=frames(5, 16), mask=[mask(16)] * 5)
def wan_vace() -> dict[str, Any]:
    model = wan_transformer("WanVACETransformer3DModel", vace_layers=[0, 1], vace_in_channels=96)
    return wan(transformer=model)


def skyreels(**more: Any) -> dict[str, Any]:
    return wan(transformer=wan_transformer("SkyReelsV2Transformer3DModel", **more))


@pipeline("SkyReelsV2Pipeline", GROUP, **SIZE)
def skyreels_2() -> dict[str, Any]:
    return skyreels()


@pipeline(
    "SkyReelsV2DiffusionForcingPipeline", GROUP, **SIZE, notes="every frame has a time of its own"
)
def skyreels_2_forcing() -> dict[str, Any]:
    return skyreels()


@pipeline("SkyReelsV2ImageToVideoPipeline", GROUP, **SIZE, image=picture(16))
def skyreels_2_image_to_video() -> dict[str, Any]:
    return skyreels(in_channels=36, image_dim=32) | clip_images_of_wan()


def ltx_parts() -> dict[str, Any]:
    from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel

    model = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16,
        cross_attention_dim=32, num_layers=2, caption_channels=32,
    )  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4, patch_size=1, patch_size_t=1, encoder_causal=True,
    )  # fmt: skip
    return {"transformer": model, "vae": vae, "scheduler": euler()} | t5_text()


LTX = SIZE | {"height": 32, "width": 32, "num_frames": 9}


@pipeline("LTXPipeline", GROUP, **LTX)
def ltx() -> dict[str, Any]:
    return ltx_parts()


@pipeline("LTXImageToVideoPipeline", GROUP, **LTX, image=picture())
def ltx_image_to_video() -> dict[str, Any]:
    return ltx_parts()


@pipeline("LTXConditionPipeline", GROUP, **LTX, image=picture())
def ltx_condition() -> dict[str, Any]:
    return ltx_parts()


def gemma3() -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    text = encoders.decoder_sizes(head_dim=16, sliding_window=64)
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    )


def ltx_2_parts() -> dict[str, Any]:
    from diffusers import (
        AutoencoderKLLTX2Audio,
        AutoencoderKLLTX2Video,
        LTX2VideoTransformer3DModel,
    )
    from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

    model = LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16,
        cross_attention_dim=32, audio_in_channels=4, audio_out_channels=4,
        audio_num_attention_heads=2, audio_attention_head_dim=8, audio_cross_attention_dim=16,
        num_layers=2, caption_channels=32, rope_double_precision=False, rope_type="split",
    )  # fmt: skip
    connectors = LTX2TextConnectors(
        caption_channels=32, text_proj_in_factor=3, video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=8, video_connector_num_layers=1,
        video_connector_num_learnable_registers=None, audio_connector_num_attention_heads=4,
        audio_connector_attention_head_dim=8, audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None, connector_rope_base_seq_len=32,
        rope_double_precision=False, rope_type="split",
    )  # fmt: skip
    vae = AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,),
        layers_per_block=(1,), decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,), decoder_inject_noise=(False, False),
        downsample_type=("spatial",), upsample_residual=(False,), upsample_factor=(1,),
        patch_size=1, patch_size_t=1, encoder_causal=True, decoder_causal=False,
    )  # fmt: skip
    audio = AutoencoderKLLTX2Audio(
        base_channels=4, output_channels=2, ch_mult=(1,), num_res_blocks=1, attn_resolutions=None,
        in_channels=2, resolution=32, latent_channels=2, norm_type="pixel",
        causality_axis="height", mid_block_add_attention=False, mel_bins=8,
    )  # fmt: skip
    vocoder = LTX2Vocoder(
        in_channels=16, hidden_channels=32, out_channels=2, upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2], resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]],
        output_sampling_rate=16000,
    )  # fmt: skip
    return {
        "transformer": model, "connectors": connectors, "vae": vae, "audio_vae": audio,
        "vocoder": vocoder, "scheduler": euler(), "text_encoder": gemma3(),
        "tokenizer": words.gemma(),
    }  # fmt: skip


@pipeline(
    "LTX2Pipeline", GROUP, **SIZE | {"height": 32, "width": 32}, notes="video and sound at once"
)
def ltx_2() -> dict[str, Any]:
    return ltx_2_parts()


@pipeline(
    "LTX2ImageToVideoPipeline",
    GROUP,
    **SIZE | {"height": 32, "width": 32},
    image=picture(),
    image_crf=0,
)
def ltx_2_image_to_video() -> dict[str, Any]:
    return ltx_2_parts()


@pipeline(
    "HunyuanVideoPipeline",
    GROUP,
    **SIZE | {"num_frames": 9},
    prompt_template={"template": "{}", "crop_start": 0},
)
def hunyuan_video() -> dict[str, Any]:
    from diffusers import HunyuanVideoTransformer3DModel

    model = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, patch_size=1, patch_size_t=1,
        guidance_embeds=True, text_embed_dim=32, pooled_projection_dim=32, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    return {
        "transformer": model, "vae": hunyuan_vae(4, 4), "scheduler": euler(shift=7.0),
        "text_encoder": encoders.llama(), "tokenizer": words.llama(),
        "text_encoder_2": encoders.clip(), "tokenizer_2": words.clip(),
    }  # fmt: skip


def hunyuan_vae(latents: int, blocks: int) -> Any:
    from diffusers import AutoencoderKLHunyuanVideo

    return AutoencoderKLHunyuanVideo(
        latent_channels=latents, block_out_channels=(8,) * blocks, layers_per_block=1,
        down_block_types=("HunyuanVideoDownBlock3D",) * blocks,
        up_block_types=("HunyuanVideoUpBlock3D",) * blocks, norm_num_groups=4,
        spatial_compression_ratio=8, temporal_compression_ratio=4,
    )  # fmt: skip


@pipeline("HunyuanVideo15Pipeline", GROUP, height=16, width=16, num_frames=5)
def hunyuan_video_15() -> dict[str, Any]:
    from diffusers import AutoencoderKLHunyuanVideo15, HunyuanVideo15Transformer3DModel
    from diffusers.guiders import ClassifierFreeGuidance
    from transformers import ByT5Tokenizer, Qwen2_5_VLTextModel

    model = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        num_refiner_layers=1, mlp_ratio=2.0, patch_size=1, patch_size_t=1, text_embed_dim=32,
        text_embed_2_dim=32, image_embed_dim=12, rope_axes_dim=(4, 4, 8), target_size=16,
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(16, 16), layers_per_block=1,
        spatial_compression_ratio=4, temporal_compression_ratio=2, downsample_match_channel=False,
        upsample_match_channel=False,
    )  # fmt: skip
    return {
        "transformer": model, "vae": vae, "scheduler": euler(shift=7.0),
        "text_encoder": Qwen2_5_VLTextModel(encoders.qwen2_5_vl_config().text_config),
        "tokenizer": words.qwen2(), "text_encoder_2": encoders.byt5(),
        "tokenizer_2": ByT5Tokenizer(), "guider": ClassifierFreeGuidance(guidance_scale=1.0),
    }  # fmt: skip


def cog_parts(**more: Any) -> dict[str, Any]:
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXTransformer3DModel,
    )

    model = CogVideoXTransformer3DModel(
        **{
            "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4,
            "out_channels": 4, "time_embed_dim": 16, "text_embed_dim": 32, "num_layers": 2,
            "sample_width": 2, "sample_height": 2, "sample_frames": 9, "patch_size": 2,
            "max_text_seq_length": 16,
        } | more
    )  # fmt: skip
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
    )  # fmt: skip
    return {"transformer": model, "vae": vae, "scheduler": CogVideoXDDIMScheduler()} | t5_text()


COG = SIZE | {"num_frames": 8}


@pipeline("CogVideoXPipeline", GROUP, **COG)
def cogvideox() -> dict[str, Any]:
    return cog_parts()


@pipeline("CogVideoXImageToVideoPipeline", GROUP, **COG, image=picture(16))
def cogvideox_image_to_video() -> dict[str, Any]:
    return cog_parts(in_channels=8, use_rotary_positional_embeddings=True)


@pipeline(
    "CogVideoXVideoToVideoPipeline",
    GROUP,
    height=16,
    width=16,
    max_sequence_length=16,
    video=frames(8, 16),
    strength=1.0,
)
def cogvideox_video_to_video() -> dict[str, Any]:
    return cog_parts()


@pipeline("MochiPipeline", GROUP, **SIZE | {"num_frames": 7})
def mochi() -> dict[str, Any]:
    from diffusers import AutoencoderKLMochi, MochiTransformer3DModel

    model = MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        pooled_projection_dim=16, in_channels=12, text_embed_dim=32, time_embed_dim=16,
        max_sequence_length=16,
    )  # fmt: skip
    vae = AutoencoderKLMochi(
        latent_channels=12, out_channels=3, encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4, layers_per_block=(1,) * 5,
    )  # fmt: skip
    return {"transformer": model, "vae": vae, "scheduler": euler()} | t5_text()


@pipeline("LattePipeline", GROUP, height=16, width=16, video_length=2, clean_caption=False)
def latte() -> dict[str, Any]:
    from diffusers import DDIMScheduler, LatteTransformer3DModel

    model = LatteTransformer3DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=16, num_attention_heads=2,
        caption_channels=32, in_channels=4, cross_attention_dim=32, out_channels=8,
        attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
        norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6, video_length=2,
    )  # fmt: skip
    parts = {"transformer": model, "vae": autoencoders.kl(), "scheduler": DDIMScheduler()}
    return parts | t5_text()


@pipeline(
    "AllegroPipeline",
    GROUP,
    **SIZE | {"num_frames": 8},
    clean_caption=False,
    output_type="latent",
    notes="decodes in tiles only, and a video this small has none",
)
def allegro() -> dict[str, Any]:
    from diffusers import (
        AllegroTransformer3DModel,
        AutoencoderKLAllegro,
        EulerAncestralDiscreteScheduler,
    )

    model = AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, num_layers=2,
        cross_attention_dim=48, sample_width=8, sample_height=8, sample_frames=8,
        caption_channels=32,
    )  # fmt: skip
    vae = AutoencoderKLAllegro(
        down_block_types=("AllegroDownBlock3D",) * 4, up_block_types=("AllegroUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
    )  # fmt: skip
    steps = EulerAncestralDiscreteScheduler()
    return {"transformer": model, "vae": vae, "scheduler": steps} | t5_text()


@pipeline("EasyAnimatePipeline", GROUP, negative_prompt="bad", height=16, width=16, num_frames=5)
def easy_animate() -> dict[str, Any]:
    from diffusers import AutoencoderKLMagvit, EasyAnimateTransformer3DModel
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    model = EasyAnimateTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        time_embed_dim=16, text_embed_dim=32, num_layers=2, sample_width=16, sample_height=16,
        patch_size=2, mmdit_layers=1,
    )  # fmt: skip
    vae = AutoencoderKLMagvit(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2,
        down_block_types=("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 3),
        up_block_types=("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 3),
        spatial_group_norm=False,
    )  # fmt: skip
    text = encoders.qwen2_5_vl_config().text_config.to_dict()
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1}
    keep = {k: v for k, v in text.items() if k not in ("model_type", "layer_types")}
    config = Qwen2VLConfig(text_config=keep, vision_config=vision)
    return {
        "transformer": model, "vae": vae, "scheduler": euler(),
        "text_encoder": Qwen2VLForConditionalGeneration(config), "tokenizer": words.qwen2(),
    }  # fmt: skip


@pipeline(
    "SanaVideoPipeline",
    GROUP,
    height=32,
    width=32,
    frames=5,
    max_sequence_length=16,
    complex_human_instruction=None,
    use_resolution_binning=False,
)
def sana_video() -> dict[str, Any]:
    from diffusers import DPMSolverMultistepScheduler, SanaVideoTransformer3DModel

    model = SanaVideoTransformer3DModel(
        in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=16,
        num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=16,
        cross_attention_dim=32, caption_channels=32, sample_size=8, patch_size=(1, 2, 2),
        qk_norm="rms_norm_across_heads", rope_max_seq_len=32,
    )  # fmt: skip
    steps = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    return {
        "transformer": model, "vae": autoencoders.wan(), "scheduler": steps,
        "text_encoder": encoders.gemma2(), "tokenizer": words.gemma(),
    }  # fmt: skip


@pipeline(
    "Kandinsky5T2VPipeline",
    GROUP,
    **SIZE,
    notes="a tokenizer in place of the Qwen2VLProcessor, which needs torchvision",
)
def kandinsky_5_video() -> dict[str, Any]:
    return kandinsky_5_text(
        transformer=kandinsky_5_transformer(), vae=hunyuan_vae(4, 4), scheduler=euler(shift=5.0)
    )


@pipeline(
    "StableVideoDiffusionPipeline",
    GROUP,
    "prompt",
    denoisers=("unet",),
    image=picture(16),
    height=16,
    width=16,
    num_frames=3,
)
def stable_video_diffusion() -> dict[str, Any]:
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        UNetSpatioTemporalConditionModel,
    )

    model = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=8,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32, num_attention_heads=(2, 4), addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
    )  # fmt: skip
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2
    )
    steps = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type="v_prediction", sigma_max=700.0, sigma_min=0.002, steps_offset=1,
        timestep_spacing="leading", timestep_type="continuous", use_karras_sigmas=True,
    )  # fmt: skip
    return {
        "unet": model, "vae": vae, "scheduler": steps,
        "feature_extractor": encoders.clip_images(224),
        "image_encoder": encoders.clip_vision(size=224, patch=56),
    }  # fmt: skip


@pipeline("TextToVideoSDPipeline", GROUP, denoisers=("unet",), height=16, width=16, num_frames=4)
def text_to_video() -> dict[str, Any]:
    from diffusers import UNet3DConditionModel

    from families.stable_diffusion import scheduler, text

    model = UNet3DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, sample_size=8, in_channels=4,
        out_channels=4, down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), cross_attention_dim=32,
        attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    return {"unet": model, "vae": autoencoders.kl(), "scheduler": scheduler()} | text()


@pipeline("SkyReelsV2DiffusionForcingImageToVideoPipeline", GROUP, **SIZE, image=picture(16))
def skyreels_2_forcing_image_to_video() -> dict[str, Any]:
    return skyreels()


@pipeline(
    "SanaImageToVideoPipeline",
    GROUP,
    height=32,
    width=32,
    frames=5,
    max_sequence_length=16,
    complex_human_instruction=None,
    use_resolution_binning=False,
    image=picture(),
)
def sana_image_to_video() -> dict[str, Any]:
    return sana_video()


@pipeline("LucyEditPipeline", GROUP, **SIZE, video=frames(5, 16))
def lucy_edit() -> dict[str, Any]:
    return wan(transformer=wan_transformer(in_channels=32))


@pipeline("LTX2ConditionPipeline", GROUP, **SIZE | {"height": 32, "width": 32})
def ltx_2_condition() -> dict[str, Any]:
    return ltx_2_parts()


@pipeline(
    "HunyuanVideoFramepackPipeline",
    GROUP,
    "prompt",
    prompt="a cat",
    image=picture(16),
    height=16,
    width=16,
    num_frames=5,
    latent_window_size=2,
    max_sequence_length=16,
    prompt_template={"template": "{}", "crop_start": 0},
)
def framepack() -> dict[str, Any]:
    from diffusers import HunyuanVideoFramepackTransformer3DModel
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    model = HunyuanVideoFramepackTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, patch_size=2, patch_size_t=1,
        guidance_embeds=True, text_embed_dim=32, pooled_projection_dim=32, rope_axes_dim=(4, 6, 6),
        image_condition_type=None, has_image_proj=True, image_proj_dim=32,
        has_clean_x_embedder=True,
    )  # fmt: skip
    eyes = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        image_size=28, patch_size=14,
    )  # fmt: skip
    return hunyuan_video() | {
        "transformer": model, "image_encoder": SiglipVisionModel(eyes),
        "feature_extractor": SiglipImageProcessor(size={"height": 28, "width": 28}),
    }  # fmt: skip


@pipeline(
    "CogVideoXFunControlPipeline",
    GROUP,
    height=16,
    width=16,
    max_sequence_length=16,
    control_video=frames(8, 16),
)
def cogvideox_control() -> dict[str, Any]:
    return cog_parts(in_channels=8)


@pipeline("AnyFlowPipeline", GROUP, **SIZE)
def any_flow() -> dict[str, Any]:
    from diffusers import FlowMapEulerDiscreteScheduler

    return wan(
        transformer=wan_transformer("AnyFlowTransformer3DModel"),
        scheduler=FlowMapEulerDiscreteScheduler(),
    )


@pipeline(
    "AnyFlowFARPipeline", GROUP, **SIZE | {"num_frames": 9}, notes="frame by frame over chunks"
)
def any_flow_far() -> dict[str, Any]:
    from diffusers import AnyFlowFARTransformer3DModel, FlowMapEulerDiscreteScheduler

    model = AnyFlowFARTransformer3DModel(
        **wan_sizes(), compressed_patch_size=(1, 4, 4), chunk_partition=(1, 1, 1)
    )
    return wan(transformer=model, scheduler=FlowMapEulerDiscreteScheduler(shift=5.0))


@pipeline("HeliosPipeline", GROUP, **SIZE | {"num_frames": 9})
def helios() -> dict[str, Any]:
    from diffusers import HeliosScheduler, HeliosTransformer3DModel

    sizes = wan_sizes()
    sizes.pop("rope_max_seq_len")
    model = HeliosTransformer3DModel(**sizes, rope_dim=(4, 6, 6))
    steps = HeliosScheduler(stage_range=[0, 1], stages=1, use_dynamic_shifting=True)
    return wan(transformer=model, scheduler=steps)


@pipeline("ChronoEditPipeline", GROUP, **SIZE, image=picture(16))
def chrono_edit() -> dict[str, Any]:
    model = wan_transformer("ChronoEditTransformer3DModel", in_channels=36, image_dim=32)
    return wan(transformer=model, scheduler=euler(shift=7.0)) | clip_images_of_wan()


def motif_parts(**more: Any) -> dict[str, Any]:
    from diffusers import MotifVideoTransformer3DModel
    from diffusers.guiders import AdaptiveProjectedGuidance
    from transformers import T5Gemma2Encoder, T5Gemma2EncoderConfig

    model = MotifVideoTransformer3DModel(
        in_channels=33, out_channels=16, num_attention_heads=2, attention_head_dim=16,
        num_layers=1, num_single_layers=1, patch_size=1, patch_size_t=1, text_embed_dim=32,
        rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    eyes = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    text = encoders.decoder_sizes(head_dim=16, dropout_rate=0.0)
    config = T5Gemma2EncoderConfig(text_config=text, vision_config=eyes)
    return {
        "transformer": model, "vae": autoencoders.wan(), "scheduler": euler(shift=7.0),
        "text_encoder": T5Gemma2Encoder(config), "tokenizer": words.gemma(),
        "guider": AdaptiveProjectedGuidance(), "feature_extractor": None,
    } | more  # fmt: skip


@pipeline("MotifVideoPipeline", GROUP, **SIZE | {"num_frames": 9})
def motif_video() -> dict[str, Any]:
    return motif_parts()


@pipeline(
    "WanAnimatePipeline",
    GROUP,
    "num_frames",
    image=picture(16),
    pose_video=frames(17, 16),
    face_video=frames(17, 16),
    height=16,
    width=16,
    segment_frame_length=17,
    max_sequence_length=16,
)
def wan_animate() -> dict[str, Any]:
    model = wan_transformer(
        "WanAnimateTransformer3DModel", in_channels=36, latent_channels=16, image_dim=32,
        motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16}, motion_encoder_size=16,
        motion_style_dim=8, motion_dim=4, motion_encoder_dim=16, face_encoder_hidden_dim=16,
        face_encoder_num_heads=2, inject_face_latents_blocks=2,
    )  # fmt: skip
    return wan(transformer=model) | clip_images_of_wan()


@pipeline(
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
    GROUP,
    height=16,
    width=16,
    max_sequence_length=16,
    video=frames(5, 16),
    num_frames=9,
    base_num_frames=9,
    overlap_history=1,
)
def skyreels_2_forcing_video_to_video() -> dict[str, Any]:
    return skyreels()


@pipeline(
    "HunyuanSkyreelsImageToVideoPipeline",
    GROUP,
    **SIZE | {"num_frames": 9},
    image=picture(16),
    prompt_template={"template": "{}", "crop_start": 0},
)
def hunyuan_skyreels() -> dict[str, Any]:
    parts = hunyuan_video()
    config = {**parts["transformer"].config, "in_channels": 8}
    return parts | {"transformer": type(parts["transformer"]).from_config(config)}


@pipeline(
    "LTXI2VLongMultiPromptPipeline",
    GROUP,
    height=32,
    width=32,
    num_frames=9,
    cond_image=picture(),
    max_sequence_length=16,
)
def ltx_long() -> dict[str, Any]:
    return ltx_parts()
