"""Weight quantizers: error at true bits per weight, and throughput against memory and ggml.

``python -m benchmarks.quantizers [--build DIR] [--json FILE]``

Error: sum (w - v)^2 / sum w^2 of a 4096 x 4096 float32 matrix, unit Gaussian and unit Laplace,
every parameter counted in the bits. Throughput: float32 weights in memory to packed codes, two
threads, our kernels and ggml's in the same run, each the best of several rounds that alternate.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import Ggml, Matrix, peers

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_BUILD = ROOT / "build" / "cpp"
SIDE = 4096
ROUNDS = 3
Rows = list[dict[str, Any]]


def run_kernels(build: Path, *options: str) -> dict[str, Any]:
    """Run our own benchmark program."""
    program = build / "benchmarks" / "cpp" / "bench_kernels"
    done = subprocess.run([program, *options], check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def gaussian() -> Matrix:
    return np.random.default_rng(0).standard_normal((SIDE, SIDE), dtype=np.float32)


def laplace() -> Matrix:
    weights = np.random.default_rng(1).laplace(0, np.sqrt(0.5), (SIDE, SIDE))
    return weights.astype(np.float32)


def nmse(weights: Matrix, restored: Matrix) -> float:
    difference = (weights - restored).astype(np.float64)
    return float((difference**2).sum() / (weights.astype(np.float64) ** 2).sum())


def peer_errors() -> Rows:
    rows: Rows = []
    matrices = {"gauss": gaussian(), "laplace": laplace()}
    for peer in peers():
        row: dict[str, Any] = {"name": peer.name}
        for kind, weights in matrices.items():
            restored, row["bits_per_weight"] = peer.run(weights)
            row[kind] = nmse(weights, restored)
        rows.append(row)
    return rows


def own_name(row: dict[str, Any]) -> str:
    params = row["params"]
    group = "" if params == "row" else f" g{row['group_size']}"
    return f"{row['method']} INT{row['bit_width']} {params}{group}"


def own_errors(build: Path) -> Rows:
    by_name: dict[str, dict[str, Any]] = {}
    for row in run_kernels(build, "--skip-speed")["error"]:
        entry = by_name.setdefault(
            own_name(row), {"name": own_name(row), "bits_per_weight": row["bits_per_weight"]}
        )
        entry[row["weights"]] = row["nmse"]
    return list(by_name.values())


def ggml_rates(weights: Matrix, threads: int) -> dict[str, float]:
    """Million weights per second of every ggml format at hand."""
    ggml = Ggml.find()
    rates = {}
    for kind in Ggml.TYPES if ggml else ():
        assert ggml is not None
        out = ggml.buffer(kind, weights)
        repeats = 1 if kind.endswith("_K") else 5
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            ggml.quantize_into(kind, weights, out, threads)
            seconds.append(time.perf_counter() - start)
        rates[kind] = weights.size / min(seconds) * 1e-6
    return rates


def speed(build: Path, threads: int) -> dict[str, Any]:
    """Best rates over rounds that alternate between us and ggml."""
    weights = gaussian()
    bandwidth = 0.0
    own: dict[str, dict[str, Any]] = {}
    dequantize: dict[str, dict[str, Any]] = {}
    ggml: dict[str, float] = {}
    for _ in range(ROUNDS):
        result = run_kernels(build, "--skip-error", "--threads", str(threads))
        bandwidth = max(bandwidth, result["streaming_sum_gb_per_s"])
        for rows, best in ((result["quantize"], own), (result["dequantize"], dequantize)):
            for row in rows:
                name = own_name(row)
                if name not in best or row["mweights_per_s"] > best[name]["mweights_per_s"]:
                    best[name] = {"name": name, **row}
        for kind, rate in ggml_rates(weights, threads).items():
            ggml[kind] = max(rate, ggml.get(kind, 0.0))
        isa = result["isa"]
    return {
        "isa": isa,
        "threads": threads,
        "streaming_sum_gbs": bandwidth,
        "quantize": list(own.values()),
        "dequantize": list(dequantize.values()),
        "ggml": ggml,
    }


def measure(build: Path, threads: int = 2) -> dict[str, Any]:
    return {
        "speed": speed(build, threads),
        "error": {"own": own_errors(build), "peers": peer_errors()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=DEFAULT_BUILD)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    text = json.dumps(measure(args.build, args.threads), indent=2)
    print(text)
    if args.json:
        args.json.write_text(text)


if __name__ == "__main__":
    main()
