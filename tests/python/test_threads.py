"""Objects that several Python threads use at once."""

from __future__ import annotations

import subprocess
import sys

#: One thread adds activations, the others read. It ends by itself within seconds, or never.
ADD_AND_READ = """
import sys, threading
import numpy as np
from arrow_quant_v2 import CalibrationStatistics

sys.setswitchinterval(1e-5)
statistics = CalibrationStatistics(num_threads=2)
statistics.add_input({"proj.weight": np.eye(32, 64, dtype=np.float32)})
done = threading.Event()

def add():
    for step in range(400):
        statistics.add(0, np.ones((64, 64), np.float32), timestep=step)
        statistics.add_note(f"note {step % 3}")
    done.set()

def read():
    while not done.is_set():
        assert statistics.tokens(0) % 64 == 0
        assert statistics.channels(0) == 64
        assert len(statistics) == 1
        assert sum(span.tokens for span in statistics.times(0)) % 64 == 0
        statistics.gram(0), statistics.notes, statistics.layers(0), statistics.folds

threads = [threading.Thread(target=add)] + [threading.Thread(target=read) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(statistics.tokens(0))
"""


def test_threads_read_statistics_while_one_adds() -> None:
    found = subprocess.run(
        [sys.executable, "-c", ADD_AND_READ], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == str(400 * 64)
