"""The calls of the contract on a real model: arguments, results, progress, fallback, validation."""

from __future__ import annotations

import json
import shutil
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from support import gaussian, small_model, write_safetensors

import arrow_quant_v2
from arrow_quant_v2 import (
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    ModelNotFoundError,
    OutputError,
    QuantizationError,
    ValidationError,
    open_quantized,
)

KEYS = {
    "quantized_path",
    "compression_ratio",
    "cosine_similarity",
    "model_size_mb",
    "modality",
    "bit_width",
    "quantization_time_s",
}


def test_the_package_exports_what_it_lists() -> None:
    for name in arrow_quant_v2.__all__:
        assert hasattr(arrow_quant_v2, name)


def test_the_mode_is_diffusion_or_base() -> None:
    assert ArrowQuantV2().mode == "diffusion"
    assert ArrowQuantV2(mode="base").mode == "base"
    with pytest.raises(ConfigurationError, match="Invalid mode: 'turbo'"):
        ArrowQuantV2(mode="turbo")


def test_a_model_quantizes_without_a_configuration(unet: Path, tmp_path: Path) -> None:
    result = ArrowQuantV2(mode="diffusion").quantize_diffusion_model(
        model_path=str(unet), output_path=str(tmp_path / "out")
    )
    assert set(result) >= KEYS
    assert result["bit_width"] == 4
    assert result["modality"] == "image"
    assert "DDPMPipeline" in result["modality_reason"]
    assert result["components"] == ["unet"]
    assert result["quantized_path"] == str(tmp_path / "out")
    assert 0.99 < result["cosine_similarity"] < 1
    assert result["min_cosine_similarity"] <= result["cosine_similarity"]
    assert result["calibration"] == "none"
    assert result["cosine_kind"] == "weights"
    weights = (tmp_path / "out" / "unet" / "weights.parquet").stat().st_size
    source = (unet / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert result["model_size_mb"] == weights / 1e6
    assert result["compression_ratio"] == source / weights
    total = sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert result["total_size_mb"] == total / 1e6
    assert result["worst_layer"] in open_quantized(tmp_path / "out")
    assert [attempt["bit_width"] for attempt in result["attempts"]] == [4]


def test_the_output_is_the_whole_pipeline(unet: Path, unet_artefacts: dict[int, Path]) -> None:
    for source in unet.rglob("*"):
        copy = unet_artefacts[4] / source.relative_to(unet)
        if source.is_file() and source.suffix != ".safetensors":
            assert copy.read_bytes() == source.read_bytes()
    assert not list(unet_artefacts[4].rglob("*.safetensors"))
    assert (unet_artefacts[4] / "manifest.json").is_file()


def test_positional_arguments_and_paths_work(model: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    config = DiffusionQuantConfig(modality="image")
    result = ArrowQuantV2().quantize_diffusion_model(
        model, tmp_path / "out", config, lambda message, fraction: seen.append(fraction)
    )
    assert seen[-1] == 1.0
    assert dict(result)["bit_width"] == 4


def test_bits_per_weight_count_every_parameter(model: Path, tmp_path: Path) -> None:
    config = DiffusionQuantConfig(modality="image", group_size=64)
    result = ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", config)
    tensors = [t for t in open_quantized(tmp_path / "out").values() if t.is_quantized]
    stored = sum(t.nbytes for t in tensors)
    weights = sum(t.size for t in tensors)
    assert result["bits_per_weight"] == pytest.approx(8 * stored / weights)
    assert result["bits_per_weight"] > 4.5


def test_v1_keys_name_their_v2_keys(unet: Path, tmp_path: Path) -> None:
    result = ArrowQuantV2().quantize_diffusion_model(unet, tmp_path / "out")
    for old, new in {
        "path": "quantized_path",
        "compression": "compression_ratio",
        "accuracy": "cosine_similarity",
        "size": "model_size_mb",
    }.items():
        with pytest.raises(KeyError, match=new):
            result[old]
    with pytest.raises(KeyError, match="the keys are"):
        result["nonsense"]
    assert json.loads(result.json())["bit_width"] == 4
    assert len(json.loads(result.json(tensors=True))["tensors"]) == len(result.tensors)
    assert "cosine_similarity" in repr(result)
    assert "<table>" in result._repr_html_()


def test_progress_is_monotonic_per_tensor_and_on_the_calling_thread(
    unet: Path, tmp_path: Path
) -> None:
    seen: list[tuple[str, float, int]] = []
    config = DiffusionQuantConfig(bit_width=2, min_accuracy=0.999)  # several attempts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ArrowQuantV2().quantize_diffusion_model(
            unet,
            tmp_path / "out",
            config,
            lambda message, fraction: seen.append((message, fraction, threading.get_ident())),
        )
    fractions = [fraction for _, fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert all(0.0 <= fraction <= 1.0 for fraction in fractions)
    assert {thread for _, _, thread in seen} == {threading.get_ident()}
    messages = " ".join(message for message, _, _ in seen)
    assert "mid_block.attentions.0.to_q.weight" in messages


def test_an_exception_of_the_callback_comes_out_as_it_is(model: Path, tmp_path: Path) -> None:
    class MineError(Exception):
        pass

    mine = MineError("stop")

    def callback(message: str, fraction: float) -> None:
        raise mine

    with pytest.raises(MineError) as caught:
        ArrowQuantV2().quantize_diffusion_model(
            model, tmp_path / "out", DiffusionQuantConfig(modality="image"), callback
        )
    assert caught.value is mine
    assert "callback" in [entry.name for entry in caught.traceback]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_the_callback_may_call_the_library(model: Path, tmp_path: Path) -> None:
    inner: list[float] = []

    def callback(message: str, fraction: float) -> None:
        if not inner:
            tensor = ArrowQuantV2(mode="base").quantize(gaussian(32, 128))
            inner.append(tensor.nmse)

    ArrowQuantV2().quantize_diffusion_model(
        model, tmp_path / "out", DiffusionQuantConfig(modality="image"), callback
    )
    assert inner


def test_the_fallback_adds_bits_until_the_accuracy_is_met(unet: Path, tmp_path: Path) -> None:
    config = DiffusionQuantConfig(bit_width=2, min_accuracy=0.99)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = ArrowQuantV2().quantize_diffusion_model(unet, tmp_path / "out", config)
    assert "INT4 was used instead of INT2" in [str(warning.message) for warning in caught]
    assert result["bit_width"] == 4
    assert result["meets_min_accuracy"]
    assert [attempt["bit_width"] for attempt in result["attempts"]] == [2, 4]
    assert result["attempts"][0]["cosine_similarity"] < 0.99
    widths = {t.bit_width for t in open_quantized(tmp_path / "out").values()}
    assert widths == {4, None}


def test_int8_is_returned_even_when_it_misses(unet: Path, tmp_path: Path) -> None:
    config = DiffusionQuantConfig(bit_width=8, min_accuracy=1.0)
    with pytest.warns(UserWarning, match="min_accuracy"):
        result = ArrowQuantV2().quantize_diffusion_model(unet, tmp_path / "out", config)
    assert not result["meets_min_accuracy"]
    assert (tmp_path / "out").is_dir()


def test_fail_fast_raises_with_the_numbers(unet: Path, tmp_path: Path) -> None:
    config = DiffusionQuantConfig(bit_width=2, min_accuracy=0.99, fail_fast=True)
    with pytest.raises(QuantizationError, match=r"INT2 reached .*0\.9") as caught:
        ArrowQuantV2().quantize_diffusion_model(unet, tmp_path / "out", config)
    assert caught.value.tensor
    assert not any(tmp_path.iterdir())


def test_the_fallback_can_raise_failing_layers_only(unet: Path, tmp_path: Path) -> None:
    plain = ArrowQuantV2().quantize_diffusion_model(
        unet, tmp_path / "two", DiffusionQuantConfig(bit_width=2, min_accuracy=0.0)
    )
    gate = sorted(t.cosine for t in plain.tensors if t.bit_width)[3]
    config = DiffusionQuantConfig(
        bit_width=2, min_accuracy=0.0, min_layer_accuracy=gate, fallback_scope="layer"
    )
    with pytest.warns(UserWarning, match="INT4 was used instead of INT2 for the layers that miss"):
        result = ArrowQuantV2().quantize_diffusion_model(unet, tmp_path / "mixed", config)
    quantized = sum(tensor.bit_width is not None for tensor in plain.tensors)
    assert result["layers_by_bit_width"] == {2: quantized - 3, 4: 3}
    assert result["min_cosine_similarity"] >= gate
    assert result["bit_width"] == 4
    raised = {tensor.name for tensor in result.tensors if tensor.bit_width == 4}
    assert raised == {t.name for t in plain.tensors if t.bit_width and t.cosine < gate}
    assert plain["bits_per_weight"] < result["bits_per_weight"] < plain["bits_per_weight"] + 2
    report = open_quantized(tmp_path / "mixed").manifest["report"]
    assert report["layers_by_bit_width"] == {"2": quantized - 3, "4": 3}
    assert [a["min_cosine_similarity"] for a in report["attempts"]] == [
        attempt["min_cosine_similarity"] for attempt in result["attempts"]
    ]
    config.fail_fast = True
    with pytest.raises(QuantizationError, match="in the worst layer, min_layer_accuracy is"):
        ArrowQuantV2().quantize_diffusion_model(unet, tmp_path / "no", config)


def test_an_artefact_of_ours_is_replaced_and_nothing_else_is(model: Path, tmp_path: Path) -> None:
    quantizer = ArrowQuantV2()
    config = DiffusionQuantConfig(modality="image", bit_width=8)
    quantizer.quantize_diffusion_model(model, tmp_path / "out", config)
    config.bit_width = 4
    quantizer.quantize_diffusion_model(model, tmp_path / "out", config)
    assert {t.bit_width for t in open_quantized(tmp_path / "out").values()} == {4, None}
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError):
        quantizer.quantize_diffusion_model(model, other, config)
    assert (other / "thesis.txt").read_text() == "years of work"
    quantizer.quantize_diffusion_model(model, tmp_path / "new" / "parents" / "out", config)


def test_a_configuration_is_a_configuration(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="found dict"):
        ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", {"bits": 4})
    config = DiffusionQuantConfig()
    config.layer_rules["x"] = 3
    with pytest.raises(ConfigurationError, match="Invalid layer_rules"):
        ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", config)
    with pytest.raises(TypeError):
        ArrowQuantV2().quantize_diffusion_model(3, tmp_path / "out")
    for path in ("", "a\0b"):
        with pytest.raises(ConfigurationError, match="expected a path"):
            ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "out")


def test_layer_rules_decide_and_are_never_silent(model: Path, tmp_path: Path) -> None:
    def config(rules: dict[str, int | str]) -> DiffusionQuantConfig:
        return DiffusionQuantConfig(modality="image", layer_rules=rules)

    rules = {"mid.*.weight": 8, "*.conv.weight": 2, "mid.half*": "keep"}
    result = ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", config(rules))
    tensors = open_quantized(tmp_path / "out")
    assert tensors["mid.attn.to_q.weight"].bit_width == 8
    assert tensors["mid.conv.weight"].bit_width == 2
    assert not tensors["mid.half.weight"].is_quantized
    reasons = {tensor.name: tensor.reason for tensor in result.tensors}
    assert "*.conv.weight" in reasons["mid.conv.weight"]
    with pytest.raises(ConfigurationError, match="matches no tensor"):
        ArrowQuantV2().plan(model, config({"zz": 8}))
    with pytest.raises(ConfigurationError, match=r"mid\.attn\.to_q\.bias"):
        ArrowQuantV2().plan(model, config({"mid.attn.to_q.bias": 8}))


def test_the_plan_says_what_the_run_then_does(unet: Path, tmp_path: Path) -> None:
    config = DiffusionQuantConfig(bit_width=4, group_size=64)
    plan = ArrowQuantV2().plan(unet, config)
    result = ArrowQuantV2().quantize_diffusion_model(unet, tmp_path / "out", config)
    planned = [(t.name, t.shape, t.bit_width, t.param_encoding, t.reason) for t in plan.tensors]
    done = [(t.name, t.shape, t.bit_width, t.param_encoding, t.reason) for t in result.tensors]
    assert planned == done
    assert plan.bits_per_weight == pytest.approx(result["bits_per_weight"])
    assert [t.planned_bytes for t in plan.tensors] == [t.stored_bytes for t in result.tensors]
    assert json.loads(plan.json())["modality"] == "image"


def test_a_model_of_unknown_modality_asks_for_one(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"a.weight": gaussian(64, 64)})
    with pytest.raises(ConfigurationError, match="modality"):
        ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "out")
    for modality in ("text", "code", "image", "audio"):
        config = DiffusionQuantConfig(modality=modality)
        result = ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "out", config)
        assert result["modality"] == modality
        strategy = "r2q + time-aware" if modality in ("text", "code") else "gptq + spatial"
        assert result["strategy"].startswith(strategy)


def test_nan_is_named_with_its_place_and_nothing_is_written(tmp_path: Path) -> None:
    weights = gaussian(64, 64)
    weights[3, 5] = np.nan
    path = write_safetensors(
        tmp_path / "m.safetensors", {"a.weight": gaussian(64, 64), "b.weight": weights}
    )
    with pytest.raises(QuantizationError, match="element 197") as caught:
        ArrowQuantV2().quantize_diffusion_model(
            path, tmp_path / "out", DiffusionQuantConfig(modality="image")
        )
    assert caught.value.tensor == "b.weight"
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_base_mode_runs_models_with_the_plain_method(model: Path, tmp_path: Path) -> None:
    quantizer = ArrowQuantV2(mode="base")
    config = DiffusionQuantConfig(modality="text")
    result = quantizer.quantize_model(model, tmp_path / "out", config)
    assert result["bit_width"] == 4
    recorded = open_quantized(tmp_path / "out").metadata["config"]
    assert not recorded["enable_time_aware"]
    assert not recorded["enable_spatial"]
    assert config.enable_time_aware  # the caller's own object is left alone


def test_threads_can_quantize_different_models_at_once(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    config = DiffusionQuantConfig(modality="image", num_threads=2)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            ArrowQuantV2().quantize_diffusion_model(model, tmp_path / f"out{number}", config)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    files = {(tmp_path / f"out{i}" / "weights.parquet").read_bytes() for i in range(4)}
    assert len(files) == 1


@pytest.mark.parametrize(("bits", "threshold"), [(2, 0.70), (4, 0.90), (8, 0.95)])
def test_validation_passes_a_sound_artefact(
    unet: Path, unet_artefacts: dict[int, Path], bits: int, threshold: float
) -> None:
    validation = ArrowQuantV2().validate_quality(
        original_path=unet, quantized_path=unet_artefacts[bits]
    )
    assert validation["passed"] is True
    assert validation["min_accuracy"] == threshold
    assert validation["cosine_similarity"] >= threshold
    assert validation["problems"] == []
    tensors = open_quantized(unet_artefacts[bits])
    assert {entry["name"] for entry in validation["tensors"]} == set(tensors)
    for entry in validation["tensors"]:
        assert entry["nmse"] == pytest.approx(tensors[entry["name"]].nmse, rel=1e-4, abs=1e-9)


def test_validation_misses_are_results_and_damage_is_an_error(
    unet: Path, unet_artefacts: dict[int, Path], tmp_path: Path
) -> None:
    quantizer = ArrowQuantV2()
    missed = quantizer.validate_quality(unet, unet_artefacts[2], min_accuracy=0.99)
    assert missed["passed"] is False
    config = DiffusionQuantConfig(validation_thresholds={"int2": 0.99})
    strict = quantizer.validate_quality(unet, unet_artefacts[2], config)
    assert (strict["passed"], strict["min_accuracy"]) == (False, 0.99)
    assert config.validation_thresholds == {"int2": 0.99, "int4": 0.90, "int8": 0.95}
    damaged = tmp_path / "damaged"
    shutil.copytree(unet_artefacts[4], damaged)
    weights = damaged / "unet" / "weights.parquet"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValidationError):
        quantizer.validate_quality(unet, damaged)


def test_validation_lists_missing_and_extra_tensors(model: Path, tmp_path: Path) -> None:
    config = DiffusionQuantConfig(modality="image")
    ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", config)
    other = write_safetensors(
        tmp_path / "other.safetensors",
        {"mid.attn.to_q.weight": gaussian(64, 256, seed=1), "new.weight": gaussian(64, 64)},
    )
    validation = ArrowQuantV2().validate_quality(other, tmp_path / "out")
    assert validation["passed"] is False
    problems = "\n".join(validation["problems"])
    assert "new.weight" in problems
    assert "mid.conv.weight" in problems


def test_what_is_not_there_is_not_found(tmp_path: Path, unet: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        ArrowQuantV2().quantize_diffusion_model(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        open_quantized(tmp_path / "absent")
    with pytest.raises(ModelNotFoundError):
        open_quantized(tmp_path)
    with pytest.raises(ModelNotFoundError):
        ArrowQuantV2().validate_quality(unet, tmp_path)
