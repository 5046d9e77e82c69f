"""What the tests share: where models are, models made on the spot, and running the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]
ZOO_UNET = ROOT / "zoo" / "models" / "image-unet"
ZOO_TEXT = ROOT / "zoo" / "models" / "text"
ZOO_CODE = ROOT / "zoo" / "models" / "code"
REAL_MODELS = Path(
    os.environ.get("ARROW_QUANT_REAL_MODELS", ROOT.parent / "shared" / "real-models")
)
COMMAND = [sys.executable, "-m", "arrow_quant_v2.cli"]

Array = npt.NDArray[Any]

_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def safetensors_bytes(
    tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> bytes:
    """A safetensors file with exactly these tensors, written from the description of the format."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for name, array in tensors.items():
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def write_safetensors(
    path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors_bytes(tensors, metadata))
    return path


def gaussian(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return values.astype(dtype)


def small_model(folder: Path) -> Path:
    """A component directory with a linear weight, a convolution, a bias and an integer buffer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    write_safetensors(
        folder / "diffusion_pytorch_model.safetensors",
        {
            "mid.attn.to_q.weight": gaussian(64, 256, seed=1),
            "mid.attn.to_q.bias": gaussian(64, seed=2),
            "mid.conv.weight": gaussian(32, 24, 3, 3, seed=3),
            "mid.half.weight": gaussian(48, 160, seed=4, dtype=np.float16),
            "position_ids": np.arange(7, dtype=np.int64),
        },
    )
    return folder


def nmse(original: Array, found: Array) -> float:
    a, b = original.astype(np.float64), np.asarray(found).astype(np.float64)
    return float(((a - b) ** 2).sum() / (a**2).sum())


def cosine(original: Array, found: Array) -> float:
    a, b = original.astype(np.float64).ravel(), np.asarray(found).astype(np.float64).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@dataclass(frozen=True)
class Run:
    """How a run of the command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def arrow_quant(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> Run:
    """Run the command in a process of its own."""
    done = subprocess.run(
        [*COMMAND, *map(os.fspath, arguments)],
        capture_output=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        timeout=timeout,
        check=False,
    )
    return Run(
        done.returncode,
        done.stdout.decode(errors="surrogateescape"),
        done.stderr.decode(errors="surrogateescape"),
    )
