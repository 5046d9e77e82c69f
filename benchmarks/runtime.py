"""How fast quantized models run, against torch and the runtimes that are installed.

``python -m benchmarks.runtime [--threads N] [--only products|single|steps|loading] [--json FILE]``

Everything is measured in one process and one run, contestants taking turns, the best of several
rounds each: only ratios within a run mean anything.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from arrow_quant_v2 import ArrowQuantV2
from arrow_quant_v2._native import core
from arrow_quant_v2.torch import Execution, PackedWeight
from arrow_quant_v2.torch.layers.quant_layers import QuantLinear
from benchmarks.runtime_models import loading, steps
from benchmarks.runtime_peers import Layer, best_of, peer_layers

nn = torch.nn

SIZE = 4096
TOKENS = (1, 16, 64, 256, 1024, 4096)
#: oneDNN is fast with uint8 inputs and slow with int8 ones, so zero is 128.
SHIFT = 128
#: Weights of the single-token test together, so that no cache holds them.
SINGLE_BYTES = 384 << 20


# Matrix products


def packed(weight: torch.Tensor, bits: int, execution: Execution, group: int = 64) -> QuantLinear:
    tensor = ArrowQuantV2(mode="base").quantize(weight, bits, group_size=group, method="rtn")
    return QuantLinear(PackedWeight.from_tensor(tensor), None, execution)


def own_layers(weight: torch.Tensor) -> dict[str, Layer]:
    """Ours, by name."""
    layers: dict[str, Layer] = {}
    for bits in (8, 4, 2):
        layers[f"ours W{bits}A8, packed"] = packed(weight, bits, Execution("dynamic"))
        layers[f"ours W{bits}A8, int8 kept"] = packed(weight, bits, Execution("dynamic", True))
        layers[f"ours W{bits}, f32 inputs"] = packed(weight, bits, Execution())
    layers["ours W4A8, packed, group 128"] = packed(weight, 4, Execution("dynamic"), 128)
    return layers


def torch_layers(weight: torch.Tensor) -> dict[str, Layer]:
    half = weight.to(torch.bfloat16)
    return {
        "torch f32": lambda x: nn.functional.linear(x, weight),
        "torch bf16": lambda x: nn.functional.linear(x.to(torch.bfloat16), half),
        "oneDNN int8, dynamic per token": onednn_dynamic(weight),
        "oneDNN int8, input already int8": onednn_ready(weight),
    }


def int8_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scales = weight.abs().amax(dim=1) / 127
    return (weight / scales[:, None]).round().to(torch.int8), scales


def onednn_product(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    values, scales = int8_rows(weight)
    prepacked = torch.ops.onednn.qlinear_prepack(values, None)
    zeros = torch.zeros(len(scales), dtype=torch.int32)

    def run(q: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            q, 1.0, SHIFT, prepacked, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return out

    return run


def onednn_dynamic(weight: torch.Tensor) -> Layer:
    product = onednn_product(weight)

    def run(x: torch.Tensor) -> torch.Tensor:
        scale = torch.linalg.vector_norm(x, ord=float("inf"), dim=1, keepdim=True).div_(127)
        return product(x.div(scale).round_().add_(SHIFT).to(torch.uint8)).mul_(scale)

    return run


def onednn_ready(weight: torch.Tensor) -> Layer:
    product = onednn_product(weight)
    ready: dict[int, torch.Tensor] = {}

    def run(x: torch.Tensor) -> torch.Tensor:
        if len(x) not in ready:
            ready[len(x)] = (x * 30).round().clamp(-127, 127).add(SHIFT).to(torch.uint8)
        return product(ready[len(x)])

    return run


def products() -> list[dict[str, Any]]:
    """GOP/s by number of tokens."""
    weight = torch.randn(SIZE, SIZE)
    layers = {**torch_layers(weight), **peer_layers(weight), **own_layers(weight)}
    rates: dict[str, dict[int, float]] = {name: {} for name in layers}
    for tokens in TOKENS:
        x = torch.randn(tokens, SIZE)
        calls = {name: (lambda f=layer, x=x: f(x)) for name, layer in layers.items()}
        times = best_of(calls)
        for name, seconds in times.items():
            rates[name][tokens] = 2 * tokens * SIZE * SIZE / seconds / 1e9
    return [{"name": name, "gops": found} for name, found in rates.items()]


# One token, weights from memory


def single() -> dict[str, Any]:
    """Bytes of packed weights per second where every call meets another weight."""
    weight = torch.randn(SIZE, SIZE)
    x = torch.randn(1, SIZE)
    block = torch.ones(SINGLE_BYTES // 8, dtype=torch.int64)
    bandwidth = block.nbytes / best_of({"sum": block.sum})["sum"] / 1e9
    rows = []
    for bits in (8, 4, 2):
        first = packed(weight, bits, Execution())
        size = sum(b.nbytes for b in first.weight.buffers())
        copies = [first, *(clone(first) for _ in range(SINGLE_BYTES // size))]

        def sweep(layers: list[QuantLinear] = copies) -> None:
            for layer in layers:
                layer(x)

        seconds = best_of({"sweep": sweep})["sweep"]
        rate = size * len(copies) / seconds / 1e9
        rows.append({"bits": bits, "gbs": rate, "of_bandwidth": rate / bandwidth})
    return {"bandwidth_gbs": bandwidth, "rows": rows}


def clone(layer: QuantLinear) -> QuantLinear:
    buffers = {name: b.clone() for name, b in layer.weight.named_buffers()}
    return QuantLinear(PackedWeight(layer.weight.fmt, buffers), None, layer.execution)


def measure(work: Path, threads: int, only: Iterable[str] = ()) -> dict[str, Any]:
    torch.set_num_threads(threads)
    wanted = set(only) or {"products", "single", "steps", "loading"}
    results: dict[str, Any] = {"threads": threads, "isa": core.build_info().isa}
    with torch.inference_mode():
        if "products" in wanted:
            results["products"] = products()
        if "single" in wanted:
            results["single"] = single()
    if "steps" in wanted:
        results["steps"] = steps(work)
    if "loading" in wanted:
        results["loading"] = loading(work, threads)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="arrow-quant-bench-") as folder:
        results = measure(Path(folder), args.threads, args.only)
    text = json.dumps(results, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
