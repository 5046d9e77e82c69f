"""What validation reports of every tensor, and of the outputs of both models on the same inputs."""

from __future__ import annotations

import importlib.util
import math
import shutil
from pathlib import Path

import pytest
from support import arrow_quant, cosine, gaussian, nmse, small_model, write_safetensors

from arrow_quant_v2 import (
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    open_quantized,
)

CONFIG = DiffusionQuantConfig(modality="image", calibration_samples=0, min_accuracy=0.0)


def test_every_tensor_has_cosine_nmse_and_sqnr_and_the_mean_stands_beside_the_worst(
    model: Path, tmp_path: Path
) -> None:
    ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", CONFIG)
    result = ArrowQuantV2().validate_quality(model, tmp_path / "out")
    entry = {tensor["name"]: tensor for tensor in result["tensors"]}["mid.attn.to_q.weight"]
    source = gaussian(64, 256, seed=1)
    found = open_quantized(tmp_path / "out")["mid.attn.to_q.weight"].dequantize()
    assert entry["cosine"] == pytest.approx(cosine(source, found), abs=1e-6)
    assert entry["nmse"] == pytest.approx(nmse(source, found), rel=1e-4)
    assert entry["sqnr_db"] == pytest.approx(-10 * math.log10(entry["nmse"]))
    kept = {tensor["name"]: tensor for tensor in result["tensors"]}["position_ids"]
    assert (kept["bit_width"], kept["nmse"], kept["sqnr_db"]) == (None, 0.0, None)
    quantized = [tensor for tensor in result["tensors"] if tensor["bit_width"]]
    worst = min(quantized, key=lambda tensor: tensor["cosine"])
    assert result["worst_layer"] == worst["name"]
    assert result["min_cosine_similarity"] == worst["cosine"] < result["cosine_similarity"]
    assert result["level"] == "weights"
    assert result["output_nmse"] is None


def test_the_threshold_is_that_of_the_narrowest_codes(model: Path, tmp_path: Path) -> None:
    mixed = DiffusionQuantConfig(
        modality="image", calibration_samples=0, layer_rules={"mid.conv": 2}, bit_width=8
    )
    ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", mixed)
    result = ArrowQuantV2().validate_quality(model, tmp_path / "out")
    assert (result["bit_width"], result["min_accuracy"]) == (2, 0.70)


def test_another_configuration_file_or_manifest_is_noticed(model: Path, tmp_path: Path) -> None:
    ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", CONFIG)
    (tmp_path / "out" / "config.json").write_text('{"_class_name": "UNet2DModel", "x": 1}')
    run = arrow_quant("validate", model, tmp_path / "out")
    assert run.code == 6
    assert "config.json" in run.err


def test_an_original_with_other_weights_fails(model: Path, tmp_path: Path) -> None:
    ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", CONFIG)
    other = small_model(tmp_path / "other")
    write_safetensors(
        other / "diffusion_pytorch_model.safetensors",
        {
            "mid.attn.to_q.weight": gaussian(64, 256, seed=9),
            "mid.attn.to_q.bias": gaussian(64, seed=8),
        },
    )
    result = ArrowQuantV2().validate_quality(other, tmp_path / "out")
    assert not result["passed"]
    problems = "\n".join(result["problems"])
    assert "kept tensor 'mid.attn.to_q.bias' differs" in problems
    assert "extra tensor 'mid.conv.weight'" in problems
    worst = min(tensor["cosine"] for tensor in result["tensors"])
    assert worst < 0.1


@pytest.mark.parametrize("value", [{"int3": 0.5}, {"int2": 2}, 0.5, {"int2": "high"}])
def test_thresholds_are_checked_when_they_are_set(value: object) -> None:
    with pytest.raises(ConfigurationError, match="Invalid validation_thresholds"):
        DiffusionQuantConfig(validation_thresholds=value)


def test_thresholds_come_from_a_file_too(model: Path, tmp_path: Path) -> None:
    ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", CONFIG)
    (tmp_path / "c.yaml").write_text("validation_thresholds: {int4: 0.9999}\n")
    run = arrow_quant("validate", model, tmp_path / "out", "--config", tmp_path / "c.yaml")
    assert run.code == 6
    assert "at least 0.9999 wanted" in run.out


def test_a_level_that_does_not_exist_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Invalid level: 'all'\. Must be"):
        ArrowQuantV2().validate_quality(model, tmp_path, level="all")


def test_outputs_of_both_models_are_compared_by_diffusion_time(
    unet: Path, unet_artefacts: dict[int, Path]
) -> None:
    pytest.importorskip("diffusers")
    told: list[float] = []
    results = {
        bits: ArrowQuantV2().validate_quality(
            unet,
            unet_artefacts[bits],
            level="outputs",
            progress_callback=lambda _, fraction: told.append(fraction),
        )
        for bits in (2, 8)
    }
    assert results[8]["passed"]
    assert 0 < results[8]["output_nmse"] < 1e-3 < results[2]["output_nmse"] < 1
    assert results[8]["output_cosine_similarity"] > 0.999
    for result in results.values():
        bins = result["outputs"]
        assert len(bins) > 2
        assert [entry["begin"] for entry in bins] == sorted(entry["begin"] for entry in bins)
        assert bins[0]["begin"] >= 0
        assert bins[-1]["end"] <= 999
        nmses = [entry["nmse"] for entry in bins]
        assert min(nmses) <= result["output_nmse"] <= max(nmses)
    half = told[: len(told) // 2]
    assert half == sorted(half)
    assert "Outputs by diffusion time" in results[2]._repr_html_()


def test_outputs_of_a_model_in_half_precision_are_compared_too(unet: Path, tmp_path: Path) -> None:
    """Both run in float32, so what is measured is quantization and not half precision."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from safetensors.torch import load_file, save_file

    half = tmp_path / "half"
    shutil.copytree(unet, half)
    file = half / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = {name: tensor.to(torch.float16) for name, tensor in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
    config = DiffusionQuantConfig(bit_width=8, calibration_samples=0)
    ArrowQuantV2().quantize_diffusion_model(half, tmp_path / "out", config)
    assert {tensor.source_dtype for tensor in open_quantized(tmp_path / "out").values()} == {"F16"}
    run = arrow_quant("validate", half, tmp_path / "out", "--level", "outputs", "--json")
    assert run.code == 0, run.err
    assert run.json["passed"]
    assert 0 < run.json["output_nmse"] < 1e-3
    assert run.json["output_cosine_similarity"] > 0.999
    assert sum(entry["outputs"] for entry in run.json["outputs"]) > len(run.json["outputs"]) > 2


def test_a_model_that_cannot_be_run_is_a_clear_error(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", CONFIG)
    with pytest.raises(ConfigurationError, match="expected a diffusers pipeline"):
        ArrowQuantV2().validate_quality(model, tmp_path / "out", level="outputs")


def test_without_torch_the_error_says_what_to_install(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else find(name, *a)
    )
    with pytest.raises(ConfigurationError, match="needs torch") as caught:
        ArrowQuantV2().validate_quality(model, tmp_path / "out", level="outputs")
    assert "pip install 'arrow-quant-v2[models]'" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_damaged_artefact_is_an_error_before_anything_runs(model: Path, tmp_path: Path) -> None:
    ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", CONFIG)
    shutil.copy(model / "config.json", tmp_path / "out" / "weights.parquet")
    run = arrow_quant("validate", model, tmp_path / "out", "--level", "outputs")
    assert run.code == 6
    assert "weights.parquet" in run.err
