"""Models without text, and the ones that came before Stable Diffusion or beside it."""

from __future__ import annotations

from typing import Any

import torch

from families import autoencoders, encoders, words
from families.pictures import mask, picture
from families.stable_diffusion import scheduler, text, unet
from families.table import pipeline

GROUP = "classic"
UNET = ("unet",)
RESNET: dict[str, Any] = {
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 4,
}


def pixel_unet(**more: Any) -> Any:
    from diffusers import UNet2DModel

    return UNet2DModel(
        **{
            "sample_size": 8, "in_channels": 3, "out_channels": 3, "layers_per_block": 1,
            "block_out_channels": (16, 32), "norm_num_groups": 4, "attention_head_dim": 8,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        } | more
    )  # fmt: skip


@pipeline("DDPMPipeline", GROUP, "prompt", denoisers=UNET)
def ddpm() -> dict[str, Any]:
    from diffusers import DDPMScheduler

    return {"unet": pixel_unet(), "scheduler": DDPMScheduler()}


@pipeline("DDIMPipeline", GROUP, "prompt", denoisers=UNET)
def ddim() -> dict[str, Any]:
    from diffusers import DDIMScheduler

    return {"unet": pixel_unet(), "scheduler": DDIMScheduler()}


@pipeline("PNDMPipeline", GROUP, "prompt", denoisers=UNET, num_inference_steps=4)
def pndm() -> dict[str, Any]:
    from diffusers import PNDMScheduler

    return {"unet": pixel_unet(), "scheduler": PNDMScheduler()}


@pipeline("ScoreSdeVePipeline", GROUP, "prompt", denoisers=UNET)
def score_sde_ve() -> dict[str, Any]:
    from diffusers import ScoreSdeVeScheduler

    return {"unet": pixel_unet(), "scheduler": ScoreSdeVeScheduler()}


@pipeline(
    "RePaintPipeline",
    GROUP,
    "prompt",
    denoisers=UNET,
    image=picture(32),
    mask_image=mask(32),
    jump_length=1,
    jump_n_sample=1,
)
def repaint() -> dict[str, Any]:
    from diffusers import RePaintScheduler

    return {"unet": pixel_unet(), "scheduler": RePaintScheduler()}


def consistency_parts(**more: Any) -> dict[str, Any]:
    from diffusers import CMStochasticIterativeScheduler

    model = pixel_unet(
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift", **more,
    )  # fmt: skip
    steps = CMStochasticIterativeScheduler(num_train_timesteps=40, sigma_min=0.002, sigma_max=80.0)
    return {"unet": model, "scheduler": steps}


@pipeline(
    "ConsistencyModelPipeline",
    GROUP,
    "prompt",
    "num_inference_steps",
    denoisers=UNET,
    num_inference_steps=None,
    timesteps=[22, 0],
)
def consistency() -> dict[str, Any]:
    return consistency_parts()


@pipeline(
    "ConsistencyModelPipeline",
    GROUP,
    "prompt",
    denoisers=UNET,
    num_inference_steps=None,
    timesteps=[22, 0],
    class_labels=1,
)
def consistency_of_classes() -> dict[str, Any]:
    return consistency_parts(num_class_embeds=10)


@pipeline("LDMPipeline", GROUP, "prompt", denoisers=UNET)
def latent_diffusion() -> dict[str, Any]:
    from diffusers import DDIMScheduler

    return {
        "unet": pixel_unet(in_channels=4, out_channels=4), "vqvae": autoencoders.vq(),
        "scheduler": DDIMScheduler(),
    }  # fmt: skip


@pipeline("LDMTextToImagePipeline", GROUP, denoisers=UNET, height=16, width=16)
def latent_diffusion_text() -> dict[str, Any]:
    parts = {"unet": unet(), "vqvae": autoencoders.kl(), "scheduler": scheduler()}
    return parts | {"bert": encoders.clip(), "tokenizer": words.clip(77)}


@pipeline("LDMSuperResolutionPipeline", GROUP, "prompt", denoisers=UNET, image=picture(32))
def latent_diffusion_upscale() -> dict[str, Any]:
    from diffusers import DDIMScheduler

    return {
        "unet": pixel_unet(in_channels=6, sample_size=32),
        "vqvae": autoencoders.vq(latents=3), "scheduler": DDIMScheduler(),
    }  # fmt: skip


@pipeline("DiTPipeline", GROUP, "prompt", class_labels=[1])
def dit() -> dict[str, Any]:
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    model = DiTTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=16, num_attention_heads=2,
        in_channels=4, out_channels=8, num_embeds_ada_norm=1000,
    )  # fmt: skip
    return {"transformer": model, "vae": autoencoders.kl(), "scheduler": DDIMScheduler()}


def if_unet(channels: int = 3, **more: Any) -> Any:
    return unet(
        in_channels=channels, out_channels=6, encoder_hid_dim=32, addition_embed_type="text",
        addition_embed_type_num_heads=2, cross_attention_norm="group_norm", act_fn="gelu",
        block_out_channels=(32, 64), **RESNET, **more,
    )  # fmt: skip


def if_parts() -> dict[str, Any]:
    from diffusers import DDPMScheduler

    steps = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", thresholding=True, dynamic_thresholding_ratio=0.95,
        sample_max_value=1.0, variance_type="learned_range",
    )  # fmt: skip
    return {
        "unet": if_unet(), "scheduler": steps, "text_encoder": encoders.t5(),
        "tokenizer": words.t5(), "safety_checker": None, "feature_extractor": None,
        "watermarker": None, "requires_safety_checker": False,
    }  # fmt: skip


@pipeline("IFPipeline", GROUP, denoisers=UNET, clean_caption=False)
def deepfloyd_if() -> dict[str, Any]:
    return if_parts()


@pipeline(
    "IFImg2ImgPipeline", GROUP, denoisers=UNET, image=picture(8), strength=1.0, clean_caption=False
)
def deepfloyd_if_img2img() -> dict[str, Any]:
    return if_parts()


@pipeline(
    "IFSuperResolutionPipeline",
    GROUP,
    denoisers=UNET,
    image=picture(8),
    height=16,
    width=16,
    clean_caption=False,
)
def deepfloyd_if_upscale() -> dict[str, Any]:
    from diffusers import DDPMScheduler

    model = if_unet(6, class_embed_type="timestep", time_embedding_act_fn="gelu")
    return if_parts() | {"unet": model, "image_noising_scheduler": DDPMScheduler()}


def prior(embeddings: int = words.LENGTH, **more: Any) -> Any:
    from diffusers import PriorTransformer

    return PriorTransformer(
        num_attention_heads=2, attention_head_dim=16, embedding_dim=32, num_layers=2,
        num_embeddings=embeddings, **more,
    )  # fmt: skip


def unclip_steps(**more: Any) -> Any:
    from diffusers import UnCLIPScheduler

    settings = {"variance_type": "fixed_small_log", "prediction_type": "sample"}
    return UnCLIPScheduler(**settings | {"clip_sample_range": 5.0} | more)


def image_embedding(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 32, generator=torch.Generator().manual_seed(seed))


KANDINSKY = {"image_embeds": image_embedding(), "negative_image_embeds": image_embedding(1)}
KANDINSKY |= {"height": 64, "width": 64}


def kandinsky_unet(channels: int = 4, kind: str = "image") -> Any:
    return unet(
        in_channels=channels, out_channels=8, addition_embed_type=kind, encoder_hid_dim=32,
        encoder_hid_dim_type=f"{kind}_proj", block_out_channels=(32, 64), **RESNET,
    )  # fmt: skip


def kandinsky_22(**more: Any) -> dict[str, Any]:
    from diffusers import DDPMScheduler

    steps = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
    return {"unet": kandinsky_unet(), "movq": autoencoders.vq(), "scheduler": steps} | more


def kandinsky_prior() -> dict[str, Any]:
    return {
        "prior": prior(clip_embed_dim=32), "image_encoder": encoders.clip_vision(),
        "text_encoder": encoders.clip_projected(), "tokenizer": words.clip(),
        "scheduler": unclip_steps(clip_sample=True, clip_sample_range=10.0),
        "image_processor": encoders.clip_images(),
    }  # fmt: skip


@pipeline(
    "KandinskyV22PriorPipeline",
    GROUP,
    denoisers=("prior",),
    notes="denoises the embedding of a picture",
)
def kandinsky_22_prior() -> dict[str, Any]:
    return kandinsky_prior()


@pipeline("KandinskyV22Pipeline", GROUP, "prompt", denoisers=UNET, **KANDINSKY)
def kandinsky_22_decoder() -> dict[str, Any]:
    return kandinsky_22()


@pipeline(
    "KandinskyV22Img2ImgPipeline",
    GROUP,
    "prompt",
    denoisers=UNET,
    **KANDINSKY,
    image=picture(64),
    strength=1.0,
)
def kandinsky_22_img2img() -> dict[str, Any]:
    return kandinsky_22(scheduler=scheduler())


@pipeline(
    "KandinskyV22InpaintPipeline",
    GROUP,
    "prompt",
    denoisers=UNET,
    **KANDINSKY,
    image=picture(64),
    mask_image=mask(64),
)
def kandinsky_22_inpaint() -> dict[str, Any]:
    return kandinsky_22(unet=kandinsky_unet(9))


@pipeline(
    "KandinskyV22CombinedPipeline",
    GROUP,
    denoisers=("prior_prior", "unet"),
    height=64,
    width=64,
    prior_num_inference_steps=2,
)
def kandinsky_22_combined() -> dict[str, Any]:
    return kandinsky_22(**{f"prior_{name}": part for name, part in kandinsky_prior().items()})


@pipeline("KandinskyPipeline", GROUP, denoisers=UNET, **KANDINSKY)
def kandinsky_21() -> dict[str, Any]:
    from diffusers import DDIMScheduler
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    config = MCLIPConfig(
        numDims=32, transformerDimensions=32, hidden_size=32, intermediate_size=37,
        num_attention_heads=4, num_hidden_layers=2, vocab_size=320,
    )  # fmt: skip
    return {
        "unet": kandinsky_unet(kind="text_image"), "movq": autoencoders.vq(),
        "scheduler": DDIMScheduler(), "text_encoder": MultilingualCLIP(config),
        "tokenizer": words.xlm_roberta(77),
    }  # fmt: skip


@pipeline("Kandinsky3Pipeline", GROUP, denoisers=UNET, height=16, width=16)
def kandinsky_3() -> dict[str, Any]:
    from diffusers import DDPMScheduler, Kandinsky3UNet

    model = Kandinsky3UNet(
        in_channels=4, time_embedding_dim=16, groups=2, attention_head_dim=4, layers_per_block=2,
        block_out_channels=(32, 64), cross_attention_dim=16, encoder_hid_dim=32,
    )  # fmt: skip
    return {
        "unet": model, "movq": autoencoders.vq(), "text_encoder": encoders.t5(),
        "tokenizer": words.t5(), "scheduler": DDPMScheduler(),
    }  # fmt: skip


def wuerstchen_steps() -> Any:
    from diffusers import DDPMWuerstchenScheduler

    return DDPMWuerstchenScheduler()


def cascade_text() -> dict[str, Any]:
    return {"text_encoder": encoders.clip_projected(), "tokenizer": words.clip()}


@pipeline("StableCascadePriorPipeline", GROUP, denoisers=("prior",), height=128, width=128)
def stable_cascade_prior() -> dict[str, Any]:
    from diffusers import StableCascadeUNet

    prior = StableCascadeUNet(
        conditioning_dim=32, block_out_channels=(32, 32), num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1), switch_level=(False,),
        clip_image_in_channels=32, clip_text_in_channels=32, clip_text_pooled_in_channels=32,
        block_types_per_layer=(
            ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
        ) * 2, down_blocks_repeat_mappers=(1, 1), up_blocks_repeat_mappers=(1, 1),
        dropout=(0.1, 0.1), timestep_ratio_embedding_dim=16,
    )  # fmt: skip
    return (
        {"prior": prior, "scheduler": wuerstchen_steps()}
        | cascade_text()
        | dict.fromkeys(("feature_extractor", "image_encoder"))
    )


@pipeline(
    "AmusedPipeline", GROUP, height=16, width=16, notes="denoises tokens of a picture, not numbers"
)
def amused() -> dict[str, Any]:
    from diffusers import AmusedScheduler, UVit2DModel, VQModel

    model = UVit2DModel(
        hidden_size=32, use_bias=False, hidden_dropout=0.0, cond_embed_dim=32,
        micro_cond_encode_dim=4, micro_cond_embed_dim=20, encoder_hidden_size=32, vocab_size=33,
        codebook_size=32, in_channels=32, block_out_channels=32, num_res_blocks=1, downsample=True,
        upsample=True, block_num_heads=2, num_hidden_layers=1, num_attention_heads=2,
        attention_dropout=0.0, intermediate_size=64, layer_norm_eps=1e-6,
        ln_elementwise_affine=True,
    )  # fmt: skip
    vqvae = VQModel(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=8, layers_per_block=1,
        norm_num_groups=8, num_vq_embeddings=32, sample_size=8, mid_block_add_attention=False,
        lookup_from_codebook=True,
    )  # fmt: skip
    return {
        "transformer": model, "vqvae": vqvae, "scheduler": AmusedScheduler(mask_token_id=32),
    } | cascade_text()  # fmt: skip


@pipeline(
    "ShapEPipeline",
    GROUP,
    denoisers=("prior",),
    frame_size=16,
    output_type="latent",
    notes="denoises the weights of a small network that draws a body",
)
def shap_e() -> dict[str, Any]:
    from diffusers import HeunDiscreteScheduler
    from diffusers.pipelines.shap_e import ShapERenderer

    model = prior(
        32, embedding_proj_dim=32, time_embed_dim=64, clip_embed_dim=64, additional_embeddings=0,
        time_embed_act_fn="gelu", norm_in_type="layer", encoder_hid_proj_type=None,
        added_emb_type=None,
    )  # fmt: skip
    renderer = ShapERenderer(
        param_shapes=((8, 93), (8, 8), (8, 8), (8, 8)), d_latent=32, d_hidden=8, n_output=12,
        background=(0.1, 0.1, 0.1),
    )  # fmt: skip
    steps = HeunDiscreteScheduler(
        beta_schedule="exp", num_train_timesteps=1024, prediction_type="sample",
        use_karras_sigmas=True, clip_sample=True, clip_sample_range=1.0,
    )  # fmt: skip
    return {"prior": model, "scheduler": steps, "shap_e_renderer": renderer} | cascade_text()


MARIGOLD: dict[str, Any] = {"image": picture(16), "processing_resolution": 0}


def marigold(channels: int = 8, out: int = 4) -> dict[str, Any]:
    return {
        "unet": unet(in_channels=channels, out_channels=out), "vae": autoencoders.kl(),
        "scheduler": scheduler("LCMScheduler", prediction_type="v_prediction"),
        "prediction_type": "depth", "scale_invariant": True, "shift_invariant": True,
    } | text()  # fmt: skip


@pipeline("MarigoldDepthPipeline", GROUP, "prompt", denoisers=UNET, **MARIGOLD)
def marigold_depth() -> dict[str, Any]:
    return marigold()


@pipeline("MarigoldNormalsPipeline", GROUP, "prompt", denoisers=UNET, **MARIGOLD)
def marigold_normals() -> dict[str, Any]:
    parts = marigold() | {"prediction_type": "normals", "use_full_z_range": True}
    return {k: v for k, v in parts.items() if k not in ("scale_invariant", "shift_invariant")}


@pipeline("Kandinsky3Img2ImgPipeline", GROUP, denoisers=UNET, image=picture(16), strength=1.0)
def kandinsky_3_img2img() -> dict[str, Any]:
    return kandinsky_3()


@pipeline(
    "KandinskyImg2ImgPipeline", GROUP, denoisers=UNET, **KANDINSKY, image=picture(64), strength=1.0
)
def kandinsky_21_img2img() -> dict[str, Any]:
    return kandinsky_21()


@pipeline("KandinskyPriorPipeline", GROUP, "output_type", denoisers=("prior",))
def kandinsky_21_prior() -> dict[str, Any]:
    return kandinsky_prior()


@pipeline(
    "KandinskyV22PriorEmb2EmbPipeline", GROUP, denoisers=("prior",), image=picture(), strength=1.0
)
def kandinsky_22_prior_of_image() -> dict[str, Any]:
    return kandinsky_prior()


@pipeline(
    "KandinskyV22ControlnetPipeline",
    GROUP,
    "prompt",
    denoisers=UNET,
    **KANDINSKY,
    hint=torch.ones(1, 3, 64, 64),
)
def kandinsky_22_control() -> dict[str, Any]:
    return kandinsky_22(unet=kandinsky_hint_unet(), movq=autoencoders.vq(levels=4))


def kandinsky_hint_unet() -> Any:
    return unet(
        in_channels=8, out_channels=8, addition_embed_type="image_hint", encoder_hid_dim=32,
        encoder_hid_dim_type="image_proj", block_out_channels=(32, 64), **RESNET,
    )  # fmt: skip


@pipeline(
    "IFInpaintingPipeline",
    GROUP,
    denoisers=UNET,
    image=picture(8),
    mask_image=mask(8),
    strength=1.0,
    clean_caption=False,
)
def deepfloyd_if_inpaint() -> dict[str, Any]:
    return if_parts()


@pipeline(
    "IFInpaintingSuperResolutionPipeline",
    GROUP,
    denoisers=UNET,
    image=picture(8),
    original_image=picture(16),
    mask_image=mask(16),
    strength=1.0,
    clean_caption=False,
)
def deepfloyd_if_inpaint_upscale() -> dict[str, Any]:
    return deepfloyd_if_upscale()


@pipeline("AmusedImg2ImgPipeline", GROUP, image=picture(16), strength=1.0)
def amused_img2img() -> dict[str, Any]:
    return amused()


@pipeline("AmusedInpaintPipeline", GROUP, image=picture(16), mask_image=mask(16), strength=1.0)
def amused_inpaint() -> dict[str, Any]:
    return amused()


@pipeline("MarigoldIntrinsicsPipeline", GROUP, "prompt", denoisers=UNET, **MARIGOLD)
def marigold_intrinsics() -> dict[str, Any]:
    properties = {"target_names": ["albedo", "shading"]}
    parts = marigold(12, 8) | {"prediction_type": "intrinsics", "target_properties": properties}
    return {k: v for k, v in parts.items() if k not in ("scale_invariant", "shift_invariant")}


PRIOR_STEPS: dict[str, Any] = {"height": 64, "width": 64, "prior_num_inference_steps": 2}


def with_prior(parts: dict[str, Any]) -> dict[str, Any]:
    return parts | {f"prior_{name}": part for name, part in kandinsky_prior().items()}


@pipeline(
    "KandinskyV22Img2ImgCombinedPipeline",
    GROUP,
    denoisers=("prior_prior", "unet"),
    **PRIOR_STEPS,
    image=picture(64),
    strength=1.0,
)
def kandinsky_22_img2img_combined() -> dict[str, Any]:
    return with_prior(kandinsky_22())


@pipeline(
    "KandinskyV22InpaintCombinedPipeline",
    GROUP,
    denoisers=("prior_prior", "unet"),
    **PRIOR_STEPS,
    image=picture(64),
    mask_image=mask(64),
)
def kandinsky_22_inpaint_combined() -> dict[str, Any]:
    return with_prior(kandinsky_22_inpaint())


@pipeline("KandinskyCombinedPipeline", GROUP, denoisers=("prior_prior", "unet"), **PRIOR_STEPS)
def kandinsky_21_combined() -> dict[str, Any]:
    return with_prior(kandinsky_21())


@pipeline(
    "KandinskyInpaintPipeline",
    GROUP,
    denoisers=UNET,
    **KANDINSKY,
    image=picture(64),
    mask_image=mask(64),
)
def kandinsky_21_inpaint() -> dict[str, Any]:
    return kandinsky_21() | {"unet": kandinsky_unet(9, "text_image")}


@pipeline(
    "ShapEImg2ImgPipeline",
    GROUP,
    "prompt",
    denoisers=("prior",),
    image=picture(),
    frame_size=16,
    output_type="latent",
)
def shap_e_of_image() -> dict[str, Any]:
    from transformers import CLIPVisionModel

    parts = shap_e()
    model = prior(
        16, embedding_proj_dim=32, time_embed_dim=64, clip_embed_dim=64, additional_embeddings=0,
        time_embed_act_fn="gelu", norm_in_type="layer", embedding_proj_norm_type="layer",
        encoder_hid_proj_type=None, added_emb_type=None,
    )  # fmt: skip
    eyes = CLIPVisionModel(encoders.clip_vision().config)
    return {
        "prior": model, "image_encoder": eyes, "image_processor": encoders.clip_images(),
        "scheduler": parts["scheduler"], "shap_e_renderer": parts["shap_e_renderer"],
    }  # fmt: skip
