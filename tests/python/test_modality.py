"""Modality detection: folders as well-known models have them, by class and by names alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT, arrow_quant, gaussian, write_safetensors

from arrow_quant_v2 import ArrowQuantV2, ConfigurationError, DiffusionQuantConfig

NO_CALIBRATION = {"calibration_samples": 0, "min_accuracy": 0.0}


@dataclass(frozen=True)
class Known:
    """What a published model looks like from outside."""

    name: str
    modality: str
    tensors: tuple[str, ...]  # some of its names, as published
    component: str = ""  # folder of the denoiser; empty: the model is one component
    pipeline: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    alone: bool = True  # whether tensor names tell the modality without any config


DIFFUSERS_UNET = (
    "conv_in.weight",
    "time_embedding.linear_1.weight",
    "down_blocks.0.resnets.0.conv1.weight",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    "mid_block.attentions.0.proj_in.weight",
    "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj.weight",
)

MODELS = [
    Known(
        "stable-diffusion-unet",
        "image",
        DIFFUSERS_UNET,
        "unet",
        "StableDiffusionPipeline",
        {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768},
    ),
    Known(
        "stable-diffusion-one-file",
        "image",
        (
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
            "model.diffusion_model.middle_block.0.in_layers.2.weight",
            "first_stage_model.encoder.conv_in.weight",
            "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
        ),
    ),
    Known(
        "sdxl",
        "image",
        (*DIFFUSERS_UNET, "add_embedding.linear_1.weight"),
        "unet",
        "StableDiffusionXLPipeline",
        {"_class_name": "UNet2DConditionModel", "addition_embed_type": "text_time"},
    ),
    Known(
        "sd3",
        "image",
        ("pos_embed.proj.weight", "transformer_blocks.0.attn.add_q_proj.weight"),
        "transformer",
        "StableDiffusion3Pipeline",
        {"_class_name": "SD3Transformer2DModel"},
    ),
    Known(
        "flux",
        "image",
        (
            "x_embedder.weight",
            "transformer_blocks.0.attn.to_q.weight",
            "single_transformer_blocks.0.proj_mlp.weight",
        ),
        "transformer",
        "FluxPipeline",
        {"_class_name": "FluxTransformer2DModel"},
    ),
    Known(
        "flux-one-file",
        "image",
        ("double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"),
    ),
    Known(
        "dit",
        "image",
        ("pos_embed.proj.weight", "transformer_blocks.0.attn1.to_q.weight", "proj_out_1.weight"),
        "transformer",
        "DiTPipeline",
        {"_class_name": "DiTTransformer2DModel"},
    ),
    Known(
        "dit-original",
        "image",
        (
            "x_embedder.proj.weight",
            "y_embedder.embedding_table.weight",
            "blocks.0.adaLN_modulation.1.weight",
            "final_layer.linear.weight",
        ),
    ),
    Known(
        "pixart-alpha",
        "image",
        (
            "pos_embed.proj.weight",
            "adaln_single.linear.weight",
            "caption_projection.linear_1.weight",
            "transformer_blocks.0.attn2.to_k.weight",
        ),
        "transformer",
        "PixArtAlphaPipeline",
        {"_class_name": "PixArtTransformer2DModel"},
    ),
    Known(
        "llada",
        "text",
        (
            "model.transformer.wte.weight",
            "model.transformer.blocks.0.q_proj.weight",
            "model.transformer.ff_out.weight",
        ),
        config={"architectures": ["LLaDAModelLM"], "model_type": "llada"},
    ),
    Known(
        "dream",
        "text",
        (
            "model.embed_tokens.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.0.mlp.gate_proj.weight",
            "lm_head.weight",
        ),
        config={"architectures": ["DreamModel"], "model_type": "Dream", "mask_token_id": 151666},
    ),
    Known(
        "DiffuCoder-7B",
        "code",
        ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"),
        config={"architectures": ["DreamModel"], "model_type": "Dream"},
        alone=False,  # the tensors are those of Dream
    ),
    Known(
        "stable-audio",
        "audio",
        (
            "preprocess_conv.weight",
            "global_proj.0.weight",
            "transformer_blocks.0.attn1.to_q.weight",
            "postprocess_conv.weight",
        ),
        "transformer",
        "StableAudioPipeline",
        {"_class_name": "StableAudioDiTModel"},
    ),
    Known(
        "stable-audio-original",
        "audio",
        (
            "model.model.preprocess_conv.weight",
            "model.model.transformer.layers.0.self_attn.to_qkv.weight",
        ),
    ),
    Known(
        "audioldm",
        "audio",
        (*DIFFUSERS_UNET, "class_embedding.weight"),
        "unet",
        "AudioLDMPipeline",
        {"_class_name": "UNet2DConditionModel", "class_embeddings_concat": True},
        alone=False,  # the tensors are those of Stable Diffusion
    ),
    Known(
        "audioldm2",
        "audio",
        DIFFUSERS_UNET,
        "unet",
        "AudioLDM2Pipeline",
        {"_class_name": "AudioLDM2UNet2DConditionModel"},
        alone=False,
    ),
    Known(
        "diffwave",
        "audio",
        (
            "input_projection.weight",
            "diffusion_embedding.projection1.weight",
            "spectrogram_upsampler.conv1.weight",
            "residual_layers.0.dilated_conv.weight",
            "residual_layers.0.diffusion_projection.weight",
        ),
    ),
]
BY_NAME = {known.name: known for known in MODELS}


def weights(known: Known) -> dict[str, Any]:
    return {name: gaussian(32, 64, seed=i) for i, name in enumerate(known.tensors)}


def as_published(known: Known, root: Path) -> Path:
    folder = root / known.name / known.component
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", weights(known))
    if known.config:
        (folder / "config.json").write_text(json.dumps(known.config))
    if known.pipeline:
        index = {"_class_name": known.pipeline, known.component: ["diffusers", "Some"]}
        (root / known.name / "model_index.json").write_text(json.dumps(index))
    return root / known.name


@pytest.mark.parametrize("known", [k for k in MODELS if k.config], ids=lambda k: k.name)
def test_a_published_model_is_recognized_and_the_rule_is_told(known: Known, tmp_path: Path) -> None:
    plan = ArrowQuantV2().plan(as_published(known, tmp_path))
    assert plan.modality == known.modality
    told = known.pipeline or known.config["architectures"][0]
    if known.name == "audioldm":
        told = "class_embeddings_concat"
    assert told in plan.modality_reason


@pytest.mark.parametrize("known", [k for k in MODELS if k.component], ids=lambda k: k.name)
def test_its_denoiser_alone_is_recognized_too(known: Known, tmp_path: Path) -> None:
    as_published(known, tmp_path)
    plan = ArrowQuantV2().plan(tmp_path / known.name / known.component)
    assert plan.modality == known.modality
    class_name = known.config["_class_name"]
    assert class_name in plan.modality_reason or known.name == "audioldm"


@pytest.mark.parametrize("known", [k for k in MODELS if k.alone], ids=lambda k: k.name)
def test_its_tensor_names_are_enough(known: Known, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "w.safetensors", weights(known))
    plan = ArrowQuantV2().plan(path)
    assert plan.modality == known.modality
    assert plan.modality_reason.startswith("tensor name ")
    assert plan.modality_reason.removeprefix("tensor name ") in known.tensors


def test_the_result_and_the_file_report_the_reason(tmp_path: Path) -> None:
    model = as_published(BY_NAME["pixart-alpha"], tmp_path)
    config = DiffusionQuantConfig(**NO_CALIBRATION)
    result = ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", config)
    assert result["modality"] == "image"
    assert result["modality_reason"] == "pipeline class PixArtAlphaPipeline"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["report"]["modality_reason"] == result["modality_reason"]


def test_names_of_two_families_are_ambiguous_and_the_error_says_what_to_pass(
    tmp_path: Path,
) -> None:
    path = write_safetensors(
        tmp_path / "w.safetensors",
        weights(BY_NAME["dream"]) | weights(BY_NAME["stable-diffusion-unet"]),
    )
    with pytest.raises(ConfigurationError, match="ambiguous: tensor names fit image, text") as why:
        ArrowQuantV2().plan(path)
    assert "modality='text', 'code', 'image' or 'audio'" in str(why.value)
    for modality in ("text", "image"):
        assert ArrowQuantV2().plan(path, DiffusionQuantConfig(modality=modality)).modality == (
            modality
        )


def test_a_model_that_nothing_tells_about_is_an_error_on_the_command_line_too(
    tmp_path: Path,
) -> None:
    path = write_safetensors(tmp_path / "w.safetensors", {"layers.0.weight": gaussian(64, 64)})
    run = arrow_quant("plan", path)
    assert run.code == 2
    assert run.err.splitlines() == [
        f"error: {path}: the modality cannot be told from metadata, class or tensor names",
        "hint: Pass modality='text', 'code', 'image' or 'audio' (command line: --modality image).",
        "hint: A model that is no diffusion model needs none: ArrowQuantV2(mode='base').",
    ]
    assert arrow_quant("plan", path, "--modality", "audio").code == 0


def test_stored_metadata_outweighs_the_class(tmp_path: Path) -> None:
    known = BY_NAME["stable-diffusion-unet"]
    model = as_published(known, tmp_path)
    weight_file = model / "unet" / "diffusion_pytorch_model.safetensors"
    write_safetensors(weight_file, weights(known), {"modality": "audio"})
    plan = ArrowQuantV2().plan(model)
    assert (plan.modality, plan.modality_reason) == ("audio", "safetensors metadata 'modality'")


def zoo_models() -> list[Path]:
    """Every shipped model: folders with an index of a pipeline or with a configuration."""
    found = []
    for folder in sorted((ROOT / "zoo" / "models").iterdir()):
        if (folder / "model_index.json").is_file() or (folder / "config.json").is_file():
            found.append(folder)
    return found


@pytest.mark.parametrize("folder", zoo_models(), ids=lambda folder: folder.name)
def test_every_zoo_model_is_what_its_name_says(folder: Path) -> None:
    plan = ArrowQuantV2().plan(folder)
    assert plan.modality == folder.name.partition("-")[0]
    assert plan.modality_reason
    assert np.isfinite(plan.bits_per_weight)
