"""The accuracy that results report at every width, against what validation asks for.

``python -m benchmarks.accuracy [MODEL_DIR ...] [--work build/quality]``

Every zoo model is quantized at 2, 4 and 8 bits with the other settings as they are by default:
calibrated, on the statistics that ``benchmarks.quality`` keeps in the work folder, and without.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arrow_quant_v2 import ArrowQuantV2
from arrow_quant_v2.config.settings import THRESHOLDS
from benchmarks.page import update_page
from benchmarks.quality_model import MeasuredModel
from benchmarks.quality_settings import SAMPLES, WORK, ZOO
from zoo.evaluate.subject import Effort

WIDTHS = (2, 4, 8)


def measure(folder: Path, work: Path) -> Iterator[dict[str, Any]]:
    """A row for every width."""
    model = MeasuredModel(folder.resolve(), work, SAMPLES, Effort.smoke())
    statistics = model.statistics_for(time_aware=True)
    quantizer = ArrowQuantV2()
    for bits in WIDTHS:
        with tempfile.TemporaryDirectory(prefix="accuracy-") as place:
            out = Path(place) / "out"
            settings = model.settings(bit_width=bits)
            result = quantizer.quantize_diffusion_model(
                model.source, out, settings, statistics=statistics
            )
            validation = quantizer.validate_quality(model.source, out)
            settings.calibration_samples = 0
            data_free = quantizer.quantize_diffusion_model(model.source, out, settings)
        yield {
            "model": model.name,
            "bit_width": bits,
            "wanted": THRESHOLDS[f"int{bits}"],
            "outputs": result["cosine_similarity"],
            "worst_outputs": result["min_cosine_similarity"],
            "weights": validation["cosine_similarity"],
            "passed": validation["passed"],
            "data_free_weights": data_free["cosine_similarity"],
            "data_free_worst": data_free["min_cosine_similarity"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, help="model folders; none: the zoo")
    parser.add_argument("--work", type=Path, default=WORK)
    args = parser.parse_args()
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for folder in args.models or sorted(ZOO.iterdir()):
            for row in measure(folder, args.work):
                print(row, flush=True)
                rows.append(row)
    update_page({"accuracy": rows})


if __name__ == "__main__":
    main()
