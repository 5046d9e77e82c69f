"""What a pipeline is calibrated on: settings of the samples, pairs, clean latents, memory."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from arrow_quant_v2 import ConfigurationError, DiffusionQuantConfig
from arrow_quant_v2.calibration import memory
from arrow_quant_v2.calibration.model_kind import CannotRunError
from arrow_quant_v2.torch.record import pictures
from arrow_quant_v2.torch.record.samples import read_samples
from arrow_quant_v2.torch.record.sampling import Sampling, geometry_of
from arrow_quant_v2.torch.record.trajectory import Batch, PerSample


class Config(dict[str, object]):
    """Of a model, as diffusers has it."""


def denoiser(**config: object) -> SimpleNamespace:
    return SimpleNamespace(config=Config(config))


class Pipeline:
    vae = SimpleNamespace(config=Config(block_out_channels=(1, 1, 1, 1)))
    vae_scale_factor = 8

    def __call__(self, prompt: str, height: int | None = None, width: int | None = None) -> None:
        pass


class VideoPipeline(Pipeline):
    vae_scale_factor_temporal = 4

    def __call__(  # type: ignore[override]
        self, prompt: str, height: int = 480, width: int = 832, num_frames: int = 81
    ) -> None:
        pass


def test_the_trained_size_is_the_pipelines_own_within_the_budget() -> None:
    found = geometry_of(Pipeline(), denoiser(sample_size=64), Sampling())
    assert (found.height, found.width, dict(found.given)) == (512, 512, {})
    large = geometry_of(Pipeline(), denoiser(sample_size=128), Sampling())
    assert dict(large.given) == {"height": 512, "width": 512}
    assert large.latents == 4096


def test_a_narrow_model_without_a_size_makes_small_pictures() -> None:
    toy = denoiser(num_attention_heads=2, attention_head_dim=16, patch_size=1)
    assert geometry_of(Pipeline(), toy, Sampling()).latents <= 4 * 32
    flux = denoiser(num_attention_heads=24, attention_head_dim=128, patch_size=1)
    assert dict(geometry_of(Pipeline(), flux, Sampling()).given) == {"height": 512, "width": 512}


def test_videos_have_three_latent_frames_and_the_same_budget() -> None:
    found = geometry_of(VideoPipeline(), denoiser(num_attention_heads=40, attention_head_dim=128),
                        Sampling())  # fmt: skip
    assert found.given["num_frames"] == 9
    assert found.latents <= 4096
    assert found.height % 16 == 0


def test_the_user_sets_the_size() -> None:
    config = DiffusionQuantConfig(calibration_size=[256, 384, 5])
    found = geometry_of(VideoPipeline(), denoiser(), Sampling.of(config))
    assert dict(found.given) == {"height": 256, "width": 384, "num_frames": 5}
    assert DiffusionQuantConfig(calibration_size=64).calibration_size == (64, 64)


@pytest.mark.parametrize("size", [0, True, [8], [8, 8, 8, 8], "64", [8, -1]])
def test_a_wrong_size_is_refused(size: object) -> None:
    with pytest.raises(ConfigurationError, match="calibration_size"):
        DiffusionQuantConfig(calibration_size=size)


def test_settings_of_samples_are_recorded_where_they_are_given() -> None:
    plain = json.loads(DiffusionQuantConfig().recorded_json())
    assert not {"calibration_size", "calibration_steps", "guidance_scale"} & set(plain)
    given = json.loads(DiffusionQuantConfig(calibration_steps=4, guidance_scale=2).recorded_json())
    assert (given["calibration_steps"], given["guidance_scale"]) == (4, 2.0)


def test_neutral_pictures_are_natural_and_the_same_for_a_seed() -> None:
    first, again, other = (np.asarray(pictures.picture(64, 96, seed)) for seed in (1, 1, 2))
    assert first.shape == (64, 96, 3)
    assert (first == again).all()
    assert (first != other).any()
    values = first.astype(float)
    # Neighbours are alike, and the whole has contrast.
    assert np.abs(np.diff(values, axis=1)).mean() < 0.3 * values.std()
    moved = [np.asarray(frame) for frame in pictures.video(2, 64, 96, 1)]
    assert (moved[0] != moved[1]).any()
    hidden = np.asarray(pictures.mask(64, 96, 1))
    assert 0.05 < (hidden > 127).mean() < 0.5


def test_pairs_come_from_a_list_a_file_and_a_folder(tmp_path: Path) -> None:
    image = tmp_path / "cat.png"
    pictures.picture(16, 16, 0).save(image)
    line = json.dumps({"prompt": "a cat", "image": "cat.png"})
    (tmp_path / "pairs.jsonl").write_text(line)
    (tmp_path / "metadata.jsonl").write_text('{"text": "a cat", "file_name": "cat.png"}')
    for data in (
        [{"prompt": "a cat", "image": str(image)}], tmp_path / "pairs.jsonl", tmp_path
    ):  # fmt: skip
        found = read_samples(data)
        assert (found.texts, found.images) == (("a cat",), (image,))
    with pytest.raises(ConfigurationError, match="no such image"):
        read_samples([{"prompt": "a cat", "image": str(tmp_path / "dog.png")}])
    with pytest.raises(ConfigurationError, match="a prompt and the path of an image"):
        read_samples([{"image": str(image)}])


def test_what_samples_share_stays_whole_even_where_it_is_as_long() -> None:
    places = torch.arange(8).reshape(4, 2)
    batch = Batch(
        kwargs={"x": torch.arange(4.0)[:, None], "ids": places, "list": PerSample(torch.ones(4))},
        timestep=1.0,
        shared=frozenset({"ids"}),
    )
    part = batch.take(torch.tensor([3, 1]))
    assert part.kwargs["x"].flatten().tolist() == [3, 1]
    assert part.kwargs["ids"] is places
    assert len(part.kwargs["list"]) == 2
    assert part.samples == 2


def test_a_model_that_does_not_fit_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_models import dit_pipeline

    folder = dit_pipeline(tmp_path / "dit")
    config = DiffusionQuantConfig(calibration_samples=1)
    memory.check_memory(folder, config)
    needed = memory.needed_bytes(folder, config)
    files = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    assert 1.0 < needed / files < 2.1
    monkeypatch.setattr(memory, "free_bytes", lambda: {"the limit of the test": 1000})
    with pytest.raises(CannotRunError, match=r"about \d+ MB of memory, and 1 MB are free"):
        memory.check_memory(folder, config)
