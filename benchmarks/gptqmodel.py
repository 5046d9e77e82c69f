"""GPTQModel's own quantizer on one layer, as the peer of ``bench_gptq``.

``python -m benchmarks.gptqmodel [--channels 4096] [--repeats 3]`` prints JSON: seconds from a ready
Gram matrix to quantized weights, and the output NMSE on the inputs of that matrix. GPTQModel asks
for a newer torch than the other peers, so it is not in the ``peers`` extra; with
``pip install --no-deps gptqmodel`` and what its import then misses it runs beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time

import torch
from torch import Tensor

GROUP, BITS = 64, 4


def quantize(weight: Tensor, inputs: Tensor) -> tuple[Tensor, float]:
    """The quantized weight [rows, channels], and the seconds it took from the Gram matrix."""
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.quantization.gptq import GPTQ

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    task = GPTQ(layer, QuantizeConfig(bits=BITS, group_size=GROUP))
    task.quantizer.configure(perchannel=True)
    task.add_batch(inputs[None], torch.empty(0), 0)
    task.finalize_hessian()
    start = time.perf_counter()
    restored = task.quantize()[0]
    return restored.float(), time.perf_counter() - start


def measure(channels: int, repeats: int, threads: int = 2) -> dict[str, float]:
    """The best of `repeats` runs on a Gaussian layer with inputs of twice its channels."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(channels, channels, generator=generator)
    inputs = torch.randn(2 * channels, channels, generator=generator)
    seconds = float("inf")
    with torch.inference_mode(), contextlib.redirect_stdout(sys.stderr):
        for _ in range(repeats):
            restored, took = quantize(weight, inputs)
            seconds = min(seconds, took)
        error = ((restored - weight) @ inputs.T).square().sum()
        nmse = float(error / (weight @ inputs.T).square().sum())
    return {"channels": channels, "seconds": seconds, "output_nmse": nmse}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(json.dumps(measure(args.channels, args.repeats)))


if __name__ == "__main__":
    main()
