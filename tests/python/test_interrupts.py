"""Signals stop a run at once and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import COMMAND, safetensors_bytes

#: Generous: the aim is half a second on an idle machine.
PATIENCE = 2.0
LONG_RUN = ["--modality", "image", "--bit-width", "2", "--min-accuracy", "1"]


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Half a gigabyte of weights: many seconds of work at INT2 with all attempts."""
    path = tmp_path_factory.mktemp("large") / "model.safetensors"
    block = np.random.default_rng(0).standard_normal((4096, 4096), dtype=np.float32)
    names = {f"blocks.{i}.attn.to_q.weight": block for i in range(8)}
    path.write_bytes(safetensors_bytes(names))
    yield path
    path.unlink()


def start(model: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start a run that would take long, and wait until it writes."""
    process = subprocess.Popen(
        [*COMMAND, "quantize", str(model), "out", *LONG_RUN],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not any(folder.iterdir()):
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [(signal.SIGINT, 130, "nothing was written"), (signal.SIGTERM, 143, "nothing was written")],
)
@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_a_signal_stops_the_command_and_leaves_nothing(
    large_model: Path, tmp_path: Path, number: signal.Signals, code: int, text: str, delay: float
) -> None:
    process = start(large_model, tmp_path)
    time.sleep(delay)
    sent = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - sent < PATIENCE
    assert process.returncode == code
    assert text in stderr.decode()
    assert "Traceback" not in stderr.decode()
    assert not any(tmp_path.iterdir())


def test_an_interrupt_is_a_keyboard_interrupt_in_python(large_model: Path, tmp_path: Path) -> None:
    program = f"""
import sys, threading, time, os, signal
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig
config = DiffusionQuantConfig(modality="image", bit_width=2, min_accuracy=1.0)
sent = []
def send():
    time.sleep(0.3)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=send).start()
try:
    ArrowQuantV2().quantize_diffusion_model({str(large_model)!r}, "out", config)
except KeyboardInterrupt:
    print(time.monotonic() - sent[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=True, timeout=120
    )
    assert float(done.stdout) < PATIENCE
    assert not any(tmp_path.iterdir())


def test_an_interrupted_overwrite_leaves_the_old_artefact_whole(
    large_model: Path, model: Path, tmp_path: Path
) -> None:
    first = [*COMMAND, "quantize", str(model), "out", "--modality", "image"]
    subprocess.run(first, cwd=tmp_path, check=True, capture_output=True)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    process = subprocess.Popen(
        [*COMMAND, "quantize", str(large_model), "out", "--overwrite", *LONG_RUN],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while len(os.listdir(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    after = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert after == before
    assert sorted(os.listdir(tmp_path)) == ["model", "out"]
