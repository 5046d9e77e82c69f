"""Several models in one call and by one command: results in order, failures isolated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import arrow_quant, gaussian, small_model, write_safetensors

from arrow_quant_v2 import (
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    ModelNotFoundError,
    QuantizationError,
    QuantizationResult,
    open_quantized,
)

QUICK = DiffusionQuantConfig(modality="image", calibration_samples=0, min_accuracy=0.0)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    weights = gaussian(64, 64)
    weights[1, 2] = np.nan
    return write_safetensors(tmp_path / "broken.safetensors", {"a.weight": weights})


def test_results_and_exceptions_come_in_the_order_of_the_jobs(
    model: Path, broken: Path, tmp_path: Path
) -> None:
    two = DiffusionQuantConfig(**{**QUICK.model_dump(), "bit_width": 2})
    jobs = [
        (model, tmp_path / "a", QUICK),
        (tmp_path / "absent", tmp_path / "b", QUICK),
        (broken, tmp_path / "c", QUICK),
        (str(model), str(tmp_path / "d"), two),
        (model, tmp_path / "e"),
    ]
    results = ArrowQuantV2().quantize_many(jobs)
    kinds = [type(result) for result in results]
    assert kinds == [
        QuantizationResult,
        ModelNotFoundError,
        QuantizationError,
        QuantizationResult,
        QuantizationResult,
    ]
    assert results[2].tensor == "a.weight"
    assert open_quantized(tmp_path / "a")["mid.attn.to_q.weight"].bit_width == 4
    assert open_quantized(tmp_path / "d")["mid.attn.to_q.weight"].bit_width == 2
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "c").exists()


def test_progress_is_one_view_of_all_jobs(model: Path, broken: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    ArrowQuantV2().quantize_many(
        [(model, tmp_path / "a", QUICK), (broken, tmp_path / "b", QUICK), (model, tmp_path / "c")],
        progress_callback=lambda message, fraction: told.append((message, fraction)),
    )
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert any(message == "model: INT4 mid.attn.to_q.weight" for message, _ in told)
    assert ("broken.safetensors: failed", 2 / 3) in told
    assert [message for message, _ in told if message.endswith(": done")] == ["model: done"] * 2


def test_a_callback_that_raises_stops_all_jobs(model: Path, tmp_path: Path) -> None:
    def stop(message: str, fraction: float) -> None:
        if fraction > 0.5:
            raise KeyError(message)

    with pytest.raises(KeyError):
        ArrowQuantV2().quantize_many(
            [(model, tmp_path / name, QUICK) for name in "abc"], progress_callback=stop
        )
    assert (tmp_path / "a").is_dir()
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("jobs", "text"),
    [
        (["model"], "jobs[0]: expected (model_path, output_path, config or None), found 'model'"),
        ([("m", "a"), ("m",)], "jobs[1]: expected (model_path, output_path, config or None)"),
        ([("m", 3, None)], "jobs[0]: expected a path"),
        ([("m", "a"), ("n", "./a/")], "jobs[1] and jobs[0] write to one path: ./a/"),
    ],
)
def test_a_list_that_is_wrong_is_refused_before_anything_is_done(jobs: list, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ArrowQuantV2().quantize_many(jobs)
    assert text in str(caught.value)


def test_no_jobs_give_no_results() -> None:
    assert ArrowQuantV2().quantize_many([]) == []


def test_the_command_quantizes_several_models_and_reports_each(
    model: Path, broken: Path, tmp_path: Path
) -> None:
    other = small_model(tmp_path / "other")
    run = arrow_quant(
        *("batch", model, broken, other, tmp_path / "absent", "--into", tmp_path / "out"),
        *("--bit-width", "8", "--modality", "image", "--set", "calibration_samples=0"),
    )
    assert run.code == 5  # of the first failure
    assert [line.split()[0] for line in run.out.splitlines()[1:3]] == ["model", "other"]
    assert "error: " in run.err
    assert "element 66" in run.err
    assert "no such file or directory" in run.err
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["model", "other"]
    assert open_quantized(tmp_path / "out" / "other")["mid.conv.weight"].bit_width == 8


def test_the_command_writes_json_and_refuses_what_is_there(model: Path, tmp_path: Path) -> None:
    options = ("--into", tmp_path / "out", "--modality", "image", "--json")
    first = arrow_quant("batch", model, *options, "--set", "calibration_samples=0")
    assert first.code == 0
    assert first.json[0]["model"] == str(model)
    assert first.json[0]["result"]["bit_width"] == 4
    again = arrow_quant("batch", model, *options)
    assert again.code == 7
    assert again.json[0]["error"]["code"] == "output"
    assert arrow_quant("batch", model, *options, "--overwrite").code == 0


def test_the_command_refuses_models_of_one_name(model: Path, tmp_path: Path) -> None:
    twin = small_model(tmp_path / "elsewhere" / "model")
    run = arrow_quant("batch", model, twin, "--into", tmp_path / "out")
    assert run.code == 2
    assert "one path" in run.err
