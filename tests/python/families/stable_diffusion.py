"""Stable Diffusion 1, 2, XL and what is made around their U-Nets."""

from __future__ import annotations

import inspect
from typing import Any

from families import autoencoders, encoders, words
from families.pictures import frames, mask, picture
from families.table import pipeline

GROUP = "stable diffusion"
UNET = ("unet",)
NO_CHECK: dict[str, Any] = {
    "safety_checker": None,
    "feature_extractor": None,
    "requires_safety_checker": False,
}


def unet_sizes(**more: Any) -> dict[str, Any]:
    return {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
        "block_out_channels": (16, 32), "norm_num_groups": 4, "cross_attention_dim": 32,
        "attention_head_dim": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    } | more  # fmt: skip


def unet(**more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**unet_sizes(**more))


def scheduler(kind: str = "DDIMScheduler", **more: Any) -> Any:
    import diffusers

    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return getattr(diffusers, kind)(**settings | more)


def text() -> dict[str, Any]:
    return {"text_encoder": encoders.clip(), "tokenizer": words.clip()}


def base(**more: Any) -> dict[str, Any]:
    steps = scheduler(clip_sample=False, set_alpha_to_one=False)
    parts = {"unet": unet(), "vae": autoencoders.kl(), "scheduler": steps}
    return parts | text() | NO_CHECK | more


@pipeline("StableDiffusionPipeline", GROUP, denoisers=UNET)
def stable_diffusion() -> dict[str, Any]:
    return base(scheduler=scheduler("PNDMScheduler", skip_prk_steps=True, steps_offset=1))


@pipeline(
    "StableDiffusionPipeline", GROUP, denoisers=UNET, notes="v prediction, linear projections"
)
def stable_diffusion_2() -> dict[str, Any]:
    linear = unet(use_linear_projection=True, attention_head_dim=(2, 4))
    return base(unet=linear, scheduler=scheduler(prediction_type="v_prediction"))


@pipeline(
    "StableDiffusionPipeline",
    GROUP,
    denoisers=UNET,
    guidance_scale=1.0,
    notes="SD Turbo: no guidance",
)
def stable_diffusion_turbo() -> dict[str, Any]:
    return base(scheduler=scheduler("EulerDiscreteScheduler", timestep_spacing="trailing"))


@pipeline("StableDiffusionImg2ImgPipeline", GROUP, denoisers=UNET, image=picture(), strength=1.0)
def stable_diffusion_img2img() -> dict[str, Any]:
    return base()


@pipeline(
    "StableDiffusionInpaintPipeline",
    GROUP,
    denoisers=UNET,
    image=picture(),
    mask_image=mask(),
    height=32,
    width=32,
)
def stable_diffusion_inpaint() -> dict[str, Any]:
    return base(unet=unet(in_channels=9))


@pipeline("StableDiffusionInstructPix2PixPipeline", GROUP, denoisers=UNET, image=picture())
def instruct_pix2pix() -> dict[str, Any]:
    return base(unet=unet(in_channels=8))


@pipeline("StableDiffusionImageVariationPipeline", GROUP, "prompt", denoisers=UNET, image=picture())
def image_variation() -> dict[str, Any]:
    parts = base(image_encoder=encoders.clip_vision(), feature_extractor=encoders.clip_images())
    return {k: v for k, v in parts.items() if k not in ("text_encoder", "tokenizer")}


@pipeline("StableDiffusionUpscalePipeline", GROUP, denoisers=UNET, image=picture(8))
def stable_diffusion_upscale() -> dict[str, Any]:
    parts = base(
        unet=unet(in_channels=7, num_class_embeds=100),
        low_res_scheduler=scheduler("DDPMScheduler"),
    )
    return {k: v for k, v in parts.items() if k != "requires_safety_checker"} | {
        "max_noise_level": 50
    }


@pipeline("StableDiffusionLatentUpscalePipeline", GROUP, denoisers=UNET, image=picture(16))
def stable_diffusion_latent_upscale() -> dict[str, Any]:
    down = "KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3
    up = *("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"
    model = unet(
        in_channels=8, out_channels=5, block_out_channels=(32, 32, 64, 64),
        time_cond_proj_dim=160, resnet_time_scale_shift="scale_shift",
        down_block_types=down, up_block_types=up,
        mid_block_type=None, attention_head_dim=8, conv_in_kernel=1, conv_out_kernel=1,
        act_fn="gelu", norm_num_groups=None, time_embedding_type="fourier",
        timestep_post_act="gelu", only_cross_attention=False,
    )  # fmt: skip
    steps = scheduler("EulerDiscreteScheduler", prediction_type="sample")
    return {"unet": model, "vae": autoencoders.kl(), "scheduler": steps} | text()


@pipeline("LatentConsistencyModelPipeline", GROUP, denoisers=UNET)
def latent_consistency() -> dict[str, Any]:
    return base(unet=unet(time_cond_proj_dim=32), scheduler=scheduler("LCMScheduler"))


@pipeline(
    "LatentConsistencyModelImg2ImgPipeline", GROUP, denoisers=UNET, image=picture(), strength=1.0
)
def latent_consistency_img2img() -> dict[str, Any]:
    return base(unet=unet(time_cond_proj_dim=32), scheduler=scheduler("LCMScheduler"))


@pipeline(
    "StableDiffusionPipeline",
    GROUP,
    denoisers=UNET,
    ip_adapter_image=picture(),
    notes="IP-Adapter weights are a file of their own, loaded after the pipeline",
    prepare=lambda pipe: load_ip_adapter(pipe),
)
def ip_adapter() -> dict[str, Any]:
    return base(image_encoder=encoders.clip_vision(), feature_extractor=encoders.clip_images())


def ip_adapter_weights(model: Any) -> dict[str, Any]:
    """The published layout of an IP-Adapter for a U-Net: projection, then keys and values."""
    import torch

    generator = torch.Generator().manual_seed(1)

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    width = model.config.cross_attention_dim
    projection = {
        "proj.weight": weight(4 * width, encoders.WIDTH),
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    keys = {}
    modules = dict(model.named_modules())
    number = 1
    for name in model.attn_processors:
        if name.endswith("attn2.processor"):
            rows = modules[name.removesuffix(".processor")].to_k.weight.shape[0]
            keys[f"{number}.to_k_ip.weight"] = weight(rows, width)
            keys[f"{number}.to_v_ip.weight"] = weight(rows, width)
            number += 2
    return {"image_proj": projection, "ip_adapter": keys}


def load_ip_adapter(pipe: Any) -> None:
    weights = ip_adapter_weights(pipe.unet)
    pipe.load_ip_adapter(weights, subfolder="", weight_name=None)


def control_net(**more: Any) -> Any:
    from diffusers import ControlNetModel

    sizes = unet_sizes(**more)
    for key in ("sample_size", "out_channels", "up_block_types"):
        sizes.pop(key)
    return ControlNetModel(conditioning_embedding_out_channels=(8, 16), **sizes)


@pipeline(
    "StableDiffusionControlNetPipeline", GROUP, denoisers=("unet", "controlnet"), image=picture(16)
)
def stable_diffusion_control_net() -> dict[str, Any]:
    return base(controlnet=control_net())


@pipeline(
    "StableDiffusionControlNetPipeline",
    GROUP,
    denoisers=("unet", "controlnet"),
    image=[picture(16), picture(16, 1)],
    notes="two ControlNets in one folder",
)
def two_control_nets() -> dict[str, Any]:
    from diffusers import MultiControlNetModel

    return base(controlnet=MultiControlNetModel([control_net(), control_net()]))


@pipeline(
    "StableDiffusionControlNetImg2ImgPipeline",
    GROUP,
    denoisers=("unet", "controlnet"),
    image=picture(16),
    control_image=picture(16),
    strength=1.0,
)
def control_net_img2img() -> dict[str, Any]:
    return base(controlnet=control_net())


@pipeline(
    "StableDiffusionControlNetInpaintPipeline",
    GROUP,
    denoisers=("unet", "controlnet"),
    image=picture(16),
    mask_image=mask(16),
    control_image=picture(16),
)
def control_net_inpaint() -> dict[str, Any]:
    return base(controlnet=control_net())


def adapter(kind: str = "full_adapter", factor: int = 2) -> Any:
    from diffusers import T2IAdapter

    return T2IAdapter(
        in_channels=3,
        channels=[16, 32],
        num_res_blocks=1,
        downscale_factor=factor,
        adapter_type=kind,
    )


@pipeline(
    "StableDiffusionAdapterPipeline",
    GROUP,
    denoisers=UNET,
    image=picture(16),
    notes="the adapter runs once per call",
)
def t2i_adapter() -> dict[str, Any]:
    down = "CrossAttnDownBlock2D", "DownBlock2D"
    model = unet(down_block_types=down, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    return base(unet=model, adapter=adapter())


def xl(**more: Any) -> dict[str, Any]:
    model = unet(
        attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 2), cross_attention_dim=64,
        projection_class_embeddings_input_dim=80,
    )  # fmt: skip
    steps = scheduler("EulerDiscreteScheduler", steps_offset=1, timestep_spacing="leading")
    parts = {"unet": model, "vae": autoencoders.kl(), "scheduler": steps}
    second = {"text_encoder_2": encoders.clip_projected(), "tokenizer_2": words.clip()}
    return parts | text() | second | more


def xl_unet(**more: Any) -> Any:
    return type(xl()["unet"]).from_config({**xl()["unet"].config, **more})


@pipeline("StableDiffusionXLPipeline", GROUP, denoisers=UNET)
def stable_diffusion_xl() -> dict[str, Any]:
    return xl()


@pipeline("StableDiffusionXLImg2ImgPipeline", GROUP, denoisers=UNET, image=picture(), strength=1.0)
def stable_diffusion_xl_img2img() -> dict[str, Any]:
    return xl()


@pipeline(
    "StableDiffusionXLInpaintPipeline",
    GROUP,
    denoisers=UNET,
    image=picture(),
    mask_image=mask(),
    height=32,
    width=32,
)
def stable_diffusion_xl_inpaint() -> dict[str, Any]:
    return xl(unet=xl_unet(in_channels=9))


@pipeline("StableDiffusionXLInstructPix2PixPipeline", GROUP, denoisers=UNET, image=picture())
def stable_diffusion_xl_instruct_pix2pix() -> dict[str, Any]:
    return xl(unet=xl_unet(in_channels=8))


def xl_control_net(kind: str = "ControlNetModel", **more: Any) -> Any:
    import diffusers

    return getattr(diffusers, kind).from_unet(
        xl()["unet"], conditioning_embedding_out_channels=(8, 16), **more
    )


@pipeline(
    "StableDiffusionXLControlNetPipeline",
    GROUP,
    denoisers=("unet", "controlnet"),
    image=picture(16),
)
def stable_diffusion_xl_control_net() -> dict[str, Any]:
    return xl(controlnet=xl_control_net())


@pipeline(
    "StableDiffusionXLControlNetUnionPipeline",
    GROUP,
    denoisers=("unet", "controlnet"),
    control_image=[picture(16)],
    control_mode=[0],
)
def stable_diffusion_xl_control_net_union() -> dict[str, Any]:
    from diffusers import ControlNetUnionModel

    known = inspect.signature(ControlNetUnionModel).parameters
    sizes = {k: v for k, v in xl()["unet"].config.items() if k in known}
    sizes |= {"num_trans_channel": 16, "num_trans_head": 2, "num_proj_channel": 16}
    return xl(controlnet=ControlNetUnionModel(**sizes, conditioning_embedding_out_channels=(8, 16)))


@pipeline(
    "StableDiffusionXLAdapterPipeline",
    GROUP,
    denoisers=UNET,
    image=picture(32),
    notes="the adapter runs once per call",
)
def t2i_adapter_xl() -> dict[str, Any]:
    return xl(adapter=adapter("full_adapter_xl", factor=4))


def motion(**more: Any) -> Any:
    from diffusers import MotionAdapter

    return MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=4,
        motion_num_attention_heads=2, motion_mid_block_layers_per_block=1, **more,
    )  # fmt: skip


ANIMATE = {"height": 16, "width": 16, "num_frames": 4}


def animated(**more: Any) -> dict[str, Any]:
    parts = {"unet": unet(), "vae": autoencoders.kl(), "scheduler": scheduler(clip_sample=False)}
    return parts | text() | {"motion_adapter": motion()} | more


@pipeline(
    "AnimateDiffPipeline",
    GROUP,
    denoisers=UNET,
    **ANIMATE,
    notes="the motion modules become a part of the U-Net",
)
def animate_diff() -> dict[str, Any]:
    return animated()


@pipeline(
    "AnimateDiffVideoToVideoPipeline",
    GROUP,
    denoisers=UNET,
    video=frames(4, 16),
    strength=1.0,
    height=16,
    width=16,
)
def animate_diff_video_to_video() -> dict[str, Any]:
    return animated()


@pipeline(
    "AnimateDiffControlNetPipeline",
    GROUP,
    denoisers=("unet", "controlnet"),
    conditioning_frames=frames(4, 16),
    **ANIMATE,
)
def animate_diff_control_net() -> dict[str, Any]:
    return animated(controlnet=control_net())


@pipeline("AnimateDiffSDXLPipeline", GROUP, denoisers=UNET, **ANIMATE)
def animate_diff_xl() -> dict[str, Any]:
    return xl(motion_adapter=motion(use_motion_mid_block=False))


@pipeline("StableDiffusionPAGPipeline", GROUP, denoisers=UNET, notes="perturbed attention")
def perturbed_attention() -> dict[str, Any]:
    return base()


@pipeline(
    "StableDiffusionGLIGENPipeline",
    GROUP,
    denoisers=UNET,
    gligen_phrases=["cat"],
    gligen_boxes=[[0.1, 0.1, 0.6, 0.6]],
)
def gligen() -> dict[str, Any]:
    return base(unet=unet(attention_type="gated"))


@pipeline(
    "StableDiffusionDepth2ImgPipeline",
    GROUP,
    denoisers=UNET,
    image=picture(),
    strength=1.0,
    depth_map=lambda pipe: depth(32),
)
def depth_to_image() -> dict[str, Any]:
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        image_size=16, patch_size=8, backbone_out_indices=[0, 1, 2, 3], fusion_hidden_size=8,
        neck_hidden_sizes=[8, 8, 8, 8], is_hybrid=False,
    )  # fmt: skip
    parts = base(
        unet=unet(in_channels=5),
        depth_estimator=DPTForDepthEstimation(config),
        feature_extractor=DPTImageProcessor(size={"height": 16, "width": 16}),
    )
    return {
        k: v for k, v in parts.items() if k not in ("safety_checker", "requires_safety_checker")
    }


def depth(size: int) -> Any:
    import torch

    return torch.linspace(0, 1, size * size).reshape(1, size, size)


@pipeline("StableUnCLIPImg2ImgPipeline", GROUP, denoisers=UNET, image=picture(), prompt="")
def stable_unclip_img2img() -> dict[str, Any]:
    return unclip_parts() | {
        "feature_extractor": encoders.clip_images(), "image_encoder": encoders.clip_vision(),
    }  # fmt: skip


def unclip_parts() -> dict[str, Any]:
    from diffusers import DDPMScheduler
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

    return {
        "unet": unet(class_embed_type="projection", projection_class_embeddings_input_dim=64),
        "vae": autoencoders.kl(),
        "scheduler": scheduler(prediction_type="v_prediction", set_alpha_to_one=False),
        "image_normalizer": StableUnCLIPImageNormalizer(embedding_dim=32),
        "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    } | text()


@pipeline(
    "StableUnCLIPPipeline",
    GROUP,
    denoisers=("prior", "unet"),
    prior_num_inference_steps=2,
    notes="two denoisers with schedules of their own",
)
def stable_unclip() -> dict[str, Any]:
    from diffusers import DDPMScheduler, PriorTransformer

    steps = DDPMScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample=True,
        clip_sample_range=5.0, beta_schedule="squaredcos_cap_v2",
    )  # fmt: skip
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=16, embedding_dim=32, num_layers=1,
        num_embeddings=words.LENGTH,
    )  # fmt: skip
    return unclip_parts() | {
        "prior_tokenizer": words.clip(), "prior_text_encoder": encoders.clip_projected(),
        "prior": prior, "prior_scheduler": steps,
    }  # fmt: skip


BOTH = ("unet", "controlnet")
PICTURE: dict[str, Any] = {"image": picture(16), "strength": 1.0}
PAINT: dict[str, Any] = {"image": picture(16), "mask_image": mask(16), "strength": 1.0}
CONTROL: dict[str, Any] = {"control_image": picture(16)}


@pipeline("StableDiffusionPAGImg2ImgPipeline", GROUP, denoisers=UNET, **PICTURE)
def perturbed_attention_img2img() -> dict[str, Any]:
    return base()


@pipeline("StableDiffusionPAGInpaintPipeline", GROUP, denoisers=UNET, **PAINT)
def perturbed_attention_inpaint() -> dict[str, Any]:
    return base()


@pipeline("StableDiffusionControlNetPAGPipeline", GROUP, denoisers=BOTH, image=picture(16))
def perturbed_attention_control_net() -> dict[str, Any]:
    return base(controlnet=control_net())


@pipeline("StableDiffusionControlNetPAGInpaintPipeline", GROUP, denoisers=BOTH, **PAINT, **CONTROL)
def perturbed_attention_control_net_inpaint() -> dict[str, Any]:
    return base(controlnet=control_net())


@pipeline("StableDiffusionXLPAGPipeline", GROUP, denoisers=UNET)
def perturbed_attention_xl() -> dict[str, Any]:
    return xl()


@pipeline("StableDiffusionXLPAGImg2ImgPipeline", GROUP, denoisers=UNET, **PICTURE)
def perturbed_attention_xl_img2img() -> dict[str, Any]:
    return xl()


@pipeline("StableDiffusionXLPAGInpaintPipeline", GROUP, denoisers=UNET, **PAINT)
def perturbed_attention_xl_inpaint() -> dict[str, Any]:
    return xl()


@pipeline("StableDiffusionXLControlNetPAGPipeline", GROUP, denoisers=BOTH, image=picture(16))
def perturbed_attention_xl_control_net() -> dict[str, Any]:
    return xl(controlnet=xl_control_net())


@pipeline(
    "StableDiffusionXLControlNetPAGImg2ImgPipeline", GROUP, denoisers=BOTH, **PICTURE, **CONTROL
)
def perturbed_attention_xl_control_net_img2img() -> dict[str, Any]:
    return xl(controlnet=xl_control_net())


@pipeline("StableDiffusionXLControlNetImg2ImgPipeline", GROUP, denoisers=BOTH, **PICTURE, **CONTROL)
def xl_control_net_img2img() -> dict[str, Any]:
    return xl(controlnet=xl_control_net())


@pipeline("StableDiffusionXLControlNetInpaintPipeline", GROUP, denoisers=BOTH, **PAINT, **CONTROL)
def xl_control_net_inpaint() -> dict[str, Any]:
    return xl(controlnet=xl_control_net())


UNION: dict[str, Any] = {"control_image": [picture(16)], "control_mode": [0]}


@pipeline(
    "StableDiffusionXLControlNetUnionImg2ImgPipeline", GROUP, denoisers=BOTH, **PICTURE, **UNION
)
def xl_control_net_union_img2img() -> dict[str, Any]:
    return stable_diffusion_xl_control_net_union()


@pipeline(
    "StableDiffusionXLControlNetUnionInpaintPipeline", GROUP, denoisers=BOTH, **PAINT, **UNION
)
def xl_control_net_union_inpaint() -> dict[str, Any]:
    return stable_diffusion_xl_control_net_union()


@pipeline("AnimateDiffPAGPipeline", GROUP, denoisers=UNET, **ANIMATE, pag_scale=3.0)
def animate_diff_perturbed() -> dict[str, Any]:
    return animated()


@pipeline(
    "AnimateDiffVideoToVideoControlNetPipeline",
    GROUP,
    denoisers=BOTH,
    video=frames(4, 16),
    conditioning_frames=frames(4, 16),
    strength=1.0,
)
def animate_diff_video_to_video_control_net() -> dict[str, Any]:
    return animated(controlnet=control_net())


@pipeline("PIAPipeline", GROUP, denoisers=UNET, image=picture(16), **ANIMATE)
def pia() -> dict[str, Any]:
    return animated(unet=unet(in_channels=9))


@pipeline("StableDiffusionPanoramaPipeline", GROUP, denoisers=UNET, height=16, width=16)
def panorama() -> dict[str, Any]:
    return base()


@pipeline("StableDiffusionLDM3DPipeline", GROUP, denoisers=UNET, notes="a picture and its depth")
def ldm_3d() -> dict[str, Any]:
    return base(vae=autoencoders.kl(in_channels=6, out_channels=6), image_encoder=None)


@pipeline("StableDiffusionSAGPipeline", GROUP, denoisers=UNET, height=16, width=16)
def self_attention_guidance() -> dict[str, Any]:
    return base()


@pipeline(
    "StableDiffusionDiffEditPipeline",
    GROUP,
    denoisers=UNET,
    mask_image=mask(8),
    image_latents=lambda pipe: latents(),
    notes="its mask and latents come from two other methods",
)
def diff_edit() -> dict[str, Any]:
    return base(inverse_scheduler=scheduler("DDIMInverseScheduler"))


def latents() -> Any:
    import torch

    return torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pipeline("SemanticStableDiffusionPipeline", GROUP, denoisers=UNET, editing_prompt=["dog"])
def semantic() -> dict[str, Any]:
    return base()


@pipeline(
    "StableDiffusionAttendAndExcitePipeline",
    GROUP,
    denoisers=UNET,
    token_indices=[1],
    max_iter_to_alter=0,
    attn_res=(4, 4),
)
def attend_and_excite() -> dict[str, Any]:
    return base()


@pipeline("VideoToVideoSDPipeline", GROUP, denoisers=UNET, video=frames(4, 16), strength=1.0)
def video_to_video() -> dict[str, Any]:
    from families.video import text_to_video

    return text_to_video()


@pipeline(
    "CycleDiffusionPipeline",
    GROUP,
    denoisers=UNET,
    image=picture(16),
    source_prompt="a dog",
    strength=1.0,
)
def cycle_diffusion() -> dict[str, Any]:
    return base()


@pipeline(
    "TextToVideoZeroSDXLPipeline",
    GROUP,
    denoisers=UNET,
    video_length=2,
    t0=0,
    t1=1,
    height=16,
    width=16,
)
def text_to_video_zero_xl() -> dict[str, Any]:
    return xl(scheduler=scheduler("DDIMScheduler"))
