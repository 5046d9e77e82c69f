"""Denoising steps and loading of whole models, with random weights."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, load_quantized
from arrow_quant_v2.torch.ops import cpu
from benchmarks.runtime_peers import best_of, peer_steps

nn = torch.nn


def unet() -> tuple[nn.Module, tuple[Any, ...]]:
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=64,
        block_out_channels=(128, 256, 512),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    return model, (torch.randn(2, 3, 64, 64), torch.tensor([10, 500]))


def dit() -> tuple[nn.Module, tuple[Any, ...]]:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=12, attention_head_dim=64, num_layers=12, sample_size=32, patch_size=2
    )
    return model, (torch.randn(2, 4, 32, 32), torch.tensor([10, 500]), torch.tensor([1, 7]))


MODELS = {"UNet2DModel (128, 256, 512), 64 x 64": unet, "DiT-B, 32 x 32 latents": dit}


def steps(work: Path) -> list[dict[str, Any]]:
    """Seconds a denoising step, batch 2."""
    return [one_model(name, make, work) for name, make in MODELS.items()]


def one_model(name: str, make: Callable[[], Any], work: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    model, inputs = make()
    model = model.eval().requires_grad_(False)
    source = work / f"source-{len(list(work.iterdir()))}"
    model.save_pretrained(source)
    contestants: dict[str, Any] = {"torch f32": lambda: model(*inputs)}
    half = as_bf16(make, model)
    half_inputs = tuple(x.to(torch.bfloat16) if x.is_floating_point() else x for x in inputs)
    contestants["torch bf16"] = lambda: half(*half_inputs)
    memory = {}
    for bits in (8, 4, 2):
        artefact = quantized(source, work, bits)
        stored = stored_bytes(artefact)
        for label, settings in own_settings(bits).items():
            loaded = load_quantized(artefact, **settings)
            dtype = settings.get("dtype", torch.float32)
            given = half_inputs if dtype is torch.bfloat16 else inputs
            contestants[label] = lambda m=loaded, g=given: m(*g)
            loaded(*given)  # what is kept is made at the first call
            memory[label] = held_bytes(loaded) / stored
    contestants.update(peer_steps(model, inputs, lambda: as_bf16(make, model)))
    with torch.inference_mode():
        seconds = best_of(contestants, rounds=3)
    gc.collect()
    return {"model": name, "seconds": seconds, "memory_over_packed": memory}


def stored_bytes(artefact: Path) -> int:
    """Bytes of the packed weights on disk."""
    files = [f for f in artefact.rglob("*") if f.is_file()]
    return sum(f.stat().st_size for f in files if "weights.parquet" in f.as_posix())


def held_bytes(model: nn.Module) -> int:
    """Parameters, buffers, and what is kept beside packed weights."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(t.nbytes for t in tensors) + sum(cpu.kept_bytes(t) for t in tensors)


def own_settings(bits: int) -> dict[str, dict[str, Any]]:
    return {
        f"ours W{bits}A8, int8 kept": {"compute": "int8"},
        f"ours W{bits}A8, packed": {"compute": "packed", "activation": "dynamic"},
        f"ours W{bits}A8, int8 kept, bf16": {"compute": "int8", "dtype": torch.bfloat16},
        f"ours W{bits}A8, packed, bf16": {
            "compute": "packed",
            "activation": "dynamic",
            "dtype": torch.bfloat16,
        },
        f"ours W{bits}, float inputs": {},
    }


def as_bf16(make: Callable[[], Any], model: nn.Module) -> nn.Module:
    half: nn.Module = make()[0]
    half.load_state_dict(model.state_dict())
    return half.eval().requires_grad_(False).to(torch.bfloat16)


def quantized(source: Path, work: Path, bits: int) -> Path:
    artefact = work / f"{source.name}-int{bits}"
    config = DiffusionQuantConfig(
        bit_width=bits, group_size=64, method="rtn", min_accuracy=0.0, modality="image"
    )
    ArrowQuantV2().quantize_diffusion_model(source, artefact, config)
    return artefact


# Loading

_LOADING = """
import gc, json, sys, time
import torch, diffusers, accelerate
from arrow_quant_v2 import load_quantized
torch.set_num_threads(int(sys.argv[2]))
load_quantized(sys.argv[1])  # once, so that the files and the libraries are in memory
gc.collect()  # what it leaves is not part of the next one
start = time.perf_counter()
model = load_quantized(sys.argv[1])
print(json.dumps({"seconds": time.perf_counter() - start}))
"""

# The peak of the memory map: that of getrusage begins with the size of the parent.
_PEAK = """
import json, re, sys
import torch, diffusers, accelerate
from arrow_quant_v2 import load_quantized

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

diffusers.DiTTransformer2DModel
load_quantized(sys.argv[2])  # a tiny one: what the libraries need by themselves
before = peak()
model = load_quantized(sys.argv[1])
print(json.dumps({"peak_bytes": peak() - before}))
"""


def loading(work: Path, threads: int) -> list[dict[str, Any]]:
    """Time and peak memory of loading DiT-B at each width."""
    from diffusers import DiTTransformer2DModel

    model, _ = dit()
    model.save_pretrained(work / "dit")
    tiny = DiTTransformer2DModel(num_attention_heads=1, attention_head_dim=64, num_layers=1)
    tiny.save_pretrained(work / "tiny")
    del model
    small = quantized(work / "tiny", work, 8)
    rows = []
    for bits in (8, 4, 2):
        artefact = quantized(work / "dit", work, bits)
        stored = stored_bytes(artefact)
        timed = in_process(_LOADING, artefact, str(threads))
        peak = in_process(_PEAK, artefact, small)
        rows.append({"bits": bits, "stored_bytes": stored, **timed, **peak})
    return rows


def in_process(program: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
