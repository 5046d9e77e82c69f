"""What lies between layers and time-dependent parameters cost in a denoising step.

``python -m benchmarks.step_parts [--threads N] [--json FILE]``

Contestants take turns in one process, the best of several rounds each.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from arrow_quant_v2 import TimeGroup, load_quantized
from arrow_quant_v2._native import core
from arrow_quant_v2.torch import Execution
from arrow_quant_v2.torch.layers.clock import Clock
from arrow_quant_v2.torch.layers.time_parameters import TimeParameters
from arrow_quant_v2.torch.ops import library
from arrow_quant_v2.torch.ops.attention_gelu import compute_by_engine
from benchmarks.runtime_models import MODELS, quantized
from benchmarks.runtime_peers import best_of

__all__ = ["measure", "section"]

nn = torch.nn
functional = nn.functional

#: (heads, tokens, width) at batch 2: the levels of UNet2DModel (128, 256, 512), and wider heads.
HEADS = ((32, 1024, 8), (64, 256, 8), (16, 1024, 16), (12, 256, 64), (8, 1024, 40), (8, 4096, 64))
#: Numbers that GELU is tried on: those between the layers of a DiT-B's feed-forward block.
GATED = 2 * 256 * 3072
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TIME_GROUPS = 10
UNET = next(iter(MODELS))


def attention() -> list[dict[str, Any]]:
    rows = []
    for heads, tokens, width in HEADS:
        for name, dtype in DTYPES.items():
            shape = (2, tokens, heads, width)
            q, k, v = (torch.randn(shape, dtype=dtype).transpose(1, 2) for _ in range(3))
            contestants = {
                "torch": lambda q=q, k=k, v=v: functional.scaled_dot_product_attention(q, k, v),
                "ours": lambda q=q, k=k, v=v: library.attention(
                    q, k, v, 1 / math.sqrt(q.shape[-1])
                ),
            }
            what = f"{heads} heads of {width}, {tokens} tokens"
            rows.append({"what": what, "dtype": name, "seconds": best_of(contestants)})
    return rows


def gelu() -> list[dict[str, Any]]:
    rows = []
    for name, dtype in DTYPES.items():
        x = torch.randn(GATED, dtype=dtype)
        contestants = {
            "torch": lambda x=x: functional.gelu(x, approximate="tanh"),
            "ours": lambda x=x: library.gelu_tanh(x),
        }
        what = f"GELU of {GATED / 1e6:.1f} M numbers"
        rows.append({"what": what, "dtype": name, "seconds": best_of(contestants)})
    return rows


def unet_steps(work: Path) -> dict[str, float]:
    """Seconds of a step with either's attention and GELU, of the float and of the W4A8 model."""
    model, inputs, artefact = subject(UNET, work)
    with mock.patch("arrow_quant_v2.torch.load.loading.compute_by_engine"):
        plain = load_quantized(artefact, compute="int8")
    ours = load_quantized(artefact, compute="int8")
    other = MODELS[UNET]()[0].eval().requires_grad_(False)
    compute_by_engine(other)
    return best_of(
        {
            "torch f32": lambda: model(*inputs),
            "torch f32, ours between layers": lambda: other(*inputs),
            "ours W4A8, torch's between layers": lambda: plain(*inputs),
            "ours W4A8": lambda: ours(*inputs),
        }
    )


def time_aware(name: str, work: Path) -> dict[str, float]:
    """Seconds of a W4A8 step with inputs scaled as they come, and by the groups of the time."""
    _, inputs, artefact = subject(name, work)
    at_one_time = [500 * torch.ones_like(x) if x.shape == (2,) else x for x in inputs[:2]]
    given = (*at_one_time, *inputs[2:])
    without = load_quantized(artefact, compute="int8")
    aware = load_quantized(artefact, compute="int8")
    add_time_groups(aware)
    return best_of({"without": lambda: without(*given), "with": lambda: aware(*given)})


def add_time_groups(model: nn.Module) -> None:
    """Static scales and biases to every quantized layer; what they are does not change the time."""
    clock = Clock()
    span = 1000 / TIME_GROUPS
    for layer in model.modules():
        if hasattr(layer, "time_parameters"):
            zeros = np.zeros(layer.weight.fmt.rows, np.float32)
            groups = [
                TimeGroup(i * span, (i + 1) * span, 0.05, 0, None, zeros)
                for i in range(TIME_GROUPS)
            ]
            layer.time_parameters = TimeParameters.from_groups(groups, clock)
            layer.execution = Execution("static", keep_int8=True)
    clock.watch(model)


def subject(name: str, work: Path) -> tuple[nn.Module, tuple[Any, ...], Path]:
    """A model, its inputs, and its artefact at INT4."""
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    model = model.eval().requires_grad_(False)
    source = work / f"source-{list(MODELS).index(name)}"
    if source.exists():
        return model, inputs, work / f"{source.name}-int4"
    model.save_pretrained(source)
    return model, inputs, quantized(source, work, 4)


def measure(work: Path, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    with torch.inference_mode():
        return {
            "threads": threads,
            "isa": core.build_info().isa,
            "between": attention() + gelu(),
            "unet": unet_steps(work),
            "time_aware": {name: time_aware(name, work) for name in MODELS},
        }


def section(
    results: dict[str, Any], table: Callable[[Sequence[str], Iterable[Sequence[str]]], str]
) -> str:
    """A section of docs/benchmarks.md."""
    steps = results["unet"]
    slowest = steps["torch f32"]
    return (
        "## Between layers, and time-dependent parameters\n\n"
        f"`python -m benchmarks.step_parts`, {results['threads']} threads, {results['isa']},\n"
        "random weights; the runtimes take turns.\n\n"
        "Attention at batch 2, and tanh-GELU:\n\n"
        + table(
            ("what", "type", "torch, ms", "**ours**, ms", "faster"),
            (
                (
                    row["what"],
                    row["dtype"],
                    f"{1e3 * row['seconds']['torch']:.1f}",
                    f"{1e3 * row['seconds']['ours']:.1f}",
                    f"{row['seconds']['torch'] / row['seconds']['ours']:.2f}",
                )
                for row in results["between"]
            ),
        )
        + f"\nA float32 step of {UNET}, batch 2, with either's attention and GELU:\n\n"
        + table(
            ("model", "seconds", "faster than torch f32"),
            (
                (name, f"{seconds:.3f}", f"{slowest / seconds:.2f}")
                for name, seconds in sorted(steps.items(), key=lambda item: -item[1])
            ),
        )
        + f"\nA W4A8 step with scales and biases of {TIME_GROUPS} groups of timesteps:\n\n"
        + table(
            ("model", "without, s", "with, s", "with over without"),
            (
                (
                    name,
                    f"{found['without']:.3f}",
                    f"{found['with']:.3f}",
                    f"{found['with'] / found['without']:.2f}",
                )
                for name, found in results["time_aware"].items()
            ),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="arrow-quant-bench-") as folder:
        results = measure(Path(folder), args.threads)
    text = json.dumps({"step_parts": results}, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
