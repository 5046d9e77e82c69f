"""Synthetic inputs: random weights in the shapes of a 7B language model."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HIDDEN, MLP, VOCABULARY = 4096, 11008, 32000


def llm_tensors(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Llama-like masked-diffusion model with ``layers`` layers."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for i in range(layers):
        prefix = f"model.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{prefix}.self_attn.{name}.weight", (HIDDEN, HIDDEN)
        yield f"{prefix}.mlp.gate_proj.weight", (MLP, HIDDEN)
        yield f"{prefix}.mlp.up_proj.weight", (MLP, HIDDEN)
        yield f"{prefix}.mlp.down_proj.weight", (HIDDEN, MLP)
        yield f"{prefix}.input_layernorm.weight", (HIDDEN,)
        yield f"{prefix}.post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def write_llm(folder: Path, layers: int, *, seed: int = 0) -> int:
    """Write a bf16 model directory of about ``.53 + .405 * layers`` GB; return its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LLaDAModelLM"], "model_type": "llada", "hidden_size": HIDDEN}
    (folder / "config.json").write_text(json.dumps(config))
    header: dict[str, object] = {}
    offset = 0
    tensors = list(llm_tensors(layers))
    for name, shape in tensors:
        size = int(np.prod(shape)) * 2
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.default_rng(seed)
    # One block of Gaussian weights, rolled for every tensor: real spread, little time to make.
    block = generator.standard_normal(1 << 22, dtype=np.float32) * np.float32(0.02)
    bf16 = (block.view(np.uint32) >> 16).astype(np.uint16)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in tensors:
            left = int(np.prod(shape))
            while left:
                count = min(left, bf16.size)
                file.write(np.roll(bf16, int(generator.integers(bf16.size)))[:count].tobytes())
                left -= count
    return offset + len(text) + 8
