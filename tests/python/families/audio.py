"""Pipelines for sound."""

from __future__ import annotations

from typing import Any

from families import autoencoders, encoders, words
from families.flux import euler
from families.stable_diffusion import scheduler, unet
from families.table import pipeline

GROUP = "audio"


def oobleck(latents: int) -> Any:
    from diffusers import AutoencoderOobleck

    return AutoencoderOobleck(
        encoder_hidden_size=2 * latents, downsampling_ratios=[1, 2], decoder_channels=4,
        decoder_input_channels=latents, audio_channels=2, channel_multiples=[2, 4], sampling_rate=8,
    )  # fmt: skip


@pipeline("StableAudioPipeline", GROUP, "output_type", needs=("torchsde",))
def stable_audio() -> dict[str, Any]:
    from diffusers import CosineDPMSolverMultistepScheduler, StableAudioDiTModel
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    model = StableAudioDiTModel(
        sample_size=8, in_channels=4, num_layers=2, attention_head_dim=16,
        num_attention_heads=2, num_key_value_attention_heads=2, out_channels=4,
        cross_attention_dim=32, time_proj_dim=16, global_states_input_dim=64,
        cross_attention_input_dim=32,
    )  # fmt: skip
    steps = CosineDPMSolverMultistepScheduler(
        solver_order=2, prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential"
    )
    projection = StableAudioProjectionModel(
        text_encoder_dim=32, conditioning_dim=32, min_value=0, max_value=32
    )
    return {
        "transformer": model, "vae": oobleck(4), "scheduler": steps,
        "text_encoder": encoders.t5(), "tokenizer": words.t5(), "projection_model": projection,
    }  # fmt: skip


@pipeline("StableAudio3Pipeline", GROUP, "output_type", duration=1.0)
def stable_audio_3() -> dict[str, Any]:
    from diffusers import AutoencoderSAME, StableAudio3DiTModel
    from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder
    from transformers import T5GemmaEncoderModel

    from families.image import t5_gemma_config

    model = StableAudio3DiTModel(
        io_channels=8, patch_size=1, embed_dim=32, depth=2, num_heads=2, cond_token_dim=32,
        global_cond_dim=32, local_add_cond_dim=9, timestep_features_dim=16, ff_mult=2,
        num_memory_tokens=2, use_differential_attention=False,
    )  # fmt: skip
    vae = AutoencoderSAME(
        audio_channels=2, patch_size=2, encoder_channels=8, encoder_c_mults=(2,),
        encoder_strides=(2,), encoder_transformer_depths=(1,), latent_dim=8,
        use_differential_attention=False, dim_heads=4, ff_mult=2, sampling_rate=16,
    )  # fmt: skip
    return {
        "transformer": model, "vae": vae,
        "scheduler": euler(num_train_timesteps=1, stochastic_sampling=False),
        "text_encoder": T5GemmaEncoderModel(t5_gemma_config()), "tokenizer": words.gemma(16),
        "duration_embedder": StableAudio3DurationEmbedder(output_dim=32, fourier_dim=16),
    }  # fmt: skip


def clap() -> Any:
    from transformers import ClapConfig, ClapModel

    text = {
        "vocab_size": 320, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2,
        "num_hidden_layers": 1, "projection_dim": 16, "pad_token_id": 1,
    }  # fmt: skip
    sound = {
        "spec_size": 8, "window_size": 4, "num_mel_bins": 8, "intermediate_size": 37,
        "depths": [1, 1], "num_attention_heads": [1, 1], "num_hidden_layers": 1,
        "hidden_size": 192, "projection_dim": 16, "patch_size": 2, "patch_stride": 2,
        "patch_embed_input_channels": 4,
    }  # fmt: skip
    return ClapModel(ClapConfig(text_config=text, audio_config=sound, projection_dim=16))


def clap_sound() -> Any:
    from transformers import ClapFeatureExtractor

    return ClapFeatureExtractor(feature_size=8, sampling_rate=16000, hop_length=7900)


def vocoder() -> Any:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    return SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=8,
            sampling_rate=16000,
            upsample_initial_channel=16,
            upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4],
            resblock_kernel_sizes=[3, 7],
            resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
            normalize_before=False,
        )
    )


def spectrogram_vae() -> Any:
    return autoencoders.kl(in_channels=1, out_channels=1)


@pipeline(
    "AudioLDM2Pipeline",
    GROUP,
    denoisers=("unet",),
    audio_length_in_s=0.0025,
    max_new_tokens=4,
    notes="a language model writes the condition",
)
def audioldm_2() -> dict[str, Any]:
    from diffusers import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel
    from transformers import GPT2Config, GPT2LMHeadModel

    model = AudioLDM2UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, sample_size=8,
        in_channels=4, out_channels=4, cross_attention_dim=((None, 16, 32),) * 2,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    language = GPT2LMHeadModel(
        GPT2Config(n_embd=16, n_head=1, n_layer=1, vocab_size=100, n_positions=99)
    )
    projection = AudioLDM2ProjectionModel(
        text_encoder_dim=16, text_encoder_1_dim=32, langauge_model_dim=16
    )
    return {
        "unet": model, "vae": spectrogram_vae(), "scheduler": scheduler(),
        "text_encoder": clap(), "tokenizer": words.roberta(), "feature_extractor": clap_sound(),
        "text_encoder_2": encoders.t5(), "tokenizer_2": words.t5(), "language_model": language,
        "projection_model": projection, "vocoder": vocoder(),
    }  # fmt: skip


@pipeline("AudioLDMPipeline", GROUP, denoisers=("unet",), audio_length_in_s=0.0025)
def audioldm() -> dict[str, Any]:
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    model = unet(
        cross_attention_dim=(16, 32), class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=16, class_embeddings_concat=True,
    )  # fmt: skip
    text = ClapTextConfig(**clap().config.text_config.to_dict())
    return {
        "unet": model, "vae": spectrogram_vae(), "scheduler": scheduler(), "vocoder": vocoder(),
        "text_encoder": ClapTextModelWithProjection(text), "tokenizer": words.roberta(),
    }  # fmt: skip


@pipeline(
    "AceStepPipeline",
    GROUP,
    "output_type",
    lyrics="la la",
    audio_duration=1.0,
    max_text_length=32,
    max_lyric_length=32,
)
def ace_step() -> dict[str, Any]:
    from diffusers import AceStepTransformer1DModel
    from diffusers.pipelines.ace_step import (
        AceStepAudioTokenDetokenizer,
        AceStepAudioTokenizer,
        AceStepConditionEncoder,
    )

    sizes: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "rope_theta": 10000.0, "sliding_window": 16,
    }  # fmt: skip
    model = AceStepTransformer1DModel(
        num_hidden_layers=2, in_channels=24, audio_acoustic_hidden_dim=8, patch_size=2, **sizes
    )
    condition = AceStepConditionEncoder(
        text_hidden_dim=32, timbre_hidden_dim=8, num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1, **sizes,
    )  # fmt: skip
    pooled = {"audio_acoustic_hidden_dim": 8, "pool_window_size": 2}
    pooled |= {"num_attention_pooler_hidden_layers": 1}
    tokens = AceStepAudioTokenizer(
        fsq_dim=32, fsq_input_levels=[4, 4, 4], fsq_input_num_quantizers=1, **pooled, **sizes
    )
    return {
        "transformer": model, "condition_encoder": condition, "vae": oobleck(8),
        "text_encoder": encoders.qwen3(), "tokenizer": words.qwen2(),
        "scheduler": euler(num_train_timesteps=1), "audio_tokenizer": tokens,
        "audio_token_detokenizer": AceStepAudioTokenDetokenizer(**pooled, **sizes),
    }  # fmt: skip


@pipeline("LongCatAudioDiTPipeline", GROUP, audio_duration_s=0.01)
def longcat_audio() -> dict[str, Any]:
    from diffusers import LongCatAudioDiTTransformer, LongCatAudioDiTVae

    model = LongCatAudioDiTTransformer(
        dit_dim=32, dit_depth=2, dit_heads=2, dit_text_dim=32, latent_dim=8, text_conv=False
    )
    vae = LongCatAudioDiTVae(
        in_channels=1, channels=16, c_mults=[1, 2], strides=[2], latent_dim=8,
        encoder_latent_dim=16, downsampling_ratio=2, sample_rate=24000,
    )  # fmt: skip
    return {
        "transformer": model, "vae": vae, "scheduler": euler(),
        "text_encoder": encoders.umt5(), "tokenizer": words.t5(),
    }  # fmt: skip


@pipeline("DanceDiffusionPipeline", GROUP, "prompt", "output_type", denoisers=("unet",))
def dance_diffusion() -> dict[str, Any]:
    from diffusers import IPNDMScheduler, UNet1DModel

    model = UNet1DModel(
        block_out_channels=(32, 32, 64), extra_in_channels=64, sample_size=512, sample_rate=16000,
        in_channels=2, out_channels=2, flip_sin_to_cos=True, use_timestep_embedding=False,
        time_embedding_type="fourier", mid_block_type="UNetMidBlock1D",
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"),
        up_block_types=("AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
    )  # fmt: skip
    return {"unet": model, "scheduler": IPNDMScheduler()}


def sound(samples: int = 32) -> Any:
    import torch

    return torch.rand(1, 2, samples, generator=torch.Generator().manual_seed(0)) - 0.5


@pipeline("StableAudio3AudioToAudioPipeline", GROUP, "output_type", duration=1.0, audio=sound())
def stable_audio_3_of_audio() -> dict[str, Any]:
    return stable_audio_3()


@pipeline(
    "StableAudio3InpaintPipeline",
    GROUP,
    "output_type",
    duration=1.0,
    audio=sound(),
    mask_start_seconds=0.25,
    mask_end_seconds=0.5,
)
def stable_audio_3_inpaint() -> dict[str, Any]:
    return stable_audio_3()
