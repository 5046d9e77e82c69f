"""Tensors get the names of their class: wrappers and old spellings go, other networks stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import gaussian, write_safetensors

from arrow_quant_v2 import (
    ArrowQuantV2,
    DiffusionQuantConfig,
    MetadataError,
    ShapeMismatchError,
    open_quantized,
)
from arrow_quant_v2.model import resolve

torch = pytest.importorskip("torch")

CONFIG = DiffusionQuantConfig(modality="image", calibration_samples=0, min_accuracy=0.0)
NETWORK = {
    "conv_in.weight": gaussian(64, 64, 3, 3, seed=1),
    "mid.to_q.weight": gaussian(64, 128, seed=2),
    "mid.norm1.weight": gaussian(64, seed=3),
    "time_embedding.linear_1.weight": gaussian(64, 64, seed=4),
    "conv_out.weight": gaussian(64, 64, 3, 3, seed=5),
}
KEPT = {"conv_in.weight", "mid.norm1.weight", "time_embedding.linear_1.weight", "conv_out.weight"}
WRAPPERS = [
    "_orig_mod.",
    "module.",
    "net.",
    "model.",
    "diffusion_model.",
    "model.diffusion_model.",
    "model.model.",
    "module._orig_mod.",
    "_orig_mod.module.model.diffusion_model.",
]


def kept(plan: Any) -> set[str]:
    return {tensor.name for tensor in plan.tensors if tensor.bit_width is None}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_folder_gets_the_names_of_its_class(wrapper: str, tmp_path: Path) -> None:
    root = tmp_path / "m"
    write_safetensors(
        root / "diffusion_pytorch_model.safetensors",
        {wrapper + name: array for name, array in NETWORK.items()},
    )
    (root / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    plan = ArrowQuantV2().plan(root, CONFIG)
    assert {tensor.name for tensor in plan.tensors} == set(NETWORK)
    assert kept(plan) == KEPT
    ArrowQuantV2().quantize_diffusion_model(root, tmp_path / "out", CONFIG)
    assert set(open_quantized(tmp_path / "out")) == set(NETWORK)
    assert ArrowQuantV2().validate_quality(root, tmp_path / "out")["passed"]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_lone_file_keeps_the_roles_of_its_tensors(wrapper: str, tmp_path: Path) -> None:
    path = write_safetensors(
        tmp_path / "m.safetensors", {wrapper + name: array for name, array in NETWORK.items()}
    )
    plan = ArrowQuantV2().plan(path, CONFIG)
    assert len(kept(plan)) == len(KEPT)
    assert not any("_orig_mod" in tensor.name for tensor in plan.tensors)


def test_modules_that_were_compiled_one_by_one_lose_their_wrappers(tmp_path: Path) -> None:
    names = {"blocks.0._orig_mod.to_q.weight": gaussian(64, 64), "head._orig_mod.bias": gaussian(8)}
    path = write_safetensors(tmp_path / "m.safetensors", names)
    assert [t.name for t in ArrowQuantV2().plan(path, CONFIG).tensors] == [
        "blocks.0.to_q.weight",
        "head.bias",
    ]


def test_a_tied_language_model_keeps_the_name_of_its_own_part(tmp_path: Path) -> None:
    root = tmp_path / "m"
    names = {
        "model.layers.0.mlp.up_proj.weight": gaussian(64, 64),
        "model.norm.weight": gaussian(8),
    }
    write_safetensors(root / "model.safetensors", names)
    (root / "config.json").write_text('{"architectures": ["DreamModel"]}')
    assert resolve(root).names == {}
    doubled = {f"model.{name}": array for name, array in names.items()}
    write_safetensors(root / "model.safetensors", doubled)
    assert resolve(root).names == {"": {f"model.{name}": name for name in names}}


def test_two_tensors_never_get_one_name(tmp_path: Path) -> None:
    tensors = {"_orig_mod.a.weight": gaussian(64, 64), "a.weight": gaussian(64, 64)}
    path = write_safetensors(tmp_path / "m.safetensors", tensors)
    assert [t.name for t in ArrowQuantV2().plan(path, CONFIG).tensors] == list(tensors)


OTHERS = [
    "vae.",
    "first_stage_model.",
    "text_encoders.clip_l.",
    "cond_stage_model.transformer.",
    "conditioner.embedders.0.",
    "model_ema.",
]


@pytest.mark.parametrize("prefix", OTHERS)
def test_other_networks_of_an_all_in_one_file_are_kept_and_named(
    prefix: str, tmp_path: Path
) -> None:
    tensors = {f"model.diffusion_model.{name}": array for name, array in NETWORK.items()}
    tensors[f"{prefix}layers.0.up_proj.weight"] = gaussian(64, 64)
    path = write_safetensors(tmp_path / "m.safetensors", tensors)
    plan = ArrowQuantV2().plan(path, CONFIG)
    assert [t.name for t in plan.tensors if t.bit_width] == [
        "model.diffusion_model.mid.to_q.weight"
    ]
    (note,) = plan.warnings
    assert note == f"not quantized, since they are other networks: {prefix.split('.')[0]}.*"


def saved(path: Path, state: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def state(seed: int) -> dict[str, Any]:
    return {"a.to_q.weight": torch.from_numpy(gaussian(64, 64, seed=seed)), "a.bias": torch.ones(8)}


NESTED = {
    "model-and-average": (lambda: {"model": state(1), "ema": state(2)}, "ema"),
    "average-first": (lambda: {"ema": state(2), "model": state(1)}, "ema"),
    "buffers": (lambda: {"model": state(1), "betas": torch.rand(64, 64)[0]}, "betas"),
    "large-buffers": (lambda: {"model": state(1), "betas": torch.rand(1000)}, "betas"),
    "lightning": (
        lambda: {"state_dict": state(1), "epoch": 3, "callbacks": {"best": torch.ones(1)}},
        "callbacks",
    ),
    "optimizer": (
        lambda: {
            "net": state(1),
            "optimizer": {"state": {0: {"exp_avg": torch.ones(64, 64)}}, "param_groups": []},
        },
        "",
    ),
    "two-deep": (lambda: {"checkpoint": {"model": state(1), "model_ema": state(2)}}, "model_ema"),
    "parameters": (lambda: {"params": state(1), "params_ema": state(2)}, "params_ema"),
}


@pytest.mark.parametrize("case", NESTED)
def test_nested_state_dicts_are_told_apart(case: str, tmp_path: Path) -> None:
    make, other = NESTED[case]
    path = saved(tmp_path / "m.ckpt", make())
    plan = ArrowQuantV2().plan(path, CONFIG)
    assert [tensor.name for tensor in plan.tensors] == ["a.to_q.weight", "a.bias"]
    arrays = ArrowQuantV2(mode="base").quantize(path, 8)
    np.testing.assert_allclose(
        arrays["a.to_q.weight"].dequantize(), gaussian(64, 64, seed=1), atol=0.05
    )
    assert other in " ".join(plan.warnings)


class Settings:
    """A class that only the training program has."""

    def __init__(self) -> None:
        self.rate = 0.1


def test_a_foreign_class_beside_the_weights_does_not_matter(tmp_path: Path) -> None:
    checkpoint = {"state_dict": state(1), "hyper_parameters": Settings(), "path": Path("/x")}
    path = saved(tmp_path / "m.ckpt", checkpoint)
    assert [t.name for t in ArrowQuantV2().plan(path, CONFIG).tensors] == [
        "a.to_q.weight",
        "a.bias",
    ]


def test_a_weight_that_is_no_plain_tensor_is_refused(tmp_path: Path) -> None:
    sparse = torch.eye(64).to_sparse()
    path = saved(tmp_path / "m.bin", {**state(1), "b.weight": sparse})
    with pytest.raises(MetadataError, match="not a plain tensor"):
        ArrowQuantV2().plan(path, CONFIG)


def test_norms_of_old_checkpoints_get_their_new_names(tmp_path: Path) -> None:
    root = tmp_path / "m"
    tensors = {
        "bert.embeddings.LayerNorm.gamma": gaussian(48),
        "bert.embeddings.LayerNorm.beta": gaussian(48),
        "bert.encoder.layer.0.attention.self.query.weight": gaussian(48, 48),
    }
    write_safetensors(root / "model.safetensors", tensors)
    (root / "config.json").write_text(json.dumps({"architectures": ["BertForMaskedLM"]}))
    ArrowQuantV2().quantize_diffusion_model(root, tmp_path / "out", CONFIG)
    assert [name.rpartition(".")[2] for name in open_quantized(tmp_path / "out")] == [
        "weight",
        "bias",
        "weight",
    ]
    assert ArrowQuantV2().validate_quality(root, tmp_path / "out")["passed"]


def test_a_checkpoint_that_contains_itself_is_read_in_no_time(tmp_path: Path) -> None:
    checkpoint: dict[str, Any] = {"model": state(1)}
    checkpoint |= {f"self{number}": checkpoint for number in range(50)}
    path = saved(tmp_path / "m.ckpt", checkpoint)
    assert len(ArrowQuantV2().plan(path, CONFIG).tensors) == 2


def test_a_header_with_odd_shapes_is_the_engines_to_name(tmp_path: Path) -> None:
    for shape in ('["a"]', "[1.5]", "[true]", "[-1]", "null", "[[2]]"):
        header = f'{{"a.weight":{{"dtype":"F8_E4M3","shape":{shape},"data_offsets":[0,4]}}}}'
        path = tmp_path / "m.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4))
        with pytest.raises((MetadataError, ShapeMismatchError)):
            ArrowQuantV2().plan(path, CONFIG)


@pytest.mark.parametrize("path", ["m", "m/", "./m", "m/../m", "m/x/..", "m/."])
def test_a_path_may_be_written_in_every_way(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "m"
    write_safetensors(root / "diffusion_pytorch_model.fp16.safetensors", NETWORK)
    (root / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    (root / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(ArrowQuantV2().plan(path, CONFIG).tensors) == len(NETWORK)
    assert resolve(path).name == "m"
