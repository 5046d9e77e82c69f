"""capture() and ``arrow-quant calibrate``: a model directory runs, and its layers are observed."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from support import arrow_quant, small_model, write_safetensors
from tiny_models import (
    CLASSES,
    dit_pipeline,
    masked_language_model,
    stable_diffusion_pipeline,
)

from arrow_quant_v2 import (
    CalibrationStatistics,
    ConfigurationError,
    DiffusionQuantConfig,
)
from arrow_quant_v2.plan.model_plan import plan_model
from arrow_quant_v2.torch import Batch, CannotRunError, capture
from arrow_quant_v2.torch.record.masked_language import masked_language_tape
from arrow_quant_v2.torch.record.pipelines import pipeline_tape
from arrow_quant_v2.torch.record.samples import Samples, read_samples


def settings(samples: int = 5) -> DiffusionQuantConfig:
    return DiffusionQuantConfig(calibration_samples=samples)


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dit_pipeline(tmp_path_factory.mktemp("models") / "dit")


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return masked_language_model(tmp_path_factory.mktemp("models") / "language")


def tape_of(folder: Path, data: Samples, samples: int = 10) -> list[Batch]:
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    component = "unet" if hasattr(pipeline, "unet") else "transformer"
    return pipeline_tape(
        pipeline, component, data, samples=samples, seed=0, progress=lambda _: None
    )


def test_the_trained_image_model_is_observed_over_its_whole_schedule(
    unet: Path, tmp_path: Path
) -> None:
    seen: list[float] = []
    run = capture(unet, tmp_path / "s", settings(), progress_callback=lambda _, f: seen.append(f))
    plan = plan_model(unet)
    planned = {tensor.name for tensor in plan.tensors if tensor.bit_width is not None}
    assert set(run.layers) == planned
    assert run.data == "neutral"
    assert run.samples == 5 * 5
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    statistics = CalibrationStatistics.load(tmp_path / "s")
    assert (statistics.component, statistics.data) == ("unet", "neutral")
    spans = statistics.times(0)
    assert min(span.begin for span in spans) < 200
    assert max(span.end for span in spans) > 800
    shared = next(
        statistics.layers(i)
        for i in range(len(statistics))
        if "mid_block.attentions.0.to_q.weight" in statistics.layers(i)
    )
    assert sorted(shared) == [f"mid_block.attentions.0.to_{x}.weight" for x in "kqv"]
    assert all(statistics.tokens(i, held_out=True) for i in range(len(statistics)))


def test_the_same_seed_gives_the_same_file(dit: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        capture(dit, tmp_path / name, settings(), seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_each_trajectory_gives_one_step_of_every_part_of_the_schedule(dit: Path) -> None:
    tape = tape_of(dit, read_samples([3, 1]))
    assert sum(batch.samples for batch in tape) == 10 * 5
    times = np.concatenate([batch.times().numpy() for batch in tape])
    assert np.histogram(times, bins=5, range=(0, 1000))[0].tolist() == [10] * 5
    held = sum(int(batch.held_out.sum()) for batch in tape if batch.held_out is not None)
    assert held == 2 * 5
    labels = torch.cat([batch.kwargs["class_labels"] for batch in tape])
    assert sorted(set(labels.tolist())) == [1, 3]


def test_clean_images_are_encoded_and_noised_as_the_schedule_says(
    dit: Path, tmp_path: Path
) -> None:
    from diffusers import DiffusionPipeline
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    tape = tape_of(dit, read_samples(folder))
    pipeline = DiffusionPipeline.from_pretrained(dit, local_files_only=True)
    alphas = pipeline.scheduler.alphas_cumprod
    for batch in tape:
        alpha = float(alphas[int(batch.times()[0])])
        spread = float(batch.kwargs["hidden_states"].var())
        noise = 1 - alpha
        # Untrained latents are far smaller than the noise, so the noise alone sets the variance.
        assert spread == pytest.approx(noise, rel=0.5, abs=0.12)
    late = max(tape, key=lambda batch: float(batch.times()[0])).kwargs["hidden_states"]
    early = min(tape, key=lambda batch: float(batch.times()[0])).kwargs["hidden_states"]
    assert float(early.var()) < 0.2 < float(late.var())


def test_arrays_of_clean_samples_and_callables_are_taken(unet: Path, tmp_path: Path) -> None:
    clean = np.full((4, 1, 32, 32), -1.0, np.float32)
    tape = tape_of(unet, read_samples(clean), samples=3)
    early = min(tape, key=lambda batch: float(batch.times()[0]))
    assert float(early.kwargs["sample"].mean()) == pytest.approx(-1.0, abs=0.05)
    with pytest.raises(ConfigurationError, match=r"shape \[1, 16, 16\].*takes \[1, 32, 32\]"):
        tape_of(unet, read_samples(clean[:, :, ::2, ::2].copy()), samples=1)

    def batches(network: torch.nn.Module) -> list[object]:
        return [((torch.zeros(2, 1, 32, 32), 7), {}, 7)]

    run = capture(unet, tmp_path / "s", settings(), calibration_data=batches)
    assert (run.data, run.samples) == ("user", 2)


def test_prompts_run_a_text_conditional_pipeline_with_guidance(tmp_path: Path) -> None:
    folder = stable_diffusion_pipeline(tmp_path / "sd")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "cat"}\n"dog"\n')
    run = capture(folder, tmp_path / "s", settings(), calibration_data=tmp_path / "prompts.jsonl")
    assert run.data == "user"
    statistics = CalibrationStatistics.load(tmp_path / "s")
    assert statistics.component == "unet"
    # Guidance runs every state with and without the prompt.
    assert run.samples % 2 == 0
    assert 2 * 5 * 4 <= run.samples <= 2 * 5 * 5
    capture(folder, tmp_path / "neutral", settings(1))
    assert CalibrationStatistics.load(tmp_path / "neutral").data == "neutral"


def load_language(folder: Path) -> tuple[object, object]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True).eval()
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_texts_are_masked_at_spread_ratios_and_padding_does_not_count(language: Path) -> None:
    model, tokenizer = load_language(language)
    data = read_samples(["abcdefghij", "klm"])
    tape = masked_language_tape(model, tokenizer, data, samples=10, seed=0, progress=lambda _: None)
    ratios = np.concatenate([batch.times().numpy() for batch in tape])
    assert len(ratios) == 10 * 5
    assert np.histogram(ratios, bins=5, range=(0, 1.0001))[0].min() >= 5
    for batch in tape:
        ids, present = batch.kwargs["input_ids"], batch.valid
        assert present is not None
        masked = (ids == tokenizer.mask_token_id).sum(dim=1)
        letters = present.sum(dim=1) - 2
        torch.testing.assert_close(masked / letters, batch.times().float())
        assert (ids[~present] == tokenizer.pad_token_id).all()


def test_without_texts_a_language_model_writes_its_own(language: Path, tmp_path: Path) -> None:
    model, tokenizer = load_language(language)
    with torch.no_grad():
        tape = masked_language_tape(
            model, tokenizer, Samples(), samples=8, seed=0, progress=lambda _: None
        )
    full = [batch for batch in tape if float(batch.times().max()) == 1.0]
    assert full
    assert (full[0].kwargs["input_ids"] == tokenizer.mask_token_id).sum(dim=1).max() == 22
    late = min(tape, key=lambda batch: float(batch.times().min()))
    assert float(late.times().min()) < 0.2
    run = capture(language, tmp_path / "s", settings())
    assert run.data == "neutral"
    planned = [t.name for t in plan_model(language).tensors if t.bit_width is not None]
    assert set(run.layers) == set(planned)
    spans = CalibrationStatistics.load(tmp_path / "s").times(0)
    assert all(0 < span.end <= 1.1 for span in spans)


def test_a_denoiser_inside_its_pipeline_runs_as_the_pipeline_does(
    dit: Path, tmp_path: Path
) -> None:
    whole = capture(dit, tmp_path / "whole", settings())
    part = capture(dit / "transformer", tmp_path / "part", settings())
    assert whole.layers == part.layers
    a, b = (CalibrationStatistics.load(tmp_path / name) for name in ("whole", "part"))
    assert (a.component, b.component) == ("transformer", "")
    np.testing.assert_array_equal(a.gram(0), b.gram(0))


def test_components_that_do_not_run_at_every_step_are_named(dit: Path, tmp_path: Path) -> None:
    config = DiffusionQuantConfig(
        calibration_samples=2,
        components=["transformer", "vae"],
        layer_rules={"decoder.*.conv1.weight": 8},
    )
    run = capture(dit, tmp_path / "s", config)
    assert any("vae: not calibrated: only the component 'transformer'" in n for n in run.notes)


def test_what_cannot_run_says_why(dit: Path, tmp_path: Path) -> None:
    weights = {"layers.0.weight": np.ones((64, 64), np.float32)}
    file = write_safetensors(tmp_path / "third-party" / "model.safetensors", weights)
    image = DiffusionQuantConfig(modality="image", calibration_samples=1)
    with pytest.raises(CannotRunError, match="one weight file: its class is not known"):
        capture(file, tmp_path / "s", image)
    (file.parent / "config.json").write_text(json.dumps({"architectures": ["NobodysModel"]}))
    with pytest.raises(CannotRunError, match="found architectures \\['NobodysModel'\\]"):
        capture(file.parent, tmp_path / "s", image)
    alone = small_model(tmp_path / "alone")
    with pytest.raises(CannotRunError, match="no class that is known here"):
        capture(alone, tmp_path / "s", settings())
    broken = shutil.copytree(dit, tmp_path / "broken")
    index = json.loads((broken / "model_index.json").read_text())
    index["_class_name"] = "NobodysPipeline"
    (broken / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CannotRunError, match="the model does not run"):
        capture(broken, tmp_path / "s", settings())
    mute = masked_language_model(tmp_path / "mute", mask=False)
    with pytest.raises(CannotRunError, match="no mask token"):
        capture(mute, tmp_path / "s", settings())
    assert not (tmp_path / "s").exists()


def test_data_that_does_not_fit_the_model_is_a_mistake(
    dit: Path, language: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=f"from 0 to {CLASSES - 1}, found 7"):
        capture(dit, tmp_path / "s", settings(), calibration_data=[1, 7])
    with pytest.raises(ConfigurationError, match="DiTPipeline takes no prompts"):
        capture(dit, tmp_path / "s", settings(), calibration_data=["a cat"])
    with pytest.raises(ConfigurationError, match=r"expected texts.*found labels"):
        capture(language, tmp_path / "s", settings(), calibration_data=[1])
    with pytest.raises(ConfigurationError, match="text 1 has no tokens"):
        capture(language, tmp_path / "s", settings(2), calibration_data=["abc", ""])
    with pytest.raises(ConfigurationError, match="data-free run"):
        capture(dit, tmp_path / "s", settings(0))


def write_wave(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((np.ones((100, 2)) * 16384).astype("<i2").tobytes())


def test_sounds_are_read_as_waveforms_of_the_rate_of_the_model(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from arrow_quant_v2.torch.record.sampling import Geometry
    from arrow_quant_v2.torch.record.user_samples import clean_latents

    write_wave(tmp_path / "a.wav")
    data = read_samples(tmp_path)
    denoiser = SimpleNamespace(config={"sample_rate": 16000, "sample_size": 256, "in_channels": 2})
    found = clean_latents(SimpleNamespace(), denoiser, data, Geometry(0, 0, 1, 1, {}))
    assert found is not None
    assert found.shape == (1, 2, 256)
    assert found[0, :, :200].numpy() == pytest.approx(0.5)
    assert not found[0, :, 200:].any()
    spectrograms = SimpleNamespace(config={"sample_size": 64, "in_channels": 1})
    with pytest.raises(ConfigurationError, match="does not work on waveforms"):
        clean_latents(SimpleNamespace(), spectrograms, data, Geometry(0, 0, 1, 1, {}))


def test_data_of_unknown_form_says_what_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "bad.jsonl").write_text('{"caption": "x"}\n')
    (tmp_path / "torn.jsonl").write_text('{"prompt": \n')
    (tmp_path / "objects.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "other.csv").write_text("x")
    (tmp_path / "folder").mkdir()
    for data, words in (
        (tmp_path / "absent.txt", "no such calibration data"),
        (tmp_path / "absent", "no such calibration data"),
        (tmp_path / "empty.txt", "at least one sample"),
        (tmp_path / "bad.jsonl", "line 1: expected one of the keys prompt, text, label"),
        (tmp_path / "torn.jsonl", "cannot be read"),
        (tmp_path / "objects.npy", "cannot be read"),
        (tmp_path / "other.csv", "ending '.csv'"),
        (tmp_path / "folder", "found neither"),
        ([], "at least one sample"),
        ([1.5], "items of float"),
        (7, "found a int"),
        (np.zeros((2, 2), np.int64), "array of torch.int64"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            read_samples(data)


def test_the_command_calibrates_and_adds_up_runs(dit: Path, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        run = arrow_quant(
            "calibrate",
            dit,
            tmp_path / seed,
            "--samples",
            "2",
            "--seed",
            seed,
            "--json",
            timeout=600,
        )
        assert run.code == 0, run.err
        assert run.json["data"] == "neutral"
        assert run.json["layers"] == 14
    both = arrow_quant(
        "calibrate", dit, tmp_path / "both", "--merge", tmp_path / "1", "--merge", tmp_path / "2"
    )
    assert both.code == 0, both.err
    assert "files" in both.out
    one, two, sum_ = (CalibrationStatistics.load(tmp_path / n) for n in ("1", "2", "both"))
    np.testing.assert_allclose(sum_.gram(0), one.gram(0) + two.gram(0), rtol=1e-5)
    again = arrow_quant("calibrate", dit, tmp_path / "both", "--samples", "2")
    assert again.code == 7
    assert "--overwrite" in again.err


def test_the_command_refuses_what_it_cannot_do(unet: Path, dit: Path, tmp_path: Path) -> None:
    capture(dit, tmp_path / "dit", settings(1))
    other = arrow_quant("calibrate", unet, tmp_path / "s", "--merge", tmp_path / "dit")
    assert other.code == 4
    assert "of another model" in other.err
    mixed = arrow_quant(
        "calibrate", dit, tmp_path / "s", "--merge", tmp_path / "dit", "--samples", "3"
    )
    assert mixed.code == 2
    alone = arrow_quant(
        "calibrate", small_model(tmp_path / "alone"), tmp_path / "s", "--samples", "1"
    )
    assert alone.code == 2
    assert "arrow_quant_v2.torch.calibrate" in alone.err
    assert not (tmp_path / "s").exists()
