"""Plans of large models read headers alone; conversions say what room they need."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support import write_safetensors

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, OutputError

SHARDS, LAYERS, SIZE = 5, 20, 10_000
CONFIG = DiffusionQuantConfig(modality="image", calibration_samples=0)


def sparse_shard(path: Path, names: list[str]) -> None:
    """A file whose weights are a hole: it has the size, and takes no room."""
    header, end = {}, 0
    for name in names:
        begin, end = end, end + SIZE * SIZE * 2
        header[name] = {"dtype": "BF16", "shape": [SIZE, SIZE], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


@pytest.mark.parametrize("variant", ["", "fp16"])
@pytest.mark.parametrize("wrapper", ["", "_orig_mod."])
def test_a_model_of_20_gb_is_planned_within_two_seconds(
    variant: str, wrapper: str, tmp_path: Path
) -> None:
    dot = f".{variant}" if variant else ""
    weight_map = {}
    for number in range(SHARDS):
        file = f"diffusion_pytorch_model{dot}-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        names = [f"{wrapper}blocks.{number}.{i}.to_q.weight" for i in range(LAYERS)]
        sparse_shard(tmp_path / file, names)
        weight_map |= dict.fromkeys(names, file)
    (tmp_path / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    index = tmp_path / f"diffusion_pytorch_model.safetensors.index{dot}.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    start = time.perf_counter()
    plan = ArrowQuantV2().plan(tmp_path, CONFIG)
    assert time.perf_counter() - start < 2
    assert plan.source_bytes > 20e9
    assert {tensor.name for tensor in plan.tensors} == {
        name.removeprefix(wrapper) for name in weight_map
    }


def scaled_model(tmp_path: Path) -> Path:
    tensors = {
        "a.weight": np.ones((512, 512), ml_dtypes.float8_e4m3fn),
        "a.scale_weight": np.float32(2),
    }
    return write_safetensors(tmp_path / "m.safetensors", tensors)


def test_weights_that_do_not_fit_the_temporary_folder_are_an_error_with_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scaled_model(tmp_path)
    real = shutil.disk_usage

    def nearly_full(where: Any) -> Any:
        return real(where)._replace(free=100_000)

    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    ArrowQuantV2().plan(path, CONFIG)  # which writes no weights
    with pytest.raises(OutputError, match=r"takes 1 MB, 0 MB are free") as caught:
        ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "out", CONFIG)
    assert caught.value.exit_code == 7
    assert "TMPDIR" in caught.value.hint
    assert not (tmp_path / "out").exists()
