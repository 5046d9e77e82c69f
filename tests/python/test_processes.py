"""The engine after a fork, in a spawned process, at exit, and twice on one output."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, OutputError, open_quantized

QUANTIZE = """
import numpy as np
from arrow_quant_v2 import ArrowQuantV2
weights = np.random.default_rng(0).standard_normal((512, 512), dtype=np.float32)

def codes():
    return ArrowQuantV2(mode="base").quantize(weights, bit_width=4, num_threads=2).codes.tobytes()
"""
FORK = """
import os
expected = codes()  # the threads of the parent have run
child = os.fork()
if child == 0:
    os._exit(0 if codes() == expected else 9)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
SPAWN = """
import multiprocessing
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(codes) == codes()
"""
DAEMON = """
import threading
large = np.random.default_rng(0).standard_normal((8192, 4096), dtype=np.float32)
work = lambda: ArrowQuantV2(mode="base").quantize(large, bit_width=2, num_threads=2)
threading.Thread(target=work, daemon=True).start()
codes()  # the other thread is at work by now
"""


@pytest.mark.parametrize("program", [FORK, SPAWN, DAEMON], ids=["fork", "spawn", "daemon thread"])
def test_a_process_ends_well(program: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(QUANTIZE + program)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_two_threads_on_one_output_leave_one_whole_artefact(model: Path, tmp_path: Path) -> None:
    config = DiffusionQuantConfig(modality="image", calibration_samples=0, num_threads=1)
    errors: list[Exception] = []

    def run() -> None:
        try:
            ArrowQuantV2().quantize_diffusion_model(model, tmp_path / "out", config)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) < len(threads)
    assert all(isinstance(error, OutputError) for error in errors), errors
    open_quantized(tmp_path / "out").verify()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]
