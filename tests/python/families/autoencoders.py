"""Autoencoders of a few thousand weights."""

from __future__ import annotations

from typing import Any


def kl(latents: int = 4, channels: tuple[int, ...] = (8, 8), **more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=channels, latent_channels=latents, norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        **more,
    )  # fmt: skip


def flow(latents: int = 4, channels: tuple[int, ...] = (8, 8), **more: Any) -> Any:
    """With the shift and the missing convolutions of the models that match flows."""
    more = {"shift_factor": 0.0609, "scaling_factor": 1.5035} | more
    return kl(latents, channels, use_quant_conv=False, use_post_quant_conv=False, **more)


def wan(**more: Any) -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        **{
            "base_dim": 4, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1,
            "temperal_downsample": [False, True, True],
        } | more
    )  # fmt: skip


def qwen() -> Any:
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1,
        temperal_downsample=[False, True], latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip


def dc() -> Any:
    from diffusers import AutoencoderDC

    return AutoencoderDC(
        latent_channels=4, attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        downsample_block_type="conv", upsample_block_type="interpolate",
        decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
    )  # fmt: skip


def vq(latents: int = 4, levels: int = 2) -> Any:
    from diffusers import VQModel

    return VQModel(
        block_out_channels=(32,) * (levels - 1) + (64,), latent_channels=latents,
        norm_num_groups=8, norm_type="spatial", num_vq_embeddings=12, vq_embed_dim=latents,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * (levels - 1) + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * (levels - 1),
    )  # fmt: skip
