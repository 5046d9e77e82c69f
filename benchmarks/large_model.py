"""Loading a model in 7B shapes at INT4, and its first step.

``python -m benchmarks.large_model [--layers 32] [--work DIR] [--json FILE]``

The float model, 13.5 GB of random bf16 weights, is on disk only while it is being quantized. The
packed one is loaded from a warm cache in a process of its own that has the libraries imported, and
runs on one sequence of tokens with float inputs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from arrow_quant_v2._native import core
from benchmarks import bounded_memory
from benchmarks.runtime_models import in_process, stored_bytes
from benchmarks.synthetic import HIDDEN, MLP, VOCABULARY, write_llm

TOKENS = 64

_RUN = """
import json, re, sys, time
import torch, transformers
from transformers import LlamaForCausalLM
from arrow_quant_v2.torch import load_quantized

path, layers, threads, tokens, hidden, mlp, vocabulary = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
config = transformers.LlamaConfig(
    hidden_size=hidden, intermediate_size=mlp, vocab_size=vocabulary, num_hidden_layers=layers,
    num_attention_heads=hidden // 128, num_key_value_heads=hidden // 128,
)
ids = torch.arange(tokens)[None]
begin = time.perf_counter()
with torch.device("meta"):
    module = LlamaForCausalLM(config).eval()
module.model.rotary_emb = type(module.model.rotary_emb)(config)  # its buffers are not stored
model = load_quantized(path, module=module)
loaded = time.perf_counter()
with torch.inference_mode():
    model(ids, use_cache=False)
    first = time.perf_counter()
    model(ids, use_cache=False)
second = time.perf_counter()
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(json.dumps({"load_seconds": loaded - begin, "first_seconds": first - loaded,
                  "second_seconds": second - first, "peak_bytes": peak}))
"""


def measure(work: Path, layers: int, threads: int) -> dict[str, Any]:
    """Quantize, load, run; files are below `work`."""
    return run(quantized(work, layers), layers, threads)


def quantized(work: Path, layers: int) -> Path:
    source, artefact = work / "llm", work / "llm-int4"
    write_llm(source, layers)
    bounded_memory.quantize(source, artefact, "rtn", 1024, bit_width=4)
    shutil.rmtree(source)
    return artefact


def run(artefact: Path, layers: int, threads: int) -> dict[str, Any]:
    for file in filter(Path.is_file, artefact.rglob("*")):
        with file.open("rb") as stream:
            while stream.read(1 << 24):  # into the cache
                pass
    numbers = (layers, threads, TOKENS, HIDDEN, MLP, VOCABULARY)
    found = in_process(_RUN, artefact, *numbers)
    return {
        "layers": layers,
        "tokens": TOKENS,
        "threads": threads,
        "isa": core.build_info().isa,
        "stored_bytes": stored_bytes(artefact),
        **found,
    }


def section(
    results: dict[str, Any], table: Callable[[Sequence[str], Iterable[Sequence[str]]], str]
) -> str:
    """A section of docs/benchmarks.md."""
    stored, load = results["stored_bytes"], results["load_seconds"]
    return (
        "## A 7B model to its first step\n\n"
        f"`python -m benchmarks.large_model`: {results['layers']} layers in the shapes of a 7B\n"
        "model at INT4, random weights, warm cache, libraries imported,\n"
        f"{results['threads']} threads, {results['isa']}. Steps are on {results['tokens']} tokens\n"
        "with float inputs. The peak is that of the whole process.\n\n"
        + table(
            ("packed GB", "load, s", "GB/s", "first step, s", "second step, s", "peak, GB"),
            [
                (
                    f"{stored / 1e9:.2f}",
                    f"{load:.2f}",
                    f"{stored / load / 1e9:.2f}",
                    f"{results['first_seconds']:.2f}",
                    f"{results['second_seconds']:.2f}",
                    f"{results['peak_bytes'] / 1e9:.2f}",
                )
            ],
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder with room for 18 GB")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="arrow-quant-bench-", dir=args.work) as folder:
        results = measure(Path(folder), args.layers, args.threads)
    text = json.dumps({"large_model": results}, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
