"""A 2 GiB bf16 model through ``arrow-quant quantize`` in bounded memory.

``python -m benchmarks.bounded_memory [--layers 4] [--json FILE]``

Reports the peak resident memory of the whole process, and its time over the larger of (reading the
input once, writing the output once), both measured here with the same files on the same disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.synthetic import write_llm

CHUNK = 8 << 20


def read_once(path: Path) -> float:
    """Seconds to read ``path`` front to back."""
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(CHUNK)
        while file.readinto(buffer):
            pass
    return time.perf_counter() - start


def write_once(path: Path, size: int) -> float:
    """Seconds to write ``size`` bytes durably (fsync included, as the artefact does)."""
    block = os.urandom(CHUNK)
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for offset in range(0, size, CHUNK):
            file.write(block[: min(CHUNK, size - offset)])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


def quantize(
    model: Path, out: Path, method: str, memory_mb: int, *, bit_width: int = 4
) -> tuple[float, float]:
    """Run the command; return (seconds, peak resident MB of that process)."""
    command = [str(Path(sys.executable).with_name("arrow-quant")), "quantize", str(model), str(out)]
    command += ["--bit-width", str(bit_width)]
    command += ["--method", method, "--max-memory-mb", str(memory_mb), "--overwrite", "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"arrow-quant quantize failed with exit code {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def directory_size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def measure(work: Path, layers: int, method: str, memory_mb: int) -> dict[str, float]:
    model, out = work / "model", work / "out"
    size = write_llm(model, layers)
    os.sync()
    best: dict[str, float] = {}
    for _ in range(3):
        shutil.rmtree(out, ignore_errors=True)  # or removing it would count
        seconds, peak = quantize(model, out, method, memory_mb)
        written = directory_size(out)
        read = read_once(model / "model.safetensors")
        write = write_once(work / "plain", written)
        row = {
            "input_gib": size / 2**30,
            "output_gib": written / 2**30,
            "seconds": seconds,
            "peak_rss_mb": peak,
            "read_seconds": read,
            "write_seconds": write,
            "ratio": seconds / max(read, write),
        }
        if not best or row["ratio"] < best["ratio"]:
            best = row
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--method", default="rtn")
    parser.add_argument("--max-memory-mb", type=int, default=300)
    parser.add_argument("--work", type=Path, help="folder for the files (default: a temporary one)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="arrow-quant-bench-", dir=args.work))
    try:
        result = measure(work, args.layers, args.method, args.max_memory_mb)
    finally:
        shutil.rmtree(work)
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps({"bounded_memory": result}, indent=2))


if __name__ == "__main__":
    main()
