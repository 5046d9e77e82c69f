"""Run every benchmark and write docs/benchmarks.md.

``python -m benchmarks.run [--build DIR] [--work DIR] [--from-json FILE]``
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import (
    bounded_memory,
    quantizers,
)
from benchmarks.page import update_page
from benchmarks.synthetic import write_llm

ROOT = quantizers.ROOT


def read_back(build: Path, work: Path) -> list[dict[str, Any]]:
    """Dequantize a whole artefact of 0.8 G weights at every width."""
    model = work / "readback-model"
    write_llm(model, 4)
    rows = []
    for bits in (4, 2, 8):
        out = work / f"readback-{bits}"
        bounded_memory.quantize(model, out, "rtn", 1024, bit_width=bits)
        program = build / "benchmarks" / "cpp" / "bench_artefact"
        done = subprocess.run([program, out], check=True, capture_output=True, text=True)
        rows.append({"bit_width": bits, **json.loads(done.stdout)})
        shutil.rmtree(out)
    shutil.rmtree(model)
    return rows


def error_feedback(build: Path) -> dict[str, Any]:
    """One 4096 x 4096 layer, two threads; GPTQModel in the same run where it is installed."""
    program = build / "benchmarks" / "cpp" / "bench_gptq"
    done = subprocess.run([program], check=True, capture_output=True, text=True)
    results = dict(json.loads(done.stdout))
    if importlib.util.find_spec("gptqmodel") is not None:
        peer = [sys.executable, "-m", "benchmarks.gptqmodel"]
        done = subprocess.run(peer, check=True, capture_output=True, text=True)
        results["gptqmodel"] = json.loads(done.stdout.splitlines()[-1])
    return results


def measure(build: Path, work: Path) -> dict[str, Any]:
    results = quantizers.measure(build)
    results["error_feedback"] = error_feedback(build)
    results["read_back"] = read_back(build, work)
    results["bounded_memory"] = bounded_memory.measure(work, 4, "rtn", 300)
    results.update(in_process("calibration_cost", work))
    results["runtime"] = in_process("runtime", work)
    results.update(in_process("step_parts", work))
    return results


def in_process(module: str, work: Path) -> dict[str, Any]:
    """In a process of its own: torch sets threads up for as long as it lives."""
    file = work / f"{module}.json"
    subprocess.run([sys.executable, "-m", f"benchmarks.{module}", "--json", file], check=True)
    results: dict[str, Any] = json.loads(file.read_text())
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=quantizers.DEFAULT_BUILD)
    parser.add_argument("--work", type=Path, help="folder for large files")
    parser.add_argument("--json", type=Path, help="also keep the raw results")
    parser.add_argument("--from-json", type=Path, help="only write the page, from kept results")
    args = parser.parse_args()
    if args.from_json:
        results = json.loads(args.from_json.read_text())
    else:
        work = Path(tempfile.mkdtemp(prefix="arrow-quant-bench-", dir=args.work))
        try:
            results = measure(args.build, work)
        finally:
            shutil.rmtree(work)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))
    update_page(results)


if __name__ == "__main__":
    main()
