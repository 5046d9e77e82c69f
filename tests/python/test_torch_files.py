"""Weights that torch saved are read without torch, without running them, and as they are."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import arrow_quant, gaussian, write_safetensors

from arrow_quant_v2 import (
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    MetadataError,
    ModelNotFoundError,
    QuantizationError,
    open_quantized,
)
from arrow_quant_v2.torch_files.archive import TorchArchive

torch = pytest.importorskip("torch")

CONFIG = DiffusionQuantConfig(modality="image", calibration_samples=0, min_accuracy=0.0)


def tensors() -> dict[str, Any]:
    """Every kind of view and element type that a state dict has."""
    base = torch.from_numpy(gaussian(96, 128, seed=1))
    return OrderedDict(
        {
            "block.q.weight": base,
            "block.transposed.weight": base.t(),
            "block.rows.weight": base[10:70],
            "block.columns.weight": base[:, 32:96],
            "block.half.weight": base.half(),
            "block.bf16.weight": base.bfloat16(),
            "block.f8.weight": base.to(torch.float8_e4m3fn),
            "block.parameter.weight": torch.nn.Parameter(base * 2),
            "block.expanded.weight": base[:1].expand(64, 128),
            "block.conv.weight": base.reshape(32, 12, 4, 8).to(memory_format=torch.channels_last),
            "block.bias": base[0],
            "steps": torch.tensor(7),
            "mask": torch.tensor([True, False]),
            "empty": torch.zeros(0, 4),
        }
    )


def saved(path: Path, state: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path, **options)
    return path


def restored(pieces: Any) -> bytes:
    return b"".join(piece.tobytes() for piece in pieces)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_a_state_dict_is_read_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    state = tensors()
    with TorchArchive(saved(tmp_path / f"m{suffix}", state)) as archive:
        assert list(archive.tensors) == list(state)
        for name, tensor in state.items():
            found = archive.tensors[name]
            assert found.shape == tuple(tensor.shape)
            plain = tensor.detach().contiguous()
            expected = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
            assert restored(archive.pieces(found)) == expected, name


def test_it_becomes_the_artefact_that_safetensors_would(tmp_path: Path) -> None:
    state = {
        name: tensor.detach().contiguous()
        for name, tensor in tensors().items()
        if tensor.dtype == torch.float32 and tensor.numel()
    }
    saved(tmp_path / "m.bin", state)
    write_safetensors(tmp_path / "m.safetensors", {n: t.numpy() for n, t in state.items()})
    for kind in ("bin", "safetensors"):
        ArrowQuantV2().quantize_diffusion_model(tmp_path / f"m.{kind}", tmp_path / kind, CONFIG)
    found, expected = (open_quantized(tmp_path / kind) for kind in ("bin", "safetensors"))
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].bit_width == tensor.bit_width
        np.testing.assert_array_equal(found[name].dequantize(), tensor.dequantize())
    assert ArrowQuantV2().validate_quality(tmp_path / "m.bin", tmp_path / "bin")["passed"]
    arrays = ArrowQuantV2(mode="base").quantize(tmp_path / "m.bin", bit_width=8)
    np.testing.assert_allclose(
        arrays["block.q.weight"].dequantize(), state["block.q.weight"].numpy(), atol=0.05
    )


def test_torch_is_not_needed(tmp_path: Path) -> None:
    saved(tmp_path / "m.bin", {"a.weight": torch.zeros(64, 64)})
    code = (
        "import sys; from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig\n"
        "ArrowQuantV2().plan('m.bin', DiffusionQuantConfig(modality='image'))\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_a_pipeline_of_torch_files_stays_a_pipeline(tmp_path: Path) -> None:
    root = tmp_path / "pipe"
    saved(root / "unet" / "diffusion_pytorch_model.bin", {"mid.to_q.weight": torch.ones(64, 256)})
    saved(root / "text_encoder" / "pytorch_model.bin", {"h.weight": torch.ones(64, 64)})
    (root / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    (root / "text_encoder" / "config.json").write_text('{"architectures": ["CLIPTextModel"]}')
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
    }
    (root / "model_index.json").write_text(json.dumps(index))
    result = ArrowQuantV2().quantize_diffusion_model(
        root, tmp_path / "out", DiffusionQuantConfig(calibration_samples=0)
    )
    assert result["components"] == ["unet"]
    files = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")}
    assert {"unet/weights.parquet", "text_encoder/model.safetensors"} <= files
    assert not any(name.endswith(".bin") for name in files)
    assert (tmp_path / "out" / "unet" / "config.json").read_text() == (
        root / "unet" / "config.json"
    ).read_text()


def test_shards_are_joined_by_their_index(tmp_path: Path) -> None:
    root = tmp_path / "DiffuCoder"
    for i in (1, 2):
        saved(
            root / f"pytorch_model-0000{i}-of-00002.bin",
            {f"model.layers.{i}.mlp.up_proj.weight": torch.ones(64, 128) * i},
        )
    names = {
        f"model.layers.{i}.mlp.up_proj.weight": f"pytorch_model-0000{i}-of-00002.bin"
        for i in (1, 2)
    }
    (root / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    (root / "config.json").write_text('{"architectures": ["DreamModel"]}')
    result = ArrowQuantV2().quantize_diffusion_model(
        root, tmp_path / "out", DiffusionQuantConfig(calibration_samples=0)
    )
    assert result["modality"] == "code"
    assert set(open_quantized(tmp_path / "out")) == set(names)
    names["x"] = "../../etc/passwd"
    (root / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(MetadataError, match="files in its own folder"):
        ArrowQuantV2().plan(root)
    names["x"] = "absent.bin"
    (root / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ModelNotFoundError, match=r"absent\.bin"):
        ArrowQuantV2().plan(root)


def test_a_checkpoint_holds_the_state_dict_among_other_things(tmp_path: Path) -> None:
    state = {"a.weight": torch.ones(64, 64)}
    path = saved(tmp_path / "m.ckpt", {"epoch": 3, "state_dict": state, "rate": 0.1})
    assert [t.name for t in ArrowQuantV2().plan(path, CONFIG).tensors] == ["a.weight"]


def test_safetensors_are_preferred_where_both_are(tmp_path: Path) -> None:
    saved(tmp_path / "m" / "pytorch_model.bin", {"old.weight": torch.ones(64, 64)})
    write_safetensors(tmp_path / "m" / "model.safetensors", {"new.weight": gaussian(64, 64)})
    assert [t.name for t in ArrowQuantV2().plan(tmp_path / "m", CONFIG).tensors] == ["new.weight"]


class Evil:
    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch pwned",)


@pytest.mark.parametrize("where", ["value", "key of the state dict", "instead of tensors"])
def test_code_in_a_file_is_refused_and_never_run(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = {
        "value": {"a.weight": torch.ones(64, 64), "b": Evil()},
        "key of the state dict": {"state_dict": {"a.weight": torch.ones(4)}, "x": Evil()},
        "instead of tensors": Evil(),
    }[where]
    path = saved(tmp_path / "m.bin", state)
    with pytest.raises(MetadataError, match=r"asks for (posix|nt)\.system, which no state dict"):
        ArrowQuantV2().plan(path, CONFIG)
    assert not (tmp_path / "pwned").exists()


def edited(path: Path, change: Any) -> Path:
    """The archive with its pickle passed through `change`, and nothing else different."""
    source = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    with zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            target.writestr(info, change(data) if info.filename.endswith("data.pkl") else data)
    return path


def test_a_tensor_outside_its_storage_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.bin", {"a.weight": torch.ones(64, 64)})
    # BININT1 64 becomes 65: the shape grows, the storage does not.
    edited(path, lambda data: data.replace(b"K@K@", b"KAK@", 1))
    with pytest.raises(MetadataError, match=r"'a\.weight': its elements lie outside") as caught:
        ArrowQuantV2().plan(path, CONFIG)
    assert caught.value.tensor == "a.weight"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not an archive of torch.save"),
        (b"PK\x03\x04 cut short", "not an archive of torch.save"),
        (pickle.dumps({"a": 1}), "bare pickle, as torch before 1.6 wrote"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(data)
    with pytest.raises(MetadataError) as caught:
        ArrowQuantV2().plan(path, CONFIG)
    assert text in str(caught.value)


def test_the_command_reads_them_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.bin", {"a.weight": torch.ones(64, 64)})
    assert arrow_quant("plan", path, "--modality", "image").code == 0
    path.write_bytes(b"")
    run = arrow_quant("plan", path, "--modality", "image")
    assert run.code == 4
    assert run.err.startswith(f"error: {path}: not an archive of torch.save")


def test_every_truncation_and_garbled_pickle_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.bin", {"a.weight": torch.ones(8, 8), "b": torch.ones(3)})
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(MetadataError):
            TorchArchive(path)
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as archive:
        length = len(archive.read("m/data.pkl"))
    for position in range(0, length, 4):
        path.write_bytes(whole)
        edited(path, lambda data, at=position: data[:at] + b"\xff" + data[at + 1 :])
        try:
            with TorchArchive(path) as garbled:
                for tensor in garbled.tensors.values():
                    restored(garbled.pieces(tensor))
        except MetadataError:
            pass


def test_errors_speak_of_the_file_of_the_user(tmp_path: Path) -> None:
    weights = torch.ones(64, 64)
    weights[0, 1] = torch.nan
    root = tmp_path / "model"
    path = saved(root / "pytorch_model.bin", {"a.weight": weights})
    with pytest.raises(QuantizationError) as caught:
        ArrowQuantV2().quantize_diffusion_model(root, tmp_path / "out", CONFIG)
    assert str(caught.value).startswith(f"{path}: tensor 'a.weight': expected finite weights")
    assert caught.value.path == str(path)
    with pytest.raises(ConfigurationError, match="overlap"):
        ArrowQuantV2().quantize_diffusion_model(root, root / "out", CONFIG)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
