"""A run loads its model once, records it once, and plans it once, whatever needs it."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tiny_models import dit_pipeline  # noqa: E402

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig  # noqa: E402
from arrow_quant_v2.calibration.model_kind import CannotRunError  # noqa: E402
from arrow_quant_v2.plan.model_plan import plan_model  # noqa: E402
from arrow_quant_v2.torch.layers.clock import TIME_ARGUMENTS, Clock, timestep  # noqa: E402
from arrow_quant_v2.torch.record import pipelines, session  # noqa: E402
from arrow_quant_v2.torch.record.session import Session  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dit_pipeline(tmp_path_factory.mktemp("models") / "dit")


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the model was loaded, recorded and planned."""
    found: Counter[str] = Counter()

    def counted(module: Any, name: str, what: str) -> None:
        inner = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            found[what] += 1
            return inner(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    import arrow_quant_v2.loaded_model as loaded_model

    counted(session, "_load", "loads")
    counted(pipelines, "pipeline_tapes", "recordings")
    counted(loaded_model, "plan_model", "plans")
    return found


def test_a_mixed_and_learned_run_loads_records_and_plans_once(
    dit: Path, tmp_path: Path, counts: Counter[str]
) -> None:
    config = DiffusionQuantConfig(
        bit_width=2,
        group_size=64,
        method="learned",
        target_bits=4.0,
        calibration_samples=40,
        min_accuracy=0.0,
    )
    result = ArrowQuantV2().quantize_diffusion_model(dit, tmp_path / "q", config)
    assert result["calibration"] == "neutral"
    assert result["mixed_precision"]["measure"] == "predictions"
    assert counts == {"loads": 1, "recordings": 1, "plans": 1}


def test_a_data_free_run_loads_nothing(dit: Path, tmp_path: Path, counts: Counter[str]) -> None:
    config = DiffusionQuantConfig(calibration_samples=0, min_accuracy=0.0)
    ArrowQuantV2().quantize_diffusion_model(dit, tmp_path / "q", config)
    assert counts["loads"] == counts["recordings"] == 0


def test_a_session_records_again_only_for_more_samples_or_another_seed(
    dit: Path, counts: Counter[str]
) -> None:
    running = Session(dit, plan_model(dit))
    first = running.recorded(8, 0)
    assert running.recorded(5, 0) is first
    assert counts["recordings"] == 1
    assert running.recorded(8, 1) is not first
    assert len(running.recorded(12, 0)) >= len(first)
    assert counts == {"loads": 1, "recordings": 3}


def test_a_model_that_cannot_be_loaded_is_tried_once(tmp_path: Path, counts: Counter[str]) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "DiTPipeline"}')
    running = Session(tmp_path, plan_model(dit_pipeline(tmp_path / "other")))
    for _ in range(2):
        with pytest.raises(CannotRunError):
            running.recorded(1, 0)
    assert counts["loads"] == 1


def test_each_thread_has_its_own_time() -> None:
    """Two threads run one model: neither reads the time of the other."""

    class Denoiser(torch.nn.Module):
        def forward(self, sample: Any, timestep: Any) -> Any:
            return sample

    denoiser, clock = Denoiser(), Clock()
    clock.watch(denoiser)
    barrier = threading.Barrier(2, timeout=20)
    seen: dict[float, list[float]] = {1.0: [], 2.0: []}

    def run(time: float) -> None:
        for _ in range(20):
            denoiser(torch.zeros(1), time)
            barrier.wait()
            seen[time].append(float(clock.now()))
            barrier.wait()
            with timestep(10 * time):
                barrier.wait()
                seen[time].append(float(clock.now()) / 10)
                barrier.wait()

    threads = [threading.Thread(target=run, args=(time,)) for time in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(set(times) == {time} and len(times) == 40 for time, times in seen.items())


@pytest.mark.parametrize("name", TIME_ARGUMENTS)
def test_recording_and_layers_know_the_same_names_of_the_time(name: str) -> None:
    names: dict[str, Any] = {}
    exec(f"def forward(self, sample, {name}): return sample", names)
    module = type("Denoiser", (torch.nn.Module,), {"forward": names["forward"]})()
    clock = Clock()
    clock.watch(module)
    module(torch.zeros(1), **{name: 7.0})
    assert float(clock.now()) == 7.0
