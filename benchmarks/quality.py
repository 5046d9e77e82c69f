"""Quality of quantized models against peers at equal bits, end to end.

``python -m benchmarks.quality [MODEL_DIR ...] [--only GLOB] [--again GLOB] [--samples 128]
[--smoke] [--work build/quality]``

Every model of the zoo and of ``../shared/real-models`` is quantized by every method, the same
layers each time, and measured by ``zoo.evaluate`` on held-out items that calibration never saw.
Calibrated methods all work from the same statistics. A finished (model, method) is kept in the work
folder, so that the command can be run in pieces; ``--again`` measures methods anew. At the end what
was measured takes its place in ``benchmarks/quality.parquet``, a row for each model and method, and
docs/benchmarks.md has the tables of all rows.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.quality_settings import ROOT, SAMPLES, WORK, ZOO

REAL_MODELS = Path(
    os.environ.get("ARROW_QUANT_REAL_MODELS", ROOT.parent / "shared" / "real-models")
)
#: Every published result.
PUBLISHED = ROOT / "benchmarks" / "quality.parquet"
FORMAT = 1
#: Held-out items of a model; their losses are paired, so a few hundred tell methods apart.
ITEMS = 200


@dataclass(frozen=True)
class Result:
    """One method on one model; what the tables are made of."""

    format: int
    model: str
    method: str
    family: str
    ours: bool
    calibrated: bool
    samples: int
    bits_per_weight: float
    loss: float
    reference_loss: float
    mean: float
    low: float
    high: float
    geometric_mean: float
    worst_bin: float
    drift: float
    drift_name: str
    bins: list[float]
    seconds: float


def found_models() -> list[Path]:
    """Models of the zoo, and third-party ones where they are at hand; of several files, each."""
    found = []
    for folder in [*sorted(ZOO.iterdir()), *sorted(REAL_MODELS.glob("*/"))]:
        files = sorted(folder.glob("*.safetensors"))
        if len(files) > 1:
            found += files
        elif any(folder.rglob("*.safetensors")):
            found.append(folder)
    return found


class Run:
    """All methods over one model, with finished ones taken from the work folder."""

    def __init__(self, model: Any, work: Path, samples: int, kind: str) -> None:
        self.model = model
        self._folder = work / "results" / f"{kind}-{samples}" / model.name
        self._samples = samples

    def path(self, method: str) -> Path:
        return self._folder / f"{re.sub('[^A-Za-z0-9]+', '-', method).strip('-')}.json"

    def finished(self, method: str) -> Result | None:
        try:
            found = json.loads(self.path(method).read_text())
        except FileNotFoundError:
            return None
        return Result(**found) if found.get("format") == FORMAT else None

    def keep(
        self,
        method: str,
        family: str,
        bits: float,
        quality: Any,
        seconds: float,
        *,
        ours: bool,
        calibrated: bool,
    ) -> Result:
        result = Result(
            format=FORMAT,
            model=self.model.name,
            method=method,
            family=family,
            ours=ours,
            calibrated=calibrated,
            samples=self._samples,
            bits_per_weight=bits,
            loss=quality.loss,
            reference_loss=quality.reference_loss,
            mean=quality.mean,
            low=quality.low,
            high=quality.high,
            geometric_mean=quality.geometric_mean,
            worst_bin=quality.worst_bin,
            drift=quality.drift,
            drift_name=quality.drift_name,
            bins=list(quality.bins),
            seconds=seconds,
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self.path(method).with_suffix(".partial")
        partial.write_text(json.dumps(asdict(result), indent=1))
        partial.replace(self.path(method))
        return result


def measure_peers(run: Run, wanted: Any) -> Iterator[Result]:
    """Methods that map a matrix to a restored one."""
    from benchmarks.weight_methods import mean_bits, weight_methods

    for method in weight_methods():
        name = f"{method.family} {method.name}"
        if not wanted(run, name):
            continue
        start = time.perf_counter()
        restored: dict[str, np.ndarray] = {}
        bits = []
        for layer in run.model.layers(calibrated=method.calibrated):
            restored[layer.name], layer_bits = method.run(layer)
            bits.append((layer.weights.size, layer_bits))
        seconds = time.perf_counter() - start
        quality = run.model.quality(run.model.with_weights(restored))
        yield run.keep(
            name,
            method.family,
            mean_bits(bits),
            quality,
            seconds,
            ours=False,
            calibrated=method.calibrated,
        )


def measure_smoothquant(run: Run, wanted: Any) -> Iterator[Result]:
    """Int8 weights and activations."""
    name = "INT8 SmoothQuant W8A8"
    if wanted(run, name):
        start = time.perf_counter()
        quality = run.model.quality_of_smoothquant()
        seconds = time.perf_counter() - start
        inputs = run.model.mean_inputs()
        yield run.keep(name, "INT8", 8 + 16 / inputs, quality, seconds, ours=False, calibrated=True)


def measure_ours(run: Run, wanted: Any) -> Iterator[Result]:
    """ArrowQuant as users run it: an artefact on disk, running from its packed weights."""
    from arrow_quant_v2.errors import ConfigurationError
    from benchmarks.quality_settings import own_methods

    with tempfile.TemporaryDirectory(prefix="quality-") as folder:
        made: dict[str, tuple[Path, float, float]] = {}
        for method in own_methods():
            if not wanted(run, method.name):
                continue
            key = json.dumps(method.settings, sort_keys=True)
            if key not in made:  # one artefact runs with several kinds of activations
                try:
                    made[key] = quantize(run.model, method, Path(folder) / str(len(made)))
                except ConfigurationError as error:  # a target that narrow layers cannot reach
                    print(f"{run.model.name:16s} {method.name:40s} {error}", flush=True)
                    continue
            artefact, bits, seconds = made[key]
            quality = run.model.quality_of_artefact(artefact, method.activation)
            yield run.keep(
                method.name,
                method.family,
                bits,
                quality,
                seconds,
                ours=True,
                calibrated=method.calibrated,
            )


def quantize(model: Any, method: Any, artefact: Path) -> tuple[Path, float, float]:
    """The artefact, its bits per weight, and the seconds it took."""
    from arrow_quant_v2 import ArrowQuantV2
    from arrow_quant_v2.config.settings import LEARNING
    from arrow_quant_v2.torch import quantize_learned

    settings = model.settings(**method.settings)
    statistics = None
    if method.calibrated:
        statistics = model.statistics_for(time_aware=settings.enable_time_aware)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if settings.method == "learned" and model.source.is_file():
            network, heard = model.overheard(LEARNING.seed)
            result = quantize_learned(
                network, heard, model.source, artefact, settings, statistics=statistics
            )
        else:
            result = ArrowQuantV2().quantize_diffusion_model(
                model.source, artefact, settings, statistics=statistics
            )
    return artefact, result["bits_per_weight"], time.perf_counter() - start


def publish(results: list[Result], path: Path) -> list[dict[str, Any]]:
    """Put results in place of older ones of the same model and method; returns all rows."""
    rows = pq.read_table(path).to_pylist() if path.exists() else []
    known = {(row["model"], row["method"]): row for row in rows if row["format"] == FORMAT}
    known.update({(result.model, result.method): asdict(result) for result in results})
    rows = [known[key] for key in sorted(known)]
    partial = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows), partial)
    partial.replace(path)
    return rows


def kept_results(work: Path, kind: str, samples: int) -> list[Result]:
    """Everything that is finished, by model and method."""
    files = sorted((work / "results" / f"{kind}-{samples}").glob("*/*.json"))
    rows = [json.loads(file.read_text()) for file in files]
    return [Result(**row) for row in rows if row.get("format") == FORMAT]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="*", type=Path, help="folders, or one of several weight files; none: all"
    )
    parser.add_argument("--only", default="*", help="methods to measure, as a glob")
    parser.add_argument("--again", default="", help="finished methods to measure again, as a glob")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of calibration")
    parser.add_argument("--smoke", action="store_true", help="few items; says little")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--tables", action="store_true", help="only publish what is kept")
    args = parser.parse_args()
    kind = "smoke" if args.smoke else "full"
    if not args.tables:
        measure(args, kind)
    results = kept_results(args.work, kind, args.samples)
    if not results:
        raise SystemExit("nothing has been measured")
    if args.smoke or args.samples != SAMPLES:
        return
    from benchmarks.page import update_page

    update_page({"quality": publish(results, PUBLISHED)})
    print(f"wrote {PUBLISHED}")


def measure(args: argparse.Namespace, kind: str) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    from benchmarks.quality_model import MeasuredModel
    from zoo.evaluate.subject import Effort

    def wanted(run: Run, name: str) -> bool:
        if not fnmatch.fnmatchcase(name, args.only):
            return False
        return run.finished(name) is None or fnmatch.fnmatchcase(name, args.again)

    effort = Effort.smoke() if args.smoke else Effort(items=ITEMS, samples=0, steps=0)
    for folder in args.models or found_models():
        model = MeasuredModel(folder.resolve(), args.work, args.samples, effort)
        run = Run(model, args.work, args.samples, kind)
        for measured in (measure_ours, measure_peers, measure_smoothquant):
            for result in measured(run, wanted):
                print(
                    f"{result.model:16s} {result.method:40s} {result.bits_per_weight:6.3f} bits  "
                    f"loss {100 * result.mean:+8.2f} %  drift {result.drift:.4g}  "
                    f"{result.seconds:.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
