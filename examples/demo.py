"""Quantize the shipped image model at 8, 4 and 2 bits, and look at what that does to its samples.

Usage: python examples/demo.py [OUTPUT], by default into demo-output/. Prints sizes and errors, and
writes samples.png: one row per width, every row from the same initial noise.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Literal

from arrow_quant_v2 import (
    ArrowQuantV2,
    DiffusionQuantConfig,
    QuantizationResult,
    export_safetensors,
)

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "zoo" / "models" / "image-unet"
WIDTHS: tuple[Literal[8], Literal[4], Literal[2]] = (8, 4, 2)
CALIBRATION_SAMPLES = 128
SAMPLES = 10
STEPS = 50
SEED = 0


class Progress:
    """Says on stderr how far a step is, at every tenth of it."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._shown = -1

    def __call__(self, message: str, fraction: float) -> None:
        tenths = int(10 * fraction)
        if tenths > self._shown:
            self._shown = tenths
            print(f"{self._step}: {10 * tenths} %", file=sys.stderr, flush=True)


def quantize(output: Path) -> dict[int, QuantizationResult]:
    """Run the model once to see what enters its layers, then quantize it once per width."""
    from arrow_quant_v2.torch import capture

    statistics = output / "calibration.stats"
    capture(
        MODEL,
        statistics,
        DiffusionQuantConfig(calibration_samples=CALIBRATION_SAMPLES),
        overwrite=True,
        progress_callback=Progress("calibrating"),
    )
    quantizer = ArrowQuantV2(mode="diffusion")
    results: dict[int, QuantizationResult] = {
        bits: quantizer.quantize_diffusion_model(
            MODEL,
            output / f"int{bits}",
            DiffusionQuantConfig(bit_width=bits, min_accuracy=0.0),
            progress_callback=Progress(f"INT{bits}"),
            statistics=statistics,
        )
        for bits in WIDTHS
    }
    statistics.unlink()  # many times the size of the model, and not needed any more
    return results


def print_table(results: dict[int, QuantizationResult]) -> None:
    """Sizes and errors, one row per width."""
    source = sum(path.stat().st_size for path in MODEL.rglob("*.safetensors"))
    print(f"{MODEL.name}: {source / 1e6:.2f} MB of float32 weights\n")
    print("            MB  smaller  bits/weight      NMSE   cosine  worst layer  seconds")
    for bits, result in results.items():
        print(
            f"INT{bits}  {result['model_size_mb']:8.2f}"
            f"  {result['compression_ratio']:6.1f}x"
            f"  {result['bits_per_weight']:11.2f}"
            f"  {result['nmse']:8.2e}"
            f"  {result['cosine_similarity']:7.5f}"
            f"  {result['min_cosine_similarity']:11.5f}"
            f"  {result['quantization_time_s']:7.2f}"
        )
    print()


def write_samples(output: Path) -> Path:
    """Sample the original and every export with diffusers, from the same noise, into a picture."""
    sys.path.insert(0, str(ROOT))
    import torch
    from diffusers.utils.logging import disable_progress_bar

    from zoo.sampling import sample_images, save_grid

    disable_progress_bar()
    torch.set_num_threads(1)  # a network this small only loses by more
    rows = [sample_images(MODEL, count=SAMPLES, steps=STEPS, seed=SEED)]
    labels = ["original"]
    with tempfile.TemporaryDirectory() as exported:
        for bits in WIDTHS:
            folder = export_safetensors(output / f"int{bits}", Path(exported) / f"int{bits}")
            rows.append(sample_images(folder, count=SAMPLES, steps=STEPS, seed=SEED))
            labels.append(f"INT{bits}")
    picture = output / "samples.png"
    save_grid(rows, picture, labels)
    return picture


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "demo-output"
    output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the repository
    print_table(quantize(output))
    print(f"sampling {SAMPLES} images with each model, {STEPS} steps ...", flush=True)
    picture = write_samples(output)
    print(f"{picture}: original, INT8, INT4, INT2 from the same noise")
    print(f"{output}/int8, int4, int2: the artefacts; try: arrow-quant inspect {output}/int4")


if __name__ == "__main__":
    main()
