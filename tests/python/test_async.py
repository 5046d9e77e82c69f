"""Calls to await: results, progress, warnings, and cancelling that stops the engine."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import gaussian, safetensors_bytes, write_safetensors

from arrow_quant_v2 import (
    AsyncArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    ModelNotFoundError,
    open_quantized,
)

#: Generous: the aim is a fraction of a second on an idle machine.
PATIENCE = 3.0


def settings(**values: object) -> DiffusionQuantConfig:
    return DiffusionQuantConfig(
        **{"modality": "image", "calibration_samples": 0, "min_accuracy": 0.0, **values}
    )


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weights that take seconds at INT2; one tensor, so that nothing is reported for long."""
    path = tmp_path_factory.mktemp("long") / "model.safetensors"
    block = np.random.default_rng(0).standard_normal((16384, 4096), dtype=np.float32)
    path.write_bytes(safetensors_bytes({"blocks.0.to_q.weight": block}))
    yield path
    path.unlink()


def test_a_model_is_quantized_while_the_loop_goes_on(model: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float, int]] = []

    async def run() -> tuple[object, int]:
        ticks = 0
        work = asyncio.ensure_future(
            AsyncArrowQuantV2(mode="diffusion").quantize_diffusion_model(
                model,
                tmp_path / "out",
                settings(),
                lambda message, fraction: told.append((message, fraction, threading.get_ident())),
            )
        )
        while not work.done():
            ticks += 1
            await asyncio.sleep(0.001)
        return await work, ticks

    result, ticks = asyncio.run(run())
    assert ticks > 1
    assert result["bit_width"] == 4
    assert open_quantized(tmp_path / "out")["mid.attn.to_q.weight"].bit_width == 4
    assert [fraction for _, fraction, _ in told] == sorted(fraction for _, fraction, _ in told)
    assert told[-1][1] == 1.0
    assert {thread for _, _, thread in told} == {threading.get_ident()}


def test_every_other_call_can_be_awaited(model: Path, tmp_path: Path) -> None:
    async def run() -> None:
        quantizer = AsyncArrowQuantV2(mode="base")
        assert quantizer.mode == "base"
        assert (await quantizer.plan(model, settings())).modality == "image"
        await quantizer.quantize_model(model, tmp_path / "out", settings())
        assert (await quantizer.validate_quality(model, tmp_path / "out"))["passed"]
        tensor = await quantizer.quantize(gaussian(64, 64), bit_width=8)
        assert tensor.bit_width == 8
        results = await quantizer.quantize_many(
            [(model, tmp_path / "a", settings()), (tmp_path / "absent", tmp_path / "b", None)]
        )
        assert results[0]["bit_width"] == 4
        assert isinstance(results[1], ModelNotFoundError)

    asyncio.run(run())


def test_runs_side_by_side_do_not_disturb_each_other(model: Path, tmp_path: Path) -> None:
    async def run() -> list[object]:
        quantizer = AsyncArrowQuantV2()
        return await asyncio.gather(
            *(
                quantizer.quantize_diffusion_model(
                    model, tmp_path / f"out{bits}", settings(bit_width=bits)
                )
                for bits in (2, 4, 8)
            )
        )

    assert [result["bit_width"] for result in asyncio.run(run())] == [2, 4, 8]


@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_cancelling_stops_the_engine_and_leaves_nothing(
    long_model: Path, tmp_path: Path, delay: float
) -> None:
    before = threading.active_count()

    async def run() -> float:
        work = asyncio.ensure_future(
            AsyncArrowQuantV2().quantize_diffusion_model(
                long_model, tmp_path / "out", settings(bit_width=2, num_threads=1)
            )
        )
        await asyncio.sleep(delay)
        assert not work.done()
        sent = time.monotonic()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        return time.monotonic() - sent

    assert asyncio.run(run()) < PATIENCE
    assert not any(tmp_path.iterdir())
    assert threading.active_count() == before


def test_a_timeout_stops_the_engine_and_keeps_the_artefact_that_was_there(
    long_model: Path, model: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        quantizer = AsyncArrowQuantV2()
        await quantizer.quantize_diffusion_model(model, tmp_path / "out", settings())
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(
                quantizer.quantize_diffusion_model(
                    long_model, tmp_path / "out", settings(bit_width=2, num_threads=1)
                ),
                timeout=0.2,
            )

    asyncio.run(run())
    assert "mid.attn.to_q.weight" in open_quantized(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def test_what_a_progress_callback_raises_stops_the_run_and_comes_out(
    long_model: Path, tmp_path: Path
) -> None:
    path = write_safetensors(
        tmp_path / "m.safetensors",
        {f"blocks.{i}.to_q.weight": gaussian(256, 256, seed=i) for i in range(40)},
    )

    def stop(message: str, fraction: float) -> None:
        raise ZeroDivisionError(message)

    with pytest.raises(ZeroDivisionError, match="blocks"):
        asyncio.run(
            AsyncArrowQuantV2().quantize_diffusion_model(path, tmp_path / "out", settings(), stop)
        )


def test_errors_are_those_of_the_plain_call(tmp_path: Path) -> None:
    async def run(*args: object) -> None:
        await AsyncArrowQuantV2().quantize_diffusion_model(*args)

    with pytest.raises(ModelNotFoundError, match="no such file"):
        asyncio.run(run(tmp_path / "absent", tmp_path / "out"))
    with pytest.raises(ConfigurationError, match="found dict"):
        asyncio.run(run(tmp_path / "absent", tmp_path / "out", {"bits": 4}))
    with pytest.raises(ConfigurationError, match="Invalid mode"):
        AsyncArrowQuantV2(mode="turbo")


def test_warnings_point_at_the_line_that_awaits(model: Path, tmp_path: Path) -> None:
    async def run() -> None:
        await AsyncArrowQuantV2().quantize_diffusion_model(
            model, tmp_path / "out", settings(bit_width=2, min_accuracy=0.99)
        )

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(run())
    texts = {str(warning.message): warning.filename for warning in caught}
    assert texts["INT4 was used instead of INT2"] == __file__
