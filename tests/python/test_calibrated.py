"""Quantization with statistics: what it gains on the shipped UNet, and its rules."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ZOO_UNET, arrow_quant, gaussian, small_model, write_safetensors

from arrow_quant_v2 import (
    ArrowQuantV2,
    CalibrationStatistics,
    ConfigurationError,
    DiffusionQuantConfig,
    ModelNotFoundError,
    QuantizationError,
    QuantizationResult,
    ShapeMismatchError,
    ValidationError,
    open_quantized,
)

QUERY = "mid.attn.to_q.weight"
CONV = "mid.conv.weight"
HALF = "mid.half.weight"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def correlated(tokens: int, channels: int, seed: int) -> np.ndarray[Any, Any]:
    """Inputs that few directions explain, some channels far larger than others."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).standard_normal((channels // 4, channels))
    loud = np.exp(np.random.default_rng(2).normal(0, 1, channels))
    x = rng.standard_normal((tokens, channels // 4)) @ mixing
    return ((x + 0.3 * rng.standard_normal((tokens, channels))) * loud).astype(np.float32)


def small_statistics(path: Path, *, without: str = "", held_out: bool = True) -> Path:
    """Statistics of the small model's weights."""
    weights = {
        QUERY: gaussian(64, 256, seed=1),
        CONV: gaussian(32, 24, 3, 3, seed=3),
        HALF: gaussian(48, 160, seed=4, dtype=np.float16),
    }
    statistics = CalibrationStatistics(data="user")
    for name, weight in weights.items():
        if name == without:
            continue
        number = statistics.add_input({name: weight})
        channels = statistics.channels(number)
        for timestep in (100, 600):
            statistics.add(number, correlated(800, channels, timestep), timestep)
            if held_out:
                fresh = correlated(400, channels, timestep + 1)
                statistics.add(number, fresh, timestep, held_out=True)
    statistics.save(path)
    return path


def quantize(
    model: Path, out: Path, statistics: Path | None, **settings: Any
) -> QuantizationResult:
    plain = {"enable_spatial": False, "enable_time_aware": False, "min_accuracy": 0.0}
    config = DiffusionQuantConfig(**{**plain, "group_size": 64, **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ArrowQuantV2().quantize_diffusion_model(model, out, config, statistics=statistics)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and its statistics."""
    folder = tmp_path_factory.mktemp("small")
    return small_model(folder / "model"), small_statistics(folder / "statistics")


@pytest.fixture(scope="module")
def unet_statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers")
    from calibrated_unet import collect

    return collect(tmp_path_factory.mktemp("unet") / "statistics", images=4, steps=6)


def output_nmse(statistics: CalibrationStatistics, number: int, w: Any, v: Any) -> float:
    gram = statistics.gram(number, held_out=True).astype(np.float64)
    w = w.reshape(len(w), -1).astype(np.float64)
    d = v.reshape(len(w), -1).astype(np.float64) - w
    return float((d @ gram * d).sum() / (w @ gram * w).sum())


@pytest.mark.parametrize("bits", [2, 4])
def test_each_step_up_lowers_the_output_error_of_the_unet(
    bits: int, unet_statistics: Path, tmp_path: Path
) -> None:
    errors = {
        method: quantize(
            ZOO_UNET, tmp_path / method, unet_statistics, bit_width=bits, method=method
        )["output_nmse"]
        for method in ("rtn", "search", "gptq", "auto")
    }
    assert errors["search"] < 0.8 * errors["rtn"]
    assert errors["gptq"] < 0.7 * errors["search"]
    assert errors["auto"] <= errors["gptq"]


def test_recorded_output_errors_are_those_of_the_held_out_inputs(
    unet_statistics: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    result = quantize(ZOO_UNET, tmp_path / "out", unet_statistics, bit_width=4)
    original = load_file(ZOO_UNET / "unet" / WEIGHTS)
    statistics = CalibrationStatistics.load(unet_statistics)
    numbers = {name: i for i in range(len(statistics)) for name in statistics.layers(i)}
    quantized = open_quantized(tmp_path / "out")
    checked = 0
    for name, tensor in quantized.items():
        if not tensor.is_quantized:
            assert tensor.output_nmse is None
            continue
        expected = output_nmse(statistics, numbers[name], original[name], tensor.dequantize())
        assert tensor.output_nmse == pytest.approx(expected, rel=2e-3, abs=1e-7)
        assert tensor.output_cosine == pytest.approx(1 - expected / 2, abs=0.01)
        checked += 1
    assert checked > 30
    assert result["cosine_kind"] == "outputs"
    assert result["calibration"] == "neutral"
    weights = {t.name: np.prod(t.shape) for t in result.tensors if t.bit_width}
    cosines = [quantized[name].output_cosine for name in weights]
    assert result["cosine_similarity"] == pytest.approx(
        np.average(cosines, weights=list(weights.values())), abs=1e-6
    )
    assert result["min_cosine_similarity"] == pytest.approx(min(cosines), abs=1e-6)


def test_auto_takes_the_candidate_of_least_held_out_error(
    small: tuple[Path, Path], tmp_path: Path
) -> None:
    result = quantize(*[small[0], tmp_path / "out", small[1]], bit_width=2)
    for tensor in result.tensors:
        if tensor.bit_width is None:
            assert tensor.candidates == ()
            continue
        assert {c["method"] for c in tensor.candidates} == {"gptq", "r2q", "search"}
        tried = [c for c in tensor.candidates if "output_nmse" in c]
        best = min(tried, key=lambda c: float(c["output_nmse"]))
        assert (tensor.method, tensor.param_encoding) == (best["method"], best["param_encoding"])
        assert tensor.output_nmse == pytest.approx(best["output_nmse"], rel=1e-3)
    stored = open_quantized(tmp_path / "out")[QUERY]
    assert stored.candidates == list(
        result.tensors[[t.name for t in result.tensors].index(QUERY)].candidates
    )
    assert stored.method in ("gptq", "r2q", "search")
    assert f"{stored.method} in " in result["strategy"]


def test_text_tries_residual_binary_first(small: tuple[Path, Path], tmp_path: Path) -> None:
    first = {}
    for modality in ("text", "image"):
        result = quantize(small[0], tmp_path / modality, small[1], bit_width=2, modality=modality)
        first[modality] = next(t for t in result.tensors if t.name == QUERY).candidates[0]["method"]
    assert first == {"text": "r2q", "image": "gptq"}


def test_bytes_do_not_depend_on_threads(small: tuple[Path, Path], tmp_path: Path) -> None:
    trees = []
    for threads in (1, 3):
        out = tmp_path / str(threads)
        quantize(small[0], out, small[1], bit_width=2, num_threads=threads)
        trees.append({f.name: f.read_bytes() for f in out.rglob("*") if f.is_file()})
    assert trees[0] == trees[1]


def test_little_memory_degrades_and_still_quantizes(
    small: tuple[Path, Path], tmp_path: Path
) -> None:
    wide = gaussian(8, 4096, seed=5)
    write_safetensors(tmp_path / "model" / WEIGHTS, {"mid.wide.weight": wide})
    statistics = CalibrationStatistics()
    statistics.add(statistics.add_input({"mid.wide.weight": wide}), correlated(50, 4096, 1))
    statistics.save(tmp_path / "statistics")
    settings = {"bit_width": 4, "modality": "image", "max_memory_mb": 64}
    little = quantize(tmp_path / "model", tmp_path / "a", tmp_path / "statistics", **settings)
    assert little.tensors[0].method == "search"
    assert little.tensors[0].output_nmse is None
    settings["max_memory_mb"] = 2048
    much = quantize(tmp_path / "model", tmp_path / "b", tmp_path / "statistics", **settings)
    assert much.tensors[0].method == "gptq"
    assert much["output_nmse"] < 0.05


def test_min_accuracy_judges_outputs(small: tuple[Path, Path], tmp_path: Path) -> None:
    weights = quantize(small[0], tmp_path / "a", None, bit_width=2)
    outputs = quantize(small[0], tmp_path / "b", small[1], bit_width=2)
    assert outputs["cosine_similarity"] > weights["cosine_similarity"] + 0.01
    between = (outputs["cosine_similarity"] + weights["cosine_similarity"]) / 2
    assert (
        quantize(small[0], tmp_path / "c", None, bit_width=2, min_accuracy=between)["bit_width"]
        == 4
    )
    kept = quantize(small[0], tmp_path / "d", small[1], bit_width=2, min_accuracy=between)
    assert kept["bit_width"] == 2
    with pytest.raises(QuantizationError):
        quantize(
            small[0], tmp_path / "e", small[1], bit_width=2, min_accuracy=0.9999, fail_fast=True
        )


def test_layers_that_the_statistics_do_not_know_are_named(
    small: tuple[Path, Path], tmp_path: Path
) -> None:
    partial = small_statistics(tmp_path / "partial", without=CONV)
    result = quantize(small[0], tmp_path / "out", partial)
    assert any("data-free" in w and CONV in w for w in result["warnings"])
    unknown = next(t for t in result.tensors if t.name == CONV)
    assert (unknown.method, unknown.output_nmse, unknown.candidates) == ("search", None, ())


def test_statistics_without_held_out_inputs_say_so(
    small: tuple[Path, Path], tmp_path: Path
) -> None:
    seen = small_statistics(tmp_path / "seen", held_out=False)
    result = quantize(small[0], tmp_path / "out", seen)
    assert any("fitted to" in warning for warning in result["warnings"])
    assert result["output_nmse"] > 0


def test_statistics_of_another_model_are_refused(small: tuple[Path, Path], tmp_path: Path) -> None:
    other = shutil.copytree(small[0], tmp_path / "other")
    tensors = {QUERY: gaussian(64, 256, seed=99), CONV: gaussian(32, 24, 3, 3, seed=3)}
    write_safetensors(other / WEIGHTS, tensors)
    with pytest.raises(ShapeMismatchError, match=r"mid\.attn\.to_q.*was calibrated"):
        quantize(other, tmp_path / "out", small[1])
    write_safetensors(other / WEIGHTS, {CONV: gaussian(32, 24, 3, 3, seed=3)})
    with pytest.raises(ShapeMismatchError, match="the model has no such layer"):
        quantize(other, tmp_path / "out", small[1])
    assert not (tmp_path / "out").exists()
    statistics = CalibrationStatistics("vae")
    statistics.add_input({"decoder.weight": gaussian(4, 8)})
    statistics.save(tmp_path / "vae")
    with pytest.raises(ConfigurationError, match="component 'vae', which is not quantized"):
        quantize(ZOO_UNET, tmp_path / "out", tmp_path / "vae")


def test_damaged_and_missing_statistics_are_refused(
    small: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFoundError):
        quantize(small[0], tmp_path / "out", tmp_path / "none")
    content = bytearray(small[1].read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "damaged").write_bytes(content)
    with pytest.raises(ValidationError):
        quantize(small[0], tmp_path / "out", tmp_path / "damaged")
    assert not (tmp_path / "out").exists()


def test_the_command_takes_statistics_and_inspect_shows_the_choice(
    small: tuple[Path, Path], tmp_path: Path
) -> None:
    done = arrow_quant(
        "quantize",
        small[0],
        tmp_path / "out",
        "--stats",
        small[1],
        "--bit-width",
        "4",
        "--json",
        "--set",
        "enable_spatial=false",
        "--set",
        "enable_time_aware=false",
    )
    assert done.code == 0, done.err
    assert done.json["calibration"] == "user"
    shown = arrow_quant("inspect", tmp_path / "out", "--json").json["tensors"]
    entry = next(t for t in shown if t["name"] == QUERY)
    assert entry["method"] == "gptq"
    assert 0 < entry["output_nmse"] < 0.01
    tried = [c for c in entry["candidates"] if "row_gain" not in c]
    assert [c["method"] for c in tried].count("gptq") == 2
    assert len(entry["candidates"]) - len(tried) == 2, "two ways to rescale rows"
    metadata = open_quantized(tmp_path / "out").metadata
    assert metadata["calibration"]["kind"] == "user"
    assert metadata["calibration"]["held_out_tokens"] == 2400
    assert metadata["activation_stats"]["enabled"] is True
    assert len(metadata["activation_stats"]["mean"]) == 3
    assert json.dumps(metadata["time_aware_quant"]).startswith('{"enabled": false')
