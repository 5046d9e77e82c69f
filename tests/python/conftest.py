"""Fixtures: models, and artefacts that many tests read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ZOO_UNET, small_model

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # torch: networks this small only lose by more

#: Variables that tell the tests where things are.
CALIBRATION = "ARROW_QUANT_CALIBRATION_SAMPLES"
OF_THE_TESTS = ("ARROW_QUANT_REAL_MODELS", "ARROW_QUANT_CPP_BUILD", CALIBRATION)


os.environ[CALIBRATION] = "0"  # for fixtures that several tests share


@pytest.fixture(autouse=True)
def clean_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees settings of the machine it runs on.

    Quantization is data-free unless a test is about calibration or about the defaults.
    """
    monkeypatch.setenv(CALIBRATION, "0")
    if request.node.get_closest_marker("default_calibration"):
        monkeypatch.delenv(CALIBRATION)
    for name in list(os.environ):
        if name.startswith("ARROW_QUANT_") and name not in OF_THE_TESTS:
            monkeypatch.delenv(name)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def torch_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Layers run on as many threads as torch uses."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small component directory."""
    return small_model(tmp_path / "model")


@pytest.fixture(scope="session")
def unet() -> Path:
    """The shipped image model: a really trained diffusers pipeline."""
    assert (ZOO_UNET / "model_index.json").is_file(), "the repository ships this model"
    return ZOO_UNET


@pytest.fixture(scope="session")
def unet_artefacts(unet: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The shipped model quantized at every width."""
    folder = tmp_path_factory.mktemp("unet")
    paths = {}
    for bits in (2, 4, 8):
        paths[bits] = folder / f"int{bits}"
        config = DiffusionQuantConfig(bit_width=bits, min_accuracy=0.0)
        ArrowQuantV2().quantize_diffusion_model(unet, paths[bits], config)
    return paths
