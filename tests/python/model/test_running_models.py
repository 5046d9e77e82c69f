"""Pipelines as people store them: the plan promises calibration, it runs, and the result loads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, load_quantized

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_models import (  # noqa: E402
    dit_pipeline,
    masked_language_model,
    stable_diffusion_pipeline,
)

CONFIG = DiffusionQuantConfig(calibration_samples=2, min_accuracy=0.0, group_size=32)


def variant(root: Path) -> Path:
    from diffusers import DiTPipeline

    stored = DiTPipeline.from_pretrained(dit_pipeline(root.parent / "plain"))
    stored.to(dtype=torch.float16).save_pretrained(root, variant="fp16")
    return root


def sharded_variant(root: Path) -> Path:
    from diffusers import DiTPipeline

    stored = DiTPipeline.from_pretrained(dit_pipeline(root.parent / "plain"))
    stored.save_pretrained(root, variant="fp16", max_shard_size="40KB")
    return root


def files_of_torch(root: Path) -> Path:
    from diffusers import DiTPipeline

    stored = DiTPipeline.from_pretrained(dit_pipeline(root.parent / "plain"))
    stored.save_pretrained(root, safe_serialization=False)
    return root


def renamed(wrapper: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        dit_pipeline(root)
        path = root / "transformer" / "diffusion_pytorch_model.safetensors"
        save_file({wrapper + name: tensor for name, tensor in load_file(path).items()}, path)
        return root

    make.__name__ = "wrapped_by_" + wrapper.replace(".", "_")
    return make


def one_tensor_too_many(root: Path) -> Path:
    dit_pipeline(root)
    path = root / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path) | {"leftover": torch.ones(3)}, path)
    return root


def with_copies(root: Path) -> Path:
    dit_pipeline(root)
    (root / "transformer" / "model.onnx").write_bytes(b"x" * 1000)
    (root / "vae_decoder").mkdir()
    (root / "vae_decoder" / "model.onnx").write_bytes(b"x" * 1000)
    (root / "dit-all-in-one.safetensors").write_bytes(b"x" * 1000)
    return root


def linked(root: Path) -> Path:
    dit_pipeline(root)
    (root / "transformer").rename(root.parent / "elsewhere")
    (root / "transformer").symlink_to(root.parent / "elsewhere")
    return root


PIPELINES = [
    variant,
    sharded_variant,
    files_of_torch,
    renamed("_orig_mod."),
    renamed("module.model."),
    one_tensor_too_many,
    with_copies,
    linked,
]


def images(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        class_labels=[1],
        num_inference_steps=2,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    )
    return made.images


@pytest.mark.parametrize("component", ["", "transformer"])
@pytest.mark.parametrize("make", PIPELINES, ids=lambda f: f.__name__)
def test_what_the_plan_promises_is_what_happens(
    make: Callable[[Path], Path], component: str, tmp_path: Path
) -> None:
    root = make(tmp_path / "m")
    path = root / component
    quantizer = ArrowQuantV2()
    assert quantizer.plan(path, CONFIG).calibration == "neutral"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = quantizer.quantize_diffusion_model(path, tmp_path / "out", CONFIG)
        assert result["calibration"] == "neutral", result["calibration_reason"]
        loaded = load_quantized(tmp_path / "out")
    names = {t.name for t in quantizer.plan(path, CONFIG).tensors}
    assert "transformer_blocks.0.attn1.to_q.weight" in names
    if component:
        assert type(loaded).__name__ == "DiTTransformer2DModel"
        return
    assert np.isfinite(images(loaded)).all()
    checked = quantizer.validate_quality(root, tmp_path / "out", level="outputs", min_accuracy=0.5)
    assert checked["passed"], checked["problems"]


def test_a_tensor_too_many_is_one_warning(tmp_path: Path) -> None:
    root = one_tensor_too_many(tmp_path / "m")
    config = DiffusionQuantConfig(calibration_samples=0, min_accuracy=0.0)
    ArrowQuantV2().quantize_diffusion_model(root, tmp_path / "out", config)
    with pytest.warns(UserWarning, match="left out: leftover") as caught:
        load_quantized(tmp_path / "out")
    assert len([w for w in caught if "leftover" in str(w.message)]) == 1


def test_a_missing_tensor_is_named_and_the_model_does_not_run_on_random_weights(
    tmp_path: Path,
) -> None:
    root = dit_pipeline(tmp_path / "m")
    path = root / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    gone = "transformer_blocks.1.ff.net.2.weight"
    del state[gone]
    save_file(state, path)
    with pytest.warns(UserWarning, match=f"lack tensors of DiTTransformer2DModel: {gone}"):
        result = ArrowQuantV2().quantize_diffusion_model(root, tmp_path / "out", CONFIG)
    assert result["calibration"] == "none"
    with pytest.raises(Exception, match=f"first is '{gone}'"):
        load_quantized(tmp_path / "out")


def test_old_norms_of_a_text_model_calibrate_and_load(tmp_path: Path) -> None:
    root = masked_language_model(tmp_path / "m")
    path = root / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(old, path, metadata={"format": "pt"})
    result = ArrowQuantV2().quantize_diffusion_model(root, tmp_path / "out", CONFIG)
    assert result["calibration"] == "neutral", result["calibration_reason"]
    model = load_quantized(tmp_path / "out")
    logits = model(torch.tensor([[2, 7, 8, 3]])).logits
    assert logits.isfinite().all()
    checked = ArrowQuantV2().validate_quality(
        root, tmp_path / "out", level="outputs", min_accuracy=0.5
    )
    assert checked["passed"], checked["problems"]


def test_a_compiled_text_model_calibrates_and_loads(tmp_path: Path) -> None:
    root = masked_language_model(tmp_path / "m")
    path = root / "model.safetensors"
    state = {f"_orig_mod.{name}": tensor for name, tensor in load_file(path).items()}
    save_file(state, path, metadata={"format": "pt"})
    result = ArrowQuantV2().quantize_diffusion_model(root, tmp_path / "out", CONFIG)
    assert result["calibration"] == "neutral", result["calibration_reason"]
    assert load_quantized(tmp_path / "out")(torch.tensor([[2, 7, 3]])).logits.isfinite().all()


def test_a_kept_text_encoder_loads_without_its_wrapper(tmp_path: Path) -> None:
    root = stable_diffusion_pipeline(tmp_path / "m")
    path = root / "text_encoder" / "model.safetensors"
    expected = load_file(path)
    save_file({f"_orig_mod.{n}": t for n, t in expected.items()}, path, {"format": "pt"})
    ArrowQuantV2().quantize_diffusion_model(
        root, tmp_path / "out", DiffusionQuantConfig(calibration_samples=0, min_accuracy=0.0)
    )
    found = load_quantized(tmp_path / "out").text_encoder.state_dict()
    name = next(name for name in expected if name.endswith("q_proj.weight"))
    own = next(key for key in found if name.endswith(key) or key.endswith(name))
    torch.testing.assert_close(found[own], expected[name])


def test_a_compiled_module_takes_the_weights_of_its_plain_form(tmp_path: Path) -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 32))
    save_file(layers.state_dict(), tmp_path / "m.safetensors")
    config = DiffusionQuantConfig(modality="image", min_accuracy=0.0)
    ArrowQuantV2().quantize_diffusion_model(tmp_path / "m.safetensors", tmp_path / "out", config)
    module = torch.nn.Sequential()
    module._orig_mod = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 32))
    loaded = load_quantized(tmp_path / "out", module=module)
    assert type(loaded._orig_mod[0]).__name__ != "Linear"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_pipeline_in_half_precision_runs_as_it_is_loaded(dtype: Any, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    plain = stable_diffusion_pipeline(tmp_path / "plain")
    stored = StableDiffusionPipeline.from_pretrained(plain).to(dtype=dtype)
    stored.save_pretrained(tmp_path / "m")
    config = DiffusionQuantConfig(calibration_samples=0, min_accuracy=0.0, group_size=32)
    ArrowQuantV2().quantize_diffusion_model(tmp_path / "m", tmp_path / "out", config)
    pipeline = load_quantized(tmp_path / "out")
    kinds = {
        parameter.dtype
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)
        for parameter in part.parameters()
        if parameter.is_floating_point()
    }
    assert kinds == {dtype}
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline("abc", num_inference_steps=2, height=8, width=8, output_type="np").images
    assert np.isfinite(made).all()
    wide = load_quantized(tmp_path / "out", dtype=torch.float32)
    assert wide.vae.dtype == torch.float32


def test_a_component_that_is_missing_is_named_when_a_model_is_loaded(tmp_path: Path) -> None:
    import shutil

    root = dit_pipeline(tmp_path / "m")
    shutil.rmtree(root / "vae")
    with pytest.warns(UserWarning, match="components that are not there: vae"):
        ArrowQuantV2().quantize_diffusion_model(root, tmp_path / "out", CONFIG)
    with pytest.raises(Exception, match="names components that are not there: vae"):
        load_quantized(tmp_path / "out")
    assert isinstance(load_quantized(tmp_path / "out" / "transformer"), torch.nn.Module)


def test_what_a_library_keeps_in_float32_stays_so(tmp_path: Path) -> None:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    config = T5Config(
        d_model=64, d_kv=32, d_ff=128, num_layers=1, num_heads=2, vocab_size=32, dropout_rate=0
    )
    model = T5EncoderModel(config)
    feed = model.encoder.block[0].layer[1].DenseReluDense
    with torch.no_grad():
        feed.wo.weight.mul_(3e4)  # its products leave the range of float16
    model.half().save_pretrained(tmp_path / "m")
    settings = DiffusionQuantConfig(
        modality="image", calibration_samples=0, bit_width=8, min_accuracy=0.0
    )
    ArrowQuantV2().quantize_diffusion_model(tmp_path / "m", tmp_path / "out", settings)
    for compute in ("packed", "float"):
        loaded = load_quantized(tmp_path / "out", compute=compute)
        own = loaded.encoder.block[0].layer[1].DenseReluDense
        assert own.wo.weight.dtype == torch.float32
        assert own.wi.weight.dtype == torch.float16
        tokens = torch.tensor([[1, 2, 3]])
        with torch.no_grad():
            expected = T5EncoderModel.from_pretrained(tmp_path / "m", dtype=torch.float16)(tokens)
            found = loaded(tokens)
        assert expected.last_hidden_state.isfinite().all()
        torch.testing.assert_close(
            found.last_hidden_state.float(), expected.last_hidden_state.float(), atol=0.1, rtol=0.1
        )
