"""``python -m zoo.evaluate``: what it measures, says and refuses."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support import ROOT, safetensors_bytes
from typer.testing import CliRunner

from zoo.evaluate.__main__ import app
from zoo.evaluate.denoising import sample_distances
from zoo.evaluate.loader import UnknownModelError, load, subject_of
from zoo.evaluate.measure import Measurement, measure, report
from zoo.evaluate.report import Report
from zoo.evaluate.subject import Effort, Setting

pytest.importorskip("diffusers")

SMOKE = Setting(Effort.smoke())
#: Enough items for the loss; samples are not what is asked.
LOSS_ONLY = Setting(Effort(items=100, samples=1, steps=1))


def silent(_: str) -> None:
    """Show no progress."""


def numbers(tree: Any) -> list[float]:
    if isinstance(tree, dict):
        return [n for value in tree.values() for n in numbers(value)]
    if isinstance(tree, list):
        return [n for value in tree for n in numbers(value)]
    return [tree] if isinstance(tree, int | float) else []


@pytest.fixture(scope="module")
def reference(unet: Path) -> Measurement:
    return measure(load(unet), SMOKE, silent)


@pytest.fixture(scope="module")
def int2(reference: Measurement, unet_artefacts: dict[int, Path]) -> Report:
    return report(measure(load(unet_artefacts[2]), SMOKE, silent), reference, silent)


def test_int2_is_measurably_worse(int2: Report) -> None:
    assert int2.verdict == "worse"
    assert int2.relative_difference is not None
    assert int2.relative_difference.low > 0.05
    assert int2.distances["drift"] > 0.05
    assert int2.sample_distances["PSNR (dB)"] < 40
    assert int2.weight_bytes < int2.reference_weight_bytes / 8


def test_int8_is_statistically_equal(unet: Path, unet_artefacts: dict[int, Path]) -> None:
    float_model = measure(load(unet), LOSS_ONLY, silent)
    int8 = report(measure(load(unet_artefacts[8]), LOSS_ONLY, silent), float_model, silent)
    assert int8.verdict == "equal"
    assert int8.relative_difference is not None
    assert int8.relative_difference.high < 0.005
    assert 0 < int8.distances["drift"] < 0.005


def test_the_loss_is_that_of_the_model_card(unet: Path) -> None:
    card = json.loads((unet / "held_out.json").read_text())["held_out"]
    found = load(unet).subject.loss(Setting(Effort(items=200, samples=1, steps=1)))
    assert found.mean == pytest.approx(np.mean(card), rel=0.15)
    np.testing.assert_allclose(found.per_bin(), card, rtol=0.5)
    assert found.bin_labels[0] == "t 0 - 99"


def test_a_model_is_no_different_from_itself(reference: Measurement) -> None:
    found = report(reference, reference, silent)
    assert found.verdict == "equal"
    assert found.distances == {"drift": 0}
    assert found.sample_distances == {"relative error": 0, "PSNR (dB)": 100, "same digit": 1}


def test_the_json_has_finite_numbers_and_the_same_keys(int2: Report) -> None:
    tree = json.loads(int2.to_json())
    assert all(map(math.isfinite, numbers(tree)))
    assert list(tree)[:4] == ["format", "model", "reference", "modality"]
    assert set(tree["difference"]) == {"estimate", "low", "high"}
    assert [row["label"] for row in tree["bins"]][-1] == "t 900 - 999"
    assert sum(row["items"] for row in tree["bins"]) == SMOKE.effort.items


def test_every_process_prints_the_same_json(
    int2: Report, unet: Path, unet_artefacts: dict[int, Path], tmp_path: Path
) -> None:
    picture = tmp_path / "samples.png"
    command = [sys.executable, "-m", "zoo.evaluate", unet_artefacts[2], "--reference", unet]
    options = ["--json", "--smoke", "--samples-png", picture]
    first, second = (
        subprocess.run(
            list(map(str, [*command, *options])),
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        ).stdout
        for _ in range(2)
    )
    assert first == second
    # In this process the arrays of torch lie elsewhere, so that its sums may round otherwise.
    here, there = json.loads(int2.to_json()), json.loads(first)
    assert here.keys() == there.keys()
    assert there["loss"] == pytest.approx(here["loss"], rel=1e-4)
    for path in (picture, tmp_path / "samples-reference.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_table_fits_80_columns(int2: Report) -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(int2.table())
    text = console.file.getvalue()
    assert "WORSE" in text
    assert "…" not in text
    last = [line for line in text.splitlines() if line.startswith("t 900")]
    assert len(last) == 1
    assert last[0].count("%") == 2


def refusal(*arguments: str | Path) -> str:
    found = CliRunner().invoke(app, [str(a) for a in arguments])
    assert found.exit_code == 2
    return " ".join(found.stderr.split())


def test_what_cannot_be_evaluated_is_refused(tmp_path: Path) -> None:
    assert "no such directory" in refusal(tmp_path / "absent")
    assert "found neither model_index.json nor config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert "architectures are ['LlamaForCausalLM']; evaluation knows" in refusal(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "_class_name is 'FluxPipeline'; evaluation knows ['DDPM" in refusal(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(UnknownModelError, match="not JSON"):
        subject_of(tmp_path)


def test_a_model_that_gives_nan_is_an_error(unet: Path, tmp_path: Path) -> None:
    import safetensors.numpy

    for path in unet.rglob("*.json"):
        target = tmp_path / path.relative_to(unet)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    name = "unet/diffusion_pytorch_model.safetensors"
    tensors = safetensors.numpy.load_file(unet / name)
    tensors["conv_out.bias"] = np.full_like(tensors["conv_out.bias"], np.nan)
    (tmp_path / name).write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
    with pytest.raises(ValueError, match="loss of eps-MSE is nan"):
        measure(load(tmp_path), LOSS_ONLY, silent)


def test_distances_of_samples() -> None:
    ones = np.ones((2, 4, 4), np.float32)
    found = sample_distances(ones * 0.9, ones)
    assert found["relative error"] == pytest.approx(0.1)
    assert found["PSNR (dB)"] == pytest.approx(20)
