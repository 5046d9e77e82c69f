"""A model of the Hub by its name, from a cache as huggingface_hub writes it, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import arrow_quant, gaussian, write_safetensors

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, ModelNotFoundError, open_quantized

pytest.importorskip("huggingface_hub")

CONFIG = DiffusionQuantConfig(calibration_samples=0, min_accuracy=0.0)
COMMIT = "a" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one model: blobs, links to them by commit, and a branch."""
    root = tmp_path / "hub"
    repository = root / "models--someone--DiffuCoder-tiny"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    blobs = repository / "blobs"
    write_safetensors(
        blobs / "0", {"model.layers.0.mlp.up_proj.weight": gaussian(64, 128), "h.bias": gaussian(8)}
    )
    (blobs / "1").write_text('{"architectures": ["DreamModel"]}')
    (snapshot / "model.safetensors").symlink_to("../../blobs/0")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    monkeypatch.setenv("HF_HUB_CACHE", str(root))
    monkeypatch.chdir(tmp_path)
    return root


def test_a_name_is_planned_quantized_and_compared(cache: Path, tmp_path: Path) -> None:
    quantizer = ArrowQuantV2()
    plan = quantizer.plan("someone/DiffuCoder-tiny", CONFIG)
    assert plan.modality == "code", "the name of the repository tells it"
    quantizer.quantize_diffusion_model("someone/DiffuCoder-tiny", tmp_path / "out", CONFIG)
    assert len(open_quantized(tmp_path / "out")) == 2
    assert quantizer.validate_quality("someone/DiffuCoder-tiny", tmp_path / "out")["passed"]
    run = arrow_quant("plan", "someone/DiffuCoder-tiny", cwd=tmp_path)
    assert run.code == 0, run.err


def test_a_folder_of_that_name_comes_first(cache: Path, tmp_path: Path) -> None:
    write_safetensors(
        tmp_path / "someone" / "DiffuCoder-tiny" / "model.safetensors",
        {"mine.weight": gaussian(64, 64)},
    )
    config = DiffusionQuantConfig(modality="image", calibration_samples=0)
    plan = ArrowQuantV2().plan("someone/DiffuCoder-tiny", config)
    assert [tensor.name for tensor in plan.tensors] == ["mine.weight"]


@pytest.mark.parametrize("name", ["nobody/nothing", "someone/DiffuCoder-7B"])
def test_a_name_that_is_nowhere_is_an_error_that_says_both(
    name: str, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or directory, and no model of the"):
        ArrowQuantV2().plan(name, CONFIG)
    assert arrow_quant("plan", name, cwd=tmp_path).code == 3


@pytest.mark.parametrize("path", ["a/b/c", "./x/y", "/x/y", "x/y.safetensors", "x"])
def test_paths_that_are_no_names_are_not_looked_up(
    path: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", never)
    with pytest.raises(ModelNotFoundError, match="no such file or directory"):
        ArrowQuantV2().plan(path, CONFIG)
