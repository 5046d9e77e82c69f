"""The image and audio models of the zoo: as good as their cards say, and INT2 hurts them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support import ROOT

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig
from zoo.evaluate.loader import load
from zoo.evaluate.measure import Measurement, measure, report
from zoo.evaluate.subject import Effort, Setting

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

MODELS = ROOT / "zoo" / "models"
#: As many items as the full evaluation; samples are not what is asked.
LOSS_ONLY = Setting(Effort(Effort.full().items, samples=1, steps=1))
LARGEST = 8_388_608


def silent(_: str) -> None:
    """Show no progress."""


@pytest.fixture(scope="module", params=["image-dit", "audio"])
def reference(request: pytest.FixtureRequest) -> Measurement:
    return measure(load(MODELS / request.param), LOSS_ONLY, silent)


def rounded(reference: Measurement, bits: int, out: Path) -> Measurement:
    """The model rounded to nearest in groups of 128."""
    config = DiffusionQuantConfig(
        bit_width=bits, group_size=128, method="rtn", min_accuracy=0.0, calibration_samples=0
    )
    ArrowQuantV2().quantize_diffusion_model(reference.candidate.name, out, config)
    return measure(load(out), LOSS_ONLY, silent)


def test_the_loss_is_that_of_the_card_and_far_below_an_untrained_network(
    reference: Measurement,
) -> None:
    card = json.loads((Path(reference.candidate.name) / "held_out.json").read_text())
    assert reference.loss.mean == pytest.approx(np.mean(card["held_out"]), rel=0.15)
    assert np.mean(card["untrained"]) > 5 * np.mean(card["held_out"])


def test_int2_is_worse_and_int8_within_a_thousandth(reference: Measurement, tmp_path: Path) -> None:
    int2 = report(rounded(reference, 2, tmp_path / "2"), reference, silent)
    assert int2.verdict == "worse"
    assert int2.relative_difference is not None
    assert int2.relative_difference.low > 0.05
    int8 = report(rounded(reference, 8, tmp_path / "8"), reference, silent)
    assert int8.relative_difference is not None
    assert int8.relative_difference.high < 0.001
    assert int8.distances["drift"] < 0.01 < int2.distances["drift"]


def test_the_weights_are_small(reference: Measurement) -> None:
    assert reference.candidate.weight_bytes <= LARGEST


def test_the_layers_are_wide_enough_for_groups(reference: Measurement) -> None:
    """Most weights are in rows of 256 or more."""
    network = reference.candidate.subject.network
    rows = [(w.numel(), w[0].numel()) for w in network.parameters() if w.ndim > 1]
    wide = sum(count for count, width in rows if width >= 256)
    assert wide > 0.9 * sum(count for count, _ in rows)


def test_the_transformer_is_quantized_and_the_autoencoder_kept(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    config = DiffusionQuantConfig(bit_width=4, min_accuracy=0.0)
    ArrowQuantV2().quantize_diffusion_model(MODELS / "image-dit", tmp_path / "q", config)
    name = "vae/diffusion_pytorch_model.safetensors"
    kept, source = load_file(tmp_path / "q" / name), load_file(MODELS / "image-dit" / name)
    assert set(kept) == set(source)
    for key, values in source.items():
        np.testing.assert_array_equal(kept[key], values)
    assert not (tmp_path / "q" / "transformer" / name).exists()
    assert list((tmp_path / "q" / "transformer").glob("*.parquet"))


def test_the_genuine_pipelines_run() -> None:
    from diffusers import DanceDiffusionPipeline, DiTPipeline

    digits = DiTPipeline.from_pretrained(MODELS / "image-dit", torch_dtype=torch.float32)
    digits.set_progress_bar_config(disable=True)
    ids = digits.get_label_ids(["3", "7"])
    assert ids == [3, 7]
    images = digits(ids, guidance_scale=1.0, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 32, 32, 1)
    speech = DanceDiffusionPipeline.from_pretrained(MODELS / "audio", torch_dtype=torch.float32)
    speech.set_progress_bar_config(disable=True)
    assert speech(batch_size=2, num_inference_steps=2).audios.shape == (2, 64, 64)


def test_the_modality_is_told_from_the_pipeline(tmp_path: Path) -> None:
    for name, modality in (("image-dit", "image"), ("audio", "audio")):
        config = DiffusionQuantConfig(bit_width=8, min_accuracy=0.0)
        result = ArrowQuantV2().quantize_diffusion_model(MODELS / name, tmp_path / name, config)
        assert result["modality"] == modality
