"""Every pipeline of the table is calibrated from neutral inputs: its denoisers are observed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from arrow_quant_v2 import CalibrationStatistics, DiffusionQuantConfig
from arrow_quant_v2.torch import capture
from arrow_quant_v2.torch.record.pipelines import pipeline_tapes
from arrow_quant_v2.torch.record.recorder import Counter, listening
from arrow_quant_v2.torch.record.samples import Samples
from arrow_quant_v2.torch.record.sampling import Sampling
from arrow_quant_v2.torch.record.trajectory import Batch
from families.builders import BUILDERS, REPRESENTATIVE
from families.test_builders import need

SAMPLES, STEPS = 3, 4

ENTRIES = [
    pytest.param(name, marks=() if name in REPRESENTATIVE else pytest.mark.families)
    for name, builder in BUILDERS.items()
    if builder.open is not None and builder.denoisers
]


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list | tuple):
        return []
    return [tensor for item in items for tensor in tensors(item)]


def tapes_of(name: str, folder: Path, samples: int = SAMPLES) -> tuple[Any, dict[str, list[Batch]]]:
    need(name)
    builder = BUILDERS[name]
    pipeline = builder.load(builder.build(folder / name))
    with torch.no_grad():
        tapes = pipeline_tapes(
            pipeline,
            builder.denoisers,
            Samples(),
            samples=samples,
            seed=0,
            progress=lambda _: None,
            sampling=Sampling(steps=STEPS),
        )
    return pipeline, tapes


@pytest.mark.parametrize("name", ENTRIES)
def test_every_denoiser_is_recorded_on_finite_inputs_and_runs_on_them_again(
    name: str, tmp_path: Path
) -> None:
    pipeline, tapes = tapes_of(name, tmp_path)
    assert set(tapes) == set(BUILDERS[name].denoisers)
    for component, tape in tapes.items():
        assert sum(batch.samples for batch in tape) >= SAMPLES
        for batch in tape:
            given = tensors([batch.args, dict(batch.kwargs)])
            assert given
            assert all(bool(t.isfinite().all()) for t in given if t.is_floating_point())
        with torch.no_grad():
            network = getattr(pipeline, component)
            for batch in (tape[0], tape[-1].take(torch.tensor([0]))):
                output = tensors(network(*batch.args, **batch.kwargs))
                assert all(bool(tensor.isfinite().all()) for tensor in output)


@pytest.mark.parametrize("name", ["flux", "stable_diffusion_3", "wan_2_2", "stable_audio"])
def test_what_the_plan_quantizes_is_observed(name: str, tmp_path: Path) -> None:
    need(name)
    folder = BUILDERS[name].build(tmp_path / name)
    config = DiffusionQuantConfig(calibration_samples=SAMPLES, calibration_steps=STEPS)
    run = capture(folder, tmp_path / "statistics", config)
    assert run.data == "neutral"
    assert run.layers
    assert not [note for note in run.notes if "not calibrated" in note]
    files = sorted(run.path.iterdir()) if run.path.is_dir() else [run.path]
    components = [CalibrationStatistics.load(file).component for file in files]
    assert components == sorted(BUILDERS[name].denoisers)


def count(pipeline: Any, **arguments: Any) -> tuple[int, int]:
    """Calls of the U-Net, and the steps that they are counted as."""
    denoisers = {"unet": pipeline.unet}
    counter = Counter(denoisers)
    with torch.no_grad(), listening(pipeline, denoisers, counter):
        pipeline("a cat", num_inference_steps=5, output_type="latent", **arguments)
    counted = counter.counted()["unet"]
    return len(counted.calls), counted.steps


@pytest.mark.parametrize(
    ("kind", "calls"),
    [
        ("DDIMScheduler", 5),
        ("HeunDiscreteScheduler", 9),
        ("PNDMScheduler", 6),
        ("KDPM2DiscreteScheduler", 9),
    ],
)
def test_schedulers_that_visit_a_time_twice_have_no_step_missed(
    kind: str, calls: int, tmp_path: Path
) -> None:
    import diffusers

    builder = BUILDERS["stable_diffusion"]
    pipeline = builder.load(builder.build(tmp_path / "model"))
    settings = {"skip_prk_steps": True} if kind == "PNDMScheduler" else {}
    pipeline.scheduler = getattr(diffusers, kind)(beta_schedule="scaled_linear", **settings)
    assert count(pipeline) == (calls, calls)
    tapes = pipeline_tapes(
        pipeline, ("unet",), Samples(), samples=4, seed=0, progress=lambda _: None,
        sampling=Sampling(steps=5),
    )  # fmt: skip
    # One step of each of five parts of the schedule, with and without the prompt.
    assert sum(batch.samples for batch in tapes["unet"]) == 4 * 5 * 2


def test_two_denoisers_share_the_schedule_between_them(tmp_path: Path) -> None:
    _, tapes = tapes_of("wan_2_2", tmp_path)
    early = [float(t) for batch in tapes["transformer"] for t in batch.times()]
    late = [float(t) for batch in tapes["transformer_2"] for t in batch.times()]
    assert min(early) > max(late)
