"""Evaluation of models that this project did not make, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import REAL_MODELS

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig
from zoo.data import DEFAULT_DATA, IMAGE_FILES, read_idx_images
from zoo.evaluate.loader import UnknownModelError, load, subject_of
from zoo.evaluate.measure import measure, report
from zoo.evaluate.report import Report
from zoo.evaluate.subject import Effort, Setting

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

pytestmark = pytest.mark.skipif(
    not (REAL_MODELS / "ddpm-mnist").is_dir(), reason=f"no models in {REAL_MODELS}"
)
needs_images = pytest.mark.skipif(
    not all((DEFAULT_DATA / name).is_file() for name in IMAGE_FILES.values()),
    reason=f"no images in {DEFAULT_DATA}",
)

SETTING = Setting(Effort(items=40, samples=4, steps=4))
TIMESTEPS = (10, 50, 100, 250, 500, 750, 950)
#: Noise-prediction MSE on the first test images, as the models' README gives it.
EXPECTED = {
    "ddpm-mnist": (0.1598, 0.1015, 0.0682, 0.0368, 0.0167, 0.0038, 0.0023),
    "ddpm-fashion": (0.3948, 0.1961, 0.1235, 0.0489, 0.0142, 0.0048, 0.0034),
}
IMAGES = {"ddpm-mnist": "mnist", "ddpm-fashion": "fashion-mnist"}


def silent(_: str) -> None:
    """Show no progress."""


def quantized(source: Path, out: Path, bits: int) -> Path:
    config = DiffusionQuantConfig(
        bit_width=bits,
        group_size=128,
        method="rtn",
        min_accuracy=0.0,
        calibration_samples=0,
        modality="image",
    )
    ArrowQuantV2().quantize_diffusion_model(source, out, config)
    return out


def compared(model: Path, reference: Path) -> Report:
    measured = (measure(load(path), SETTING, silent) for path in (model, reference))
    return report(*measured, silent)


@needs_images
@pytest.mark.parametrize("name", EXPECTED)
def test_the_pixel_models_have_the_loss_that_they_are_known_for(name: str) -> None:
    subject = load(REAL_MODELS / name).subject
    pixels = read_idx_images(DEFAULT_DATA / IMAGE_FILES[IMAGES[name]])[:200]
    images = torch.from_numpy(pixels.copy()).float()[:, None] / 127.5 - 1
    generator = torch.Generator().manual_seed(0)
    for t, expected in zip(TIMESTEPS, EXPECTED[name], strict=True):
        noise = torch.randn(images.shape, generator=generator)
        timesteps = torch.full((len(images),), t)
        noisy = subject.scheduler.add_noise(images, noise, timesteps)
        with torch.inference_mode():
            found = float((subject.network(noisy, timesteps) - noise).square().mean())
        # Other noise and perhaps other images: up to 10 %, more where little is left to err.
        assert found == pytest.approx(expected, rel=0.15, abs=0.001)


@needs_images
@pytest.mark.parametrize("name", EXPECTED)
def test_the_images_of_a_pixel_model_are_told_by_its_loss(name: str, tmp_path: Path) -> None:
    int2 = quantized(REAL_MODELS / name, tmp_path / "q", 2)
    for directory in (REAL_MODELS / name, int2):
        assert load(directory).subject.image_set(SETTING) == IMAGES[name]


@needs_images
def test_int2_of_a_pixel_model_is_worse_and_int8_hardly_differs(tmp_path: Path) -> None:
    source = REAL_MODELS / "ddpm-mnist"
    int2 = compared(quantized(source, tmp_path / "2", 2), source)
    int8 = compared(quantized(source, tmp_path / "8", 8), source)
    assert int2.loss_name == "eps-MSE on mnist"
    assert int2.verdict == "worse"
    assert int2.distances["drift"] > 0.3
    assert int8.distances["drift"] < 0.01
    assert int8.loss == pytest.approx(int8.reference_loss, rel=0.02)


def test_series_that_nobody_measured_show_the_drift_of_int2(tmp_path: Path) -> None:
    source = REAL_MODELS / "csdi-physionet"
    float_model = load(source).subject
    loss = float_model.loss(SETTING)
    assert loss.per_bin()[-1] < 0.01 < 0.3 < loss.per_bin()[0]  # it does denoise
    model = load(quantized(source, tmp_path / "q", 2))
    drift = model.subject.compare(float_model, SETTING)["drift"]
    assert drift > 0.1
    assert model.weight_bytes < load(source).weight_bytes / 1.5


def test_the_autoencoder_gives_pictures_back_and_less_so_in_int2(tmp_path: Path) -> None:
    source = REAL_MODELS / "taef2-vae"
    for half in ("encoder", "decoder"):
        quantized(source / f"{half}.safetensors", tmp_path / half, 2)
    found = compared(tmp_path, source)
    assert found.reference_scores is not None
    assert found.reference_scores["PSNR (dB)"] > 30
    assert found.scores["PSNR (dB)"] < found.reference_scores["PSNR (dB)"] - 3
    assert found.verdict == "worse"
    assert found.distances["latents: relative error"] > 0.05


def test_one_file_of_another_network_is_refused(tmp_path: Path) -> None:
    source = REAL_MODELS / "taef2-vae" / "encoder.safetensors"
    (tmp_path / "model.safetensors").write_bytes(source.read_bytes())
    with pytest.raises(
        UnknownModelError, match=r"knows networks with a tensor network\.time_embed"
    ):
        subject_of(tmp_path)


@needs_images
def test_a_pixel_model_that_is_destroyed_is_measured_on_the_images_of_its_reference() -> None:
    reference, broken = (load(REAL_MODELS / "ddpm-mnist").subject for _ in range(2))
    for parameter in broken.network.parameters():
        torch.nn.init.zeros_(parameter)
    broken.follow(reference)
    assert broken.loss(SETTING).name == reference.loss(SETTING).name == "eps-MSE on mnist"
