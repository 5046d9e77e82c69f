"""Quantization runs the model first where it can, and says why where it cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import arrow_quant, small_model, write_safetensors
from tiny_models import dit_pipeline

from arrow_quant_v2 import (
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    ModelNotFoundError,
    open_quantized,
)


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dit_pipeline(tmp_path_factory.mktemp("models") / "dit")


def settings(samples: int = 5, **values: object) -> DiffusionQuantConfig:
    return DiffusionQuantConfig(calibration_samples=samples, min_accuracy=0.0, **values)


def stored(artefact: Path) -> dict[str, object]:
    parts = open_quantized(artefact).components.values()
    found: dict[str, object] = next(iter(parts)).metadata["calibration"]
    return found


@pytest.mark.filterwarnings("ignore:one calibration run gave fewer")
def test_a_pipeline_runs_before_it_is_quantized(dit: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    result = ArrowQuantV2().quantize_diffusion_model(
        dit, tmp_path / "q", settings(), lambda *step: seen.append(step)
    )
    assert (result["calibration"], result["calibration_reason"]) == ("neutral", "")
    assert result["cosine_kind"] == "outputs"
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert {"running the model", "calibrating"} <= {message for message, _ in seen}
    assert stored(tmp_path / "q")["kind"] == "neutral"
    again = ArrowQuantV2().quantize_diffusion_model(
        dit, tmp_path / "labels", settings(), calibration_data=[1, 2]
    )
    assert again["calibration"] == stored(tmp_path / "labels")["kind"] == "user"


def test_a_model_of_unknown_class_is_quantized_without_and_says_so(tmp_path: Path) -> None:
    file = write_safetensors(
        tmp_path / "model.safetensors", {"a.weight": np.ones((64, 64), np.float32)}
    )
    words = "model.safetensors is one weight file: its class is not known"
    with pytest.warns(UserWarning, match=f"quantized without calibration: {words}") as caught:
        result = ArrowQuantV2().quantize_diffusion_model(
            file, tmp_path / "q", settings(modality="image")
        )
    assert (result["calibration"], result["calibration_reason"]) == ("none", words)
    assert "arrow_quant_v2.torch.calibrate" in str(caught[0].message)
    assert stored(tmp_path / "q") == {"kind": "none", "reason": f"data-free: {words}"}
    with pytest.raises(ConfigurationError, match=words):
        ArrowQuantV2().quantize_diffusion_model(
            file, tmp_path / "q", settings(modality="image"), calibration_data=["a cat"]
        )


@pytest.mark.parametrize(
    ("mode", "values", "reason"),
    [
        ("diffusion", {"calibration_samples": 0}, "calibration_samples is 0"),
        ("base", {}, "the plain method does not need it"),
        ("diffusion", {"method": "rtn"}, "the plain method does not need it"),
        (
            "diffusion",
            {"enable_spatial": False, "enable_time_aware": False},
            "the plain method does not need it",
        ),
    ],
)
def test_the_plain_method_and_no_samples_do_not_run_the_model(
    mode: str,
    values: dict[str, object],
    reason: str,
    dit: Path,
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    config = DiffusionQuantConfig(**{"calibration_samples": 5, "min_accuracy": 0.0, **values})
    quantizer = ArrowQuantV2(mode=mode)  # type: ignore[arg-type]
    result = quantizer.quantize_diffusion_model(dit, tmp_path / "q", config)
    assert (result["calibration"], result["calibration_reason"]) == ("none", reason)
    assert stored(tmp_path / "q")["reason"] == f"data-free: {reason}"
    assert not [w for w in recwarn if "without calibration" in str(w.message)]


class EnoughError(Exception):
    pass


def test_an_exception_of_the_callback_stops_the_calibration(dit: Path, tmp_path: Path) -> None:
    def stop(message: str, fraction: float) -> None:
        if message == "running the model" and fraction > 0.1:
            raise EnoughError

    with pytest.raises(EnoughError):
        ArrowQuantV2().quantize_diffusion_model(dit, tmp_path / "q", settings(), stop)
    assert not list(tmp_path.iterdir())


def test_mistakes_are_told_before_anything_runs(dit: Path, tmp_path: Path) -> None:
    quantize = ArrowQuantV2().quantize_diffusion_model
    out = tmp_path / "q"
    with pytest.raises(ConfigurationError, match="both given"):
        quantize(dit, out, settings(), statistics=tmp_path / "s", calibration_data=[1])
    with pytest.raises(ConfigurationError, match="asks for a data-free run"):
        quantize(dit, out, settings(0), calibration_data=[1])
    with pytest.raises(ModelNotFoundError):
        quantize(tmp_path / "absent", out, settings())
    with pytest.raises(ConfigurationError, match="from 0 to 4, found 9"):
        quantize(dit, out, settings(), calibration_data=[9])
    assert not out.exists()


def test_without_torch_the_reason_is_the_missing_library(dit: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig\n"
        "config = DiffusionQuantConfig(calibration_samples=5)\n"
        f"result = ArrowQuantV2().quantize_diffusion_model({str(dit)!r}, 'q', config)\n"
        "print(result['calibration_reason'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a library of the model is missing: import of torch halted")
    assert "pip install 'arrow-quant-v2[models]'" in done.stderr


def test_the_command_takes_data_and_names_what_it_did(dit: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text('{"label": 3}\n{"label": 0}\n')
    run = arrow_quant(
        "quantize",
        dit,
        tmp_path / "q",
        "--data",
        tmp_path / "labels.jsonl",
        "--set",
        "calibration_samples=5",
        "--json",
        timeout=600,
    )
    assert run.code == 0, run.err
    assert run.json["calibration"] == "user"
    alone = small_model(tmp_path / "alone")
    plain = arrow_quant("quantize", alone, tmp_path / "p", "--set", "calibration_samples=5")
    assert plain.code == 0
    assert "warning: quantized without calibration: expected a diffusers pipeline" in plain.err
