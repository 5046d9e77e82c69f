"""What spatial and time-aware quantization cost beside the base of the same samples.

``python -m benchmarks.calibration_cost [--samples 64] [--rounds 3] [--threads N] [--json FILE]``

Calibration and quantization of zoo models, with the parts switched on one by one, in turns. Times
are of the processor, all threads together, the least of the rounds: other programs disturb them
less than what a clock shows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig
from benchmarks.quality_model import CALIBRATION_SEED
from benchmarks.quality_settings import ZOO

__all__ = ["measure", "section"]

MODELS = ("image-dit", "text", "audio")
WIDTHS = (4, 2)
PARTS = {
    "base": {"enable_spatial": False, "enable_time_aware": False},
    "+ spatial": {"enable_spatial": True, "enable_time_aware": False},
    "+ time-aware": {"enable_spatial": False, "enable_time_aware": True},
    "+ both": {"enable_spatial": True, "enable_time_aware": True},
}
#: How much more than base the guide allows, in per cent.
MOST = 10


def cpu_seconds(job: Callable[[], Any]) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        job()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Least:
    """The least time of every job over all rounds."""

    def __init__(self) -> None:
        self.seconds: dict[Any, float] = {}

    def run(self, key: Any, job: Callable[[], Any]) -> None:
        self.seconds[key] = min(self.seconds.get(key, float("inf")), cpu_seconds(job))


def measure_model(
    model: str, work: Path, samples: int, rounds: int, threads: int
) -> list[dict[str, Any]]:
    """A row for every width and part."""
    from arrow_quant_v2.torch import capture

    least = Least()

    def settings(**values: Any) -> DiffusionQuantConfig:
        common = {"calibration_samples": samples, "num_threads": threads, "min_accuracy": 0.0}
        return DiffusionQuantConfig(**{**common, **values})

    def statistics(time_aware: bool) -> Path:
        return work / f"{model}-{time_aware}.stats"

    # What a library does once, on its first call, is nobody's cost.
    capture(ZOO / model, work / "warm.stats", settings(calibration_samples=1), overwrite=True)
    for _ in range(rounds):
        for time_aware in (False, True):
            config = settings(enable_time_aware=time_aware)
            path = statistics(time_aware)
            least.run(
                time_aware,
                lambda config=config, path=path: capture(
                    ZOO / model, path, config, seed=CALIBRATION_SEED, overwrite=True
                ),
            )
        for bits in WIDTHS:
            for part, switches in PARTS.items():
                out = work / "out"
                shutil.rmtree(out, ignore_errors=True)
                config = settings(bit_width=bits, **switches)
                path = statistics(switches["enable_time_aware"])
                least.run(
                    (bits, part),
                    lambda out=out, config=config, path=path: (
                        ArrowQuantV2().quantize_diffusion_model(
                            ZOO / model, out, config, statistics=path
                        )
                    ),
                )
    return [
        {
            "model": model,
            "bit_width": bits,
            "part": part,
            "calibration": least.seconds[switches["enable_time_aware"]],
            "quantization": least.seconds[bits, part],
        }
        for bits in WIDTHS
        for part, switches in PARTS.items()
    ]


def measure(work: Path, samples: int, rounds: int, threads: int) -> dict[str, Any]:
    rows = []
    for model in MODELS:
        rows += measure_model(model, work, samples, rounds, threads)
    return {"samples": samples, "rounds": rounds, "threads": threads, "rows": rows}


def section(
    results: dict[str, Any], table: Callable[[Sequence[str], Iterable[Sequence[str]]], str]
) -> str:
    """A section of docs/benchmarks.md."""
    base = {
        (row["model"], row["bit_width"]): row for row in results["rows"] if row["part"] == "base"
    }

    def more(row: dict[str, Any], *keys: str) -> float:
        plain = base[row["model"], row["bit_width"]]
        return sum(row[key] for key in keys) / sum(plain[key] for key in keys) - 1

    both = [row for row in results["rows"] if row["part"] == "+ both"]
    totals = [more(row, "calibration", "quantization") for row in both]
    holds = sum(total < MOST / 100 for total in totals)
    return (
        "## What calibrated parts cost\n\n"
        f"`python -m benchmarks.calibration_cost`: {results['samples']} samples, group size 128,\n"
        f"threads: {results['threads']}. Processor seconds, the least of {results['rounds']} "
        "rounds in turns. *more* compares with\n*base* on the same samples. The guide "
        f"promises less than {MOST} % more for both together. With\ncalibration counted, that "
        f"holds in {holds} of {len(totals)} cases, and the mean is "
        f"{100 * sum(totals) / len(totals):.0f} %.\n\n"
        + table(
            (
                "model",
                "bits",
                "part",
                "calibration, s",
                "more",
                "quantization, s",
                "more",
                "together, more",
            ),
            (
                (
                    row["model"],
                    str(row["bit_width"]),
                    row["part"],
                    f"{row['calibration']:.2f}",
                    _percent(more(row, "calibration")),
                    f"{row['quantization']:.2f}",
                    _percent(more(row, "quantization")),
                    _percent(more(row, "calibration", "quantization")),
                )
                for row in results["rows"]
            ),
        )
    )


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="arrow-quant-bench-") as folder:
        results = measure(Path(folder), args.samples, args.rounds, args.threads)
    text = json.dumps({"calibration_cost": results}, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
