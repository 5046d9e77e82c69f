"""One quantity has one name and one definition in plan, quantize, inspect, validate and results."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, arrow_quant

from arrow_quant_v2 import (
    ArrowQuantV2,
    CalibrationStatistics,
    DiffusionQuantConfig,
    QuantizationResult,
    ValidationResult,
    open_quantized,
)
from arrow_quant_v2.cli.groups import grouped
from arrow_quant_v2.plan.strategy import strategy_name, strategy_used

ZOO = ROOT / "zoo" / "models"
MB = 1e6
SHARED = (
    "cosine_similarity",
    "weight_cosine_similarity",
    "layer_output_cosine_similarity",
    "min_cosine_similarity",
)


@dataclass(frozen=True)
class Stages:
    """What every command says of one artefact, as JSON and as text."""

    plan: Any
    quantize: Any
    inspect: Any
    validate: Any
    texts: dict[str, str]
    artefact: Path


@pytest.fixture(scope="module", params=["image-unet", "image-dit", "text"])
def stages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    model = ZOO / request.param
    folder = tmp_path_factory.mktemp(request.param)
    out = folder / "out"
    runs = {
        "plan": ("plan", model, "--samples", "0"),
        "quantize": ("quantize", model, out, "--samples", "0", "--overwrite"),
        "inspect": ("inspect", out),
        "validate": ("validate", model, out),
    }
    texts, found = {}, {}
    for name, words in runs.items():
        text, facts = arrow_quant(*words), arrow_quant(*words, "--json")
        assert text.code == facts.code == 0, text.err + facts.err
        texts[name], found[name] = text.out, facts.json
    return Stages(**found, texts=texts, artefact=out)


def fact(text: str, name: str) -> str:
    match = re.search(rf"^{name} {{2,}}(.*)$", text, re.MULTILINE)
    assert match, f"no {name} in {text}"
    return match[1]


def test_all_commands_name_the_same_sizes(stages: Stages) -> None:
    weights = sum(path.stat().st_size for path in stages.artefact.rglob("*.parquet"))
    total = sum(path.stat().st_size for path in stages.artefact.rglob("*") if path.is_file())
    assert stages.quantize["model_size_mb"] * MB == pytest.approx(weights)
    assert stages.quantize["total_size_mb"] * MB == pytest.approx(total)
    for facts in (stages.inspect, stages.validate):
        assert (facts["weights_bytes"], facts["total_bytes"]) == (weights, total)
        assert facts["source_bytes"] == stages.plan["source_bytes"]
        ratio = facts["source_bytes"] / facts["weights_bytes"]
        assert stages.quantize["compression_ratio"] == pytest.approx(ratio)
    for name in ("weights", "whole model"):
        assert len({fact(stages.texts[c], name) for c in ("quantize", "inspect", "validate")}) == 1


def test_the_plan_predicts_the_size_of_the_weight_files(stages: Stages) -> None:
    assert stages.plan["planned_weights_bytes"] == pytest.approx(
        stages.inspect["weights_bytes"], rel=0.002
    )
    assert stages.plan["planned_bytes"] == stages.inspect["stored_bytes"]
    assert stages.plan["bits_per_weight"] == pytest.approx(stages.quantize["bits_per_weight"])
    said = fact(stages.texts["plan"], "weights")
    assert said == f"about {fact(stages.texts['inspect'], 'weights')}"


def test_all_commands_name_the_same_worst_layer_and_cosines(stages: Stages) -> None:
    for facts in (stages.inspect, stages.validate):
        assert facts["worst_layer"] == stages.quantize["worst_layer"]
        assert facts["cosine_kind"] == stages.quantize["cosine_kind"] == "weights"
        for key in SHARED:
            assert facts[key] == pytest.approx(stages.quantize[key], abs=1e-6), key
    said = {fact(stages.texts[c], "worst layer") for c in ("quantize", "inspect", "validate")}
    assert len(said) == 1


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The text model and an artefact of it that calibration on two samples made."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("calibrated")
    run = arrow_quant("calibrate", ZOO / "text", folder / "s.stats", "--samples", "2", timeout=600)
    assert run.code == 0, run.err
    return folder / "s.stats", folder


@pytest.fixture(scope="module")
def with_outputs(
    calibrated: tuple[Path, Path],
) -> tuple[QuantizationResult, ValidationResult, Path]:
    statistics, folder = calibrated
    out = folder / "out"
    config = DiffusionQuantConfig(bit_width=2, min_accuracy=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two samples are few, and the warnings say so
        result = ArrowQuantV2().quantize_diffusion_model(
            ZOO / "text", out, config, statistics=statistics
        )
    return result, ArrowQuantV2().validate_quality(ZOO / "text", out), out


def test_outputs_and_weights_have_keys_of_their_own_and_the_results_agree(
    with_outputs: tuple[QuantizationResult, ValidationResult, Path],
) -> None:
    result, validation, out = with_outputs
    shown = arrow_quant("inspect", out, "--json").json
    for facts in (validation, shown):
        assert facts["cosine_kind"] == result["cosine_kind"] == "outputs"
        assert facts["worst_layer"] == result["worst_layer"]
        for key in SHARED:
            assert facts[key] == pytest.approx(result[key], abs=1e-6), key
    assert result["cosine_similarity"] == pytest.approx(result["layer_output_cosine_similarity"])
    assert result["weight_cosine_similarity"] < result["cosine_similarity"] - 0.01


def test_the_plan_predicts_what_calibration_adds_to_the_weight_files(
    calibrated: tuple[Path, Path], with_outputs: tuple[QuantizationResult, ValidationResult, Path]
) -> None:
    plan = ArrowQuantV2().plan(
        ZOO / "text", DiffusionQuantConfig(bit_width=2), statistics=calibrated[0]
    )
    assert plan.planned_weights_bytes / MB == pytest.approx(
        with_outputs[0]["model_size_mb"], rel=0.02
    )


def test_a_plan_with_statistics_names_them_and_not_the_samples_of_a_run(
    calibrated: tuple[Path, Path],
) -> None:
    statistics = CalibrationStatistics.load(calibrated[0])
    tokens = max(statistics.tokens(number) for number in range(len(statistics)))
    layers = sum(len(statistics.layers(number)) for number in range(len(statistics)))
    plan = ArrowQuantV2().plan(ZOO / "text", statistics=calibrated[0])
    assert plan.calibration == "neutral"
    assert plan.calibration_reason.startswith(
        f"statistics of {layers} layers, up to {tokens} tokens each: "
    )
    shown = arrow_quant("plan", ZOO / "text", "--stats", calibrated[0])
    assert shown.code == 0, shown.err
    assert "128 samples" not in shown.out
    samples = {"ARROW_QUANT_CALIBRATION_SAMPLES": "5"}
    data = arrow_quant("plan", ZOO / "text", "--data", "x.txt", env=samples)
    assert "user (the model runs first, on your data)" in data.out
    wrong = arrow_quant("plan", ZOO / "text", "--stats", ZOO / "text" / "config.json")
    assert wrong.code == 4


def test_a_failed_validation_names_the_check(
    with_outputs: tuple[QuantizationResult, ValidationResult, Path],
) -> None:
    result, validation, out = with_outputs
    assert (validation["passed"], validation["failed_checks"]) == (True, [])
    missed = arrow_quant("validate", ZOO / "text", out, "--min-accuracy", "0.99", "--json")
    assert (missed.code, missed.json["failed_checks"]) == (6, ["weights cosine"])
    assert missed.json["cosine_similarity"] == pytest.approx(result["cosine_similarity"], abs=1e-6)
    text = arrow_quant("validate", ZOO / "text", out, "--min-accuracy", "0.99").out
    assert fact(text, "result") == "FAILED: weights cosine"


def test_an_artefact_of_another_model_is_told_in_one_sentence(stages: Stages) -> None:
    other = ZOO / ("text" if "dit" in str(stages.artefact) else "image-dit")
    run = arrow_quant("validate", other, stages.artefact)
    assert run.code == 6
    assert fact(run.out, "result") == "FAILED: original, structure"
    assert len(run.out.splitlines()) < 10
    assert "made from another model" in run.out
    assert "cosine" not in run.out


def test_a_model_that_was_saved_anew_is_still_the_original(model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    config = DiffusionQuantConfig(modality="image", calibration_samples=0)
    ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", config)
    file = model / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file), file, {"note": "saved anew"})
    result = ArrowQuantV2().validate_quality(model, tmp_path / "out")
    assert (result["passed"], result["failed_checks"]) == (True, [])


@pytest.mark.parametrize(
    ("modality", "settings", "name"),
    [
        ("text", {}, "r2q + time-aware"),
        ("text", {"enable_time_aware": False}, "r2q"),
        ("image", {}, "gptq + spatial"),
        ("image", {"enable_spatial": False}, "gptq"),
        ("image", {"deployment_profile": "edge"}, "gptq"),
        ("image", {"enable_spatial": False, "enable_time_aware": False}, "plain"),
    ],
)
def test_a_strategy_names_no_feature_that_is_turned_off(
    modality: str, settings: dict[str, Any], name: str
) -> None:
    assert strategy_name(modality, DiffusionQuantConfig(**settings)) == name


def test_the_strategy_of_a_result_says_what_the_layers_have() -> None:
    config = DiffusionQuantConfig()
    used = strategy_used("text", config, {"search": 1, "gptq": 16}, equalized=5, by_time=0)
    assert used == (
        "r2q + time-aware (tried; used: gptq in 16 layers, search in 1 layer, "
        "equalization in 5 layers)"
    )
    forced = strategy_used(
        "text", DiffusionQuantConfig(method="r2q"), {"r2q": 3}, equalized=0, by_time=2
    )
    assert forced == "r2q + time-aware (used: r2q in 3 layers, parameters by time in 2 layers)"


def test_an_artefact_with_several_widths_is_called_mixed(model: Path, tmp_path: Path) -> None:
    config = DiffusionQuantConfig(
        modality="image", calibration_samples=0, bit_width=8, layer_rules={"mid.conv": 2}
    )
    result = ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", config)
    bits = f"mixed, {result['bits_per_weight']:.3f} bits per weight"
    assert repr(result).startswith(f"QuantizationResult: {bits}, ")
    words = ("--bit-width", "8", "--layer-rule", "mid.conv=2", "--modality", "image")
    run = arrow_quant("quantize", model, tmp_path / "again", *words)
    assert fact(run.out, "bit width") == bits
    assert "INT8" not in repr(result).splitlines()[0]


def test_the_worst_layers_are_first_in_inspect(stages: Stages) -> None:
    shown = arrow_quant("inspect", stages.artefact, "--all", env={"COLUMNS": "200"}).out
    rows = shown.partition("\n\n")[0].splitlines()[1:]
    assert rows[0].split()[0] == stages.inspect["worst_layer"]
    cosines = [float(row.split()[-3]) for row in rows if row.split()[-3].startswith("0.")]
    assert len(cosines) == sum(t["bit_width"] is not None for t in stages.inspect["tensors"])
    assert cosines == sorted(cosines)
    assert len(rows) == len(stages.inspect["tensors"])


def test_tables_name_tensors_by_pattern_and_all_of_them_on_request(stages: Stages) -> None:
    quantized = [t for t in stages.plan["tensors"] if t["bit_width"]]
    for command in ("plan", "inspect"):
        table = stages.texts[command].partition("\n\n")[0]
        counts = [int(count) for count in re.findall(r" x (\d+)(?: |$)", table, re.MULTILINE)]
        names = [line for line in table.splitlines() if re.match(r"\S+(\.weight|_weight)\b", line)]
        assert sum(counts) + len(names) - len(counts) == len(quantized)
        assert len(names) < len(quantized)
        assert max(map(len, stages.texts[command].splitlines())) <= 80


def test_patterns_name_ranges_of_numbers() -> None:
    names = [f"blocks.{i}.to_q" for i in range(24)] + ["a.0.b", "a.7.b", "c1.x", "c2.x"]
    labels = [group.label for group in grouped(names, str, lambda _: 0)]
    assert labels == ["blocks.0-23.to_q x 24", "a.0,7.b x 2", "c1.x", "c2.x"]


def test_tables_follow_columns_when_nobody_has_a_terminal(stages: Stages) -> None:
    wide = arrow_quant("inspect", stages.artefact, env={"COLUMNS": "160"}).out
    narrow = arrow_quant("inspect", stages.artefact, env={"COLUMNS": "60"}).out
    assert 80 < max(map(len, wide.splitlines())) <= 160
    assert len(wide.splitlines()) < len(narrow.splitlines())
    facts = narrow.partition("\n\n")[2]
    assert max(map(len, facts.splitlines())) <= 60


def test_the_next_step_is_printed(stages: Stages) -> None:
    words = fact(stages.texts["quantize"], "next")
    assert words.startswith("arrow-quant validate ")


def test_what_open_quantized_stores_is_what_sizes_are_about(stages: Stages) -> None:
    model = open_quantized(stages.artefact)
    stored = sum(sum(part.stored_bytes.values()) for part in model.components.values())
    assert stored == stages.inspect["stored_bytes"] < stages.inspect["weights_bytes"]
