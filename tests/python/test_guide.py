"""Every Python block of the migration guide that is about V2 runs as it is written.

The paths in the blocks are names in a working folder, and that is where the models lie.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import guide
import numpy as np
import pytest
from support import ZOO_UNET, gaussian, write_safetensors

from arrow_quant_v2 import (
    ArrowQuantV2,
    DiffusionQuantConfig,
    QuantizationResult,
    open_quantized,
)

pytestmark = pytest.mark.skipif(not guide.GUIDE.is_file(), reason=f"no guide at {guide.GUIDE}")

BLOCKS = guide.v2_python() if guide.GUIDE.is_file() else []


def dream(folder: Path) -> None:
    """A folder like Dream's: a text model by its class, with few and small layers."""
    config = {"architectures": ["DreamModel"], "model_type": "Dream"}
    names = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
    write_safetensors(
        folder / "model.safetensors",
        {
            f"model.layers.{layer}.{name}.weight": gaussian(64, 256, seed=layer)
            for layer in range(2)
            for name in names
        },
    )
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the blocks run; the zoo's image model is there by several names."""
    for name in ("model", "test_model", "models/model1", "models/model2", "models/model3"):
        (tmp_path / name).mkdir(parents=True)
        for file in (ZOO_UNET / "unet").iterdir():
            (tmp_path / name / file.name).symlink_to(file)
    dream(tmp_path / "dream-7b")
    (tmp_path / "config_v2.yaml").write_text(guide.yaml_named("config_v2.yaml"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARROW_QUANT_CALIBRATION_SAMPLES", "0")
    return tmp_path


def names(workplace: Path) -> dict[str, Any]:
    """What the blocks of the guide take for granted."""
    return {
        "ArrowQuantV2": ArrowQuantV2,
        "DiffusionQuantConfig": DiffusionQuantConfig,
        "quantizer": ArrowQuantV2(mode="diffusion"),
        "config": DiffusionQuantConfig(),
        "weights": np.asarray(gaussian(64, 128)),
        "model_path": "model/",
        "output_path": "quantized/model",
    }


def needed_before(block: guide.Block, namespace: dict[str, Any]) -> None:
    """What an earlier block of the guide has made."""
    if "validate_quality(" in block.text and "test_output" in block.text:
        namespace["quantizer"].quantize_diffusion_model("test_model/", "test_output/")
    if "result[" in block.text and "result =" not in block.text:
        namespace["result"] = namespace["quantizer"].quantize_diffusion_model(
            "model/", "quantized/"
        )


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line {block.line}")
def test_a_block_of_the_guide_runs_as_written(block: guide.Block, workplace: Path) -> None:
    namespace = names(workplace)
    needed_before(block, namespace)
    exec(compile(block.text, f"{guide.GUIDE.name}:{block.line}", "exec"), namespace)
    if "dream-7b-int2/" in block.text:
        assert namespace["result"]["modality"] == "text"
        assert namespace["result"]["strategy"].startswith("r2q + time-aware")
    result = namespace.get("result")
    if isinstance(result, QuantizationResult):
        assert len(open_quantized(result["quantized_path"])) > 0


def test_the_guide_is_read_as_a_person_reads_it() -> None:
    assert len(BLOCKS) == 37
    texts = "\n".join(block.text for block in BLOCKS)
    assert "arrow_quant import ArrowQuant" not in texts
    assert '"bits"' not in texts
    assert 'pq.read_table("quantized/model/weights.parquet")' in texts
