"""Every builder of the table gives a model that is saved, loaded again and makes two steps."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers")

from families.builders import BUILDERS, NOT_BUILT, REPRESENTATIVE

ENTRIES = [
    pytest.param(name, marks=() if name in REPRESENTATIVE else pytest.mark.families)
    for name in BUILDERS
]


def need(name: str) -> None:
    for package in BUILDERS[name].needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{name} needs {package}")


@pytest.mark.parametrize("name", ENTRIES)
def test_a_builder_gives_a_model_that_loads_and_makes_two_steps(name: str, tmp_path: Path) -> None:
    need(name)
    builder = BUILDERS[name]
    folder = builder.build(tmp_path / name)
    if builder.open is None:
        config = json.loads((folder / "config.json").read_text())
        assert config["architectures"] == [builder.kind]
        tensors = load_file(folder / "model.safetensors")
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
        return
    model = builder.load(folder)
    assert type(model).__name__ == builder.kind
    for denoiser in builder.denoisers:
        assert isinstance(getattr(model, denoiser), torch.nn.Module)
    output = builder.run(model)
    assert output
    assert all(np.isfinite(array).all() for array in output)
    assert any(array.std() > 0 for array in output), "the output says nothing"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["stable_diffusion", "bert", "dream"])
def test_the_weights_have_the_type_that_was_asked_for(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = BUILDERS[name].build(tmp_path / name, dtype)
    types = {
        tensor.dtype
        for file in folder.rglob("*.safetensors")
        for tensor in load_file(file).values()
        if tensor.is_floating_point()
    }
    assert types == {dtype}


@pytest.mark.parametrize("name", ["flux", "z_image", "llada"])
def test_the_same_builder_gives_the_same_weights_again(name: str, tmp_path: Path) -> None:
    first, second = (BUILDERS[name].build(tmp_path / str(turn)) for turn in range(2))
    for file in first.rglob("*.safetensors"):
        ours, theirs = load_file(file), load_file(second / file.relative_to(first))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def test_every_pipeline_of_diffusers_is_built_or_has_a_reason_not_to_be() -> None:
    import diffusers

    built = {builder.kind for builder in BUILDERS.values()}
    assert not built & NOT_BUILT.keys()
    if diffusers.__version__ != "0.42.1":
        pytest.skip("the list of reasons is of diffusers 0.42.1")
    known = {
        name
        for name in dir(diffusers)
        if name.endswith("Pipeline") and not name.endswith("ModularPipeline")
    }
    assert known - built == NOT_BUILT.keys()


def test_the_representatives_are_entries_of_the_table() -> None:
    assert set(REPRESENTATIVE) <= BUILDERS.keys()
