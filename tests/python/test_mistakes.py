"""Mistakes of a newcomer: each is told at once, with the next step, and changes nothing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import arrow_quant, gaussian, small_model, write_safetensors
from typer.testing import CliRunner

from arrow_quant_v2 import (
    ArrowQuantError,
    ArrowQuantV2,
    CalibrationStatistics,
    ConfigurationError,
    DiffusionQuantConfig,
    ModelNotFoundError,
    OutputError,
    QuantizationError,
    export_safetensors,
    open_quantized,
)
from arrow_quant_v2.cli.main import COMMANDS, app

NO_CALL = "progress_callback: expected a function of a message and a fraction, found "
TOO_LONG = "a/" * 30 + "b" * 5000
DATA_FREE = DiffusionQuantConfig(calibration_samples=0, min_accuracy=0.0)


@pytest.fixture
def artefact(model: Path, tmp_path: Path) -> Path:
    ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "artefact", DATA_FREE)
    return tmp_path / "artefact"


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ModelNotFoundError, lambda q, m: q.quantize_diffusion_model(TOO_LONG, "out")),
        (ModelNotFoundError, lambda q, m: q.plan(TOO_LONG)),
        (ModelNotFoundError, lambda q, m: q.validate_quality(TOO_LONG, m)),
        (ModelNotFoundError, lambda q, m: q.validate_quality(m, TOO_LONG)),
        (ModelNotFoundError, lambda q, m: q.quantize(Path(TOO_LONG))),
        (ModelNotFoundError, lambda q, m: open_quantized(TOO_LONG)),
        (ModelNotFoundError, lambda q, m: export_safetensors(TOO_LONG, "out")),
        (ModelNotFoundError, lambda q, m: CalibrationStatistics.load(TOO_LONG)),
        (ConfigurationError, lambda q, m: DiffusionQuantConfig.from_yaml(TOO_LONG)),
        (OutputError, lambda q, m: q.quantize_diffusion_model(m, TOO_LONG)),
        (OutputError, lambda q, m: q.quantize_diffusion_model(m, "b" * 250)),
        (OutputError, lambda q, m: DATA_FREE.to_yaml(TOO_LONG)),
        (OutputError, lambda q, m: CalibrationStatistics().save(TOO_LONG)),
    ],
)
def test_a_path_that_is_too_long_gets_the_error_of_its_kind(
    error: type[ArrowQuantError],
    call: Callable[[ArrowQuantV2, Path], Any],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=r"[Ff]ile name too long"):
        call(ArrowQuantV2(), model)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (["--bit-width", "four"], "Invalid bit_width: 'four'. Must be 2, 4, or 8."),
        (["--bit-width", "4.0"], "Invalid bit_width: 4.0. Must be 2, 4, or 8."),
        (["--group-size", "x"], "Invalid group_size: 'x'. Must be a multiple of 8"),
        (["--min-accuracy", "85%"], "Invalid min_accuracy: '85%'. Must be a number from 0 to 1."),
        (["--threads", "two"], "Invalid num_threads: 'two'. Must be an integer"),
        (["--samples", "-1"], "Invalid calibration_samples: -1. Must be an integer"),
        (["--max-memory-mb", "1GB"], "Invalid max_memory_mb: '1GB'. Must be"),
    ],
)
def test_a_wrong_number_at_the_command_line_gets_the_sentence_of_its_setting(
    option: list[str], expected: str, model: Path
) -> None:
    for command in (["plan", str(model)], ["quantize", str(model), "out"], ["config"]):
        if "--samples" in option and command[0] == "plan":
            continue
        done = CliRunner().invoke(app, [*command, *option])
        assert done.exit_code == 2
        assert done.output.startswith(f"error: {expected}")
    done = CliRunner().invoke(app, ["export", "x", "y", "--format", "int8", "--threads", "two"])
    assert done.output.startswith("error: Invalid num_threads: 'two'.")


def test_numbers_at_the_command_line_are_applied() -> None:
    words = ["--bit-width", "2", "--min-accuracy", "0.5", "--samples", "7", "--threads", "3"]
    text = CliRunner().invoke(app, ["config", *words]).output
    for line in ("bit_width: 2", "min_accuracy: 0.5", "calibration_samples: 7", "num_threads: 3"):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    "call",
    [
        lambda q: q.quantize("model/", "out/", {"bits": 4}),
        lambda q: q.quantize("model/", "out/"),
        lambda q: q.quantize(model_path="model/", output_path="out/", config={"bits": 4}),
        lambda q: q.quantize(model_path="model/", output_path="out/", strategy="r2q"),
    ],
)
def test_the_call_of_v1_is_told_its_v2_form(call: Callable[[ArrowQuantV2], Any]) -> None:
    with pytest.raises(TypeError, match="quantize_diffusion_model") as caught:
        call(ArrowQuantV2())
    assert "arrow_quant_v2.v1" in str(caught.value)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda q, m: q.quantize_diffusion_model(m, "out", None, "yes"),
            "progress_callback: expec",
        ),
        (lambda q, m: q.quantize(np.ones((4, 8)), progress_callback=1), NO_CALL),
        (lambda q, m: q.validate_quality(m, m, progress_callback=1), NO_CALL),
        (lambda q, m: q.quantize_diffusion_model(None, "out"), "model_path: expected str or os."),
        (lambda q, m: q.quantize_diffusion_model(m, 3), "output_path: expected str or os."),
        (lambda q, m: open_quantized(None), "expected str or os."),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(
    call: Callable[[ArrowQuantV2, Path], Any], text: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(TypeError) as caught:
        call(ArrowQuantV2(), model)
    assert text in str(caught.value)


def test_results_tell_attributes_and_names_of_tensors(model: Path, tmp_path: Path) -> None:
    result = ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", DATA_FREE)
    with pytest.raises(AttributeError, match=r"result\['model_size_mb'\]"):
        result.size  # noqa: B018
    with pytest.raises(AttributeError, match=r"result\['bit_width'\]"):
        result.bit_width  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'shape'$"):
        result.shape  # noqa: B018
    tensors = open_quantized(tmp_path / "out")
    for known in (tensors, tensors.components[""]):
        with pytest.raises(KeyError, match=r"no tensor 'mid.conv'; did you mean 'mid.conv.weight'"):
            known["mid.conv"]


def test_original_and_artefact_in_the_wrong_order(model: Path, artefact: Path) -> None:
    with pytest.raises(ConfigurationError, match="the original is an artefact") as caught:
        ArrowQuantV2().validate_quality(artefact, model)
    assert "validate MODEL ARTEFACT" in caught.value.hint


def test_several_files_of_torch_are_named(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for name in ("ema.pt", "best.pt"):
        torch.save({"a.weight": torch.zeros(64, 64)}, tmp_path / name)
    with pytest.raises(ConfigurationError, match=r"best\.pt, ema\.pt"):
        ArrowQuantV2().plan(tmp_path)
    ArrowQuantV2().plan(tmp_path / "ema.pt", DiffusionQuantConfig(modality="image"))


def test_calibration_data_that_is_not_there(unet: Path, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    run = arrow_quant(
        *("quantize", unet, tmp_path / "out", "--samples", "5"),
        *("--data", tmp_path / "nothing.txt"),
    )
    assert run.code == 2
    assert f"{tmp_path / 'nothing.txt'}: no such calibration data" in run.err


def test_more_bits_are_not_tried_where_they_cannot_help(tmp_path: Path) -> None:
    weights = gaussian(64, 64)
    weights[3, 5] = np.inf
    model = write_safetensors(tmp_path / "m.safetensors", {"a.weight": weights})
    told: list[str] = []
    with pytest.raises(QuantizationError, match="element 197") as caught:
        ArrowQuantV2().quantize_diffusion_model(
            model,
            tmp_path / "out",
            DiffusionQuantConfig(bit_width=2, modality="image"),
            lambda message, fraction: told.append(message),
        )
    assert caught.value.tensor == "a.weight"
    assert not any("INT4" in message for message in told)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_broken_weight_is_named_before_the_model_runs(bad: float, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from safetensors.numpy import load_file, save_file
    from tiny_models import dit_pipeline

    model = dit_pipeline(tmp_path / "dit")
    file = model / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = "transformer_blocks.1.attn1.to_q.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][2, 1] = bad
    save_file(tensors, file, {"format": "pt"})
    told: list[str] = []
    element = 2 * tensors[name].shape[1] + 1
    with pytest.raises(QuantizationError, match=f"at element {element}") as caught:
        ArrowQuantV2().quantize_diffusion_model(
            model,
            tmp_path / "out",
            DiffusionQuantConfig(calibration_samples=5),
            lambda message, fraction: told.append(message),
        )
    assert caught.value.tensor == name
    assert "running the model" not in told
    assert not (tmp_path / "out").exists()


def test_every_attempt_moves_the_progress(unet: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = ArrowQuantV2().quantize_diffusion_model(
            unet,
            tmp_path / "out",
            DiffusionQuantConfig(bit_width=2, min_accuracy=1.0, calibration_samples=0),
            lambda message, fraction: told.append((message, fraction)),
        )
    assert [attempt["bit_width"] for attempt in result["attempts"]] == [2, 4, 8]
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    for bits in (2, 4, 8):
        own = [fraction for message, fraction in told if message.startswith(f"INT{bits} ")]
        assert own[-1] - own[0] > 0.03
    alone = ArrowQuantV2().quantize_diffusion_model(
        unet,
        tmp_path / "alone",
        DATA_FREE,
        lambda message, fraction: told.append((message, fraction)),
    )
    assert len(alone["attempts"]) == 1
    assert told[-2][1] > 0.95, "no attempt can follow, so this one takes all of it"


def help_of(*words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], terminal_width=80)
    assert done.exit_code == 0
    return done.output


def test_help_fits_80_columns_and_is_not_cut() -> None:
    overview = help_of()
    for command in COMMANDS:
        name = command.__name__
        (line,) = [line for line in overview.splitlines() if line.startswith(f"  {name} ")]
        assert not line.endswith("...")
        page = help_of(name)
        assert max(map(len, page.splitlines())) <= 80
        assert "[[" not in page
        assert "...}..." not in page


def test_the_plan_says_whether_the_model_will_run(
    unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.delenv("ARROW_QUANT_CALIBRATION_SAMPLES")
    plan = ArrowQuantV2().plan(unet)
    assert (plan.strategy, plan.calibration) == ("gptq + spatial", "neutral")
    assert plan.calibration_reason == "the model runs first, on 128 samples"
    file = ArrowQuantV2().plan(small_model(tmp_path / "m"))
    assert (file.strategy, file.calibration) == ("gptq + spatial (data-free: search)", "none")
    assert "expected a diffusers pipeline" in file.calibration_reason
    shown = arrow_quant("plan", unet).out
    assert re.search(r"^calibration +neutral \(the model runs first, on 128 ", shown, re.MULTILINE)


def test_metadata_is_shown_in_short_lines(unet_artefacts: dict[int, Path]) -> None:
    shown = arrow_quant("inspect", unet_artefacts[2], "--metadata").out
    assert max(map(len, shown.splitlines())) <= 80
    assert re.search(r"^is_diffusion_model +true$", shown, re.MULTILINE)
    assert re.search(r"^config$", shown, re.MULTILINE)
    assert re.search(r"^  bit_width +2$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["full"], 7, "the folder is not empty and not an artefact of ours"),
        (["artefact"], 7, "--overwrite"),
        (["model/inside"], 2, "input and output overlap"),
        (["out", "--layer-rule", "zz*=4"], 2, "matches no tensor"),
        (["out", "--components", "vea"], 2, "no component 'vea'"),
    ],
)
def test_a_mistake_about_output_or_settings_is_told_before_the_model_is_loaded(
    words: list[str], code: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("diffusers")
    from tiny_models import dit_pipeline

    from arrow_quant_v2.loaded_model import LoadedModel

    def load(self: LoadedModel) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.chdir(tmp_path)
    model = dit_pipeline(tmp_path / "model")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    ArrowQuantV2().quantize_diffusion_model(model, "artefact", DATA_FREE)
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(LoadedModel, "session", load)
    done = CliRunner().invoke(app, ["quantize", "model", *words, "--samples", "5"])
    assert (done.exit_code, text in done.output) == (code, True), done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    fine = CliRunner().invoke(app, ["quantize", "model", "out", "--samples", "5"])
    assert isinstance(fine.exception, SystemExit | AssertionError)
    assert "the model was loaded" in fine.output


def test_words_that_a_shell_made_of_a_pattern_are_recognised(model: Path, tmp_path: Path) -> None:
    extra = arrow_quant("plan", model, "other")
    assert extra.code == 2
    assert "Did the shell expand a pattern?" in extra.err
    rule = arrow_quant("plan", model, "--modality", "image", "--layer-rule", "my-model=8")
    assert rule.code == 2
    assert "Did the shell expand a pattern?" in rule.err
    pattern = arrow_quant("plan", model, "--modality", "image", "--layer-rule", "my*=8")
    assert "matches no tensor" in pattern.err
    assert "Did the shell" not in pattern.err


def test_an_export_without_a_format_lists_them(artefact: Path, tmp_path: Path) -> None:
    run = arrow_quant("export", artefact, tmp_path / "e")
    assert run.code == 2
    for name in ("--format", "safetensors", "packed", "int8", "comfyui"):
        assert name in run.err


def test_warnings_have_lines_and_those_of_libraries_stay_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from arrow_quant_v2.caller_warnings import warn_caller
    from arrow_quant_v2.cli.exit_codes import command

    def run() -> None:
        warnings.simplefilter("always")
        warnings.warn("pytree is deprecated", FutureWarning, stacklevel=1)
        warn_caller("no calibration\npip install 'arrow-quant-v2[models]'")

    show = warnings.showwarning
    try:
        with warnings.catch_warnings():
            command(run)()
    finally:
        warnings.showwarning = show
    assert capsys.readouterr().err == (
        "warning: no calibration\n  pip install 'arrow-quant-v2[models]'\n"
    )
