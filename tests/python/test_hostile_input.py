"""Malformed and hostile files: the right exception and exit code, nothing written, no crash."""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import (
    COMMAND,
    arrow_quant,
    gaussian,
    safetensors_bytes,
    small_model,
    write_safetensors,
)

from arrow_quant_v2 import (
    ArrowQuantError,
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    MetadataError,
    ModelNotFoundError,
    ShapeMismatchError,
    open_quantized,
)


def framed(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}


def one(**changes: Any) -> bytes:
    return framed({"a.weight": entry(**changes)}, b"\0" * 16)


FILES: dict[str, tuple[bytes, type[ArrowQuantError]]] = {
    "empty": (b"", MetadataError),
    "shorter than its length": (b"\x10\0\0", MetadataError),
    "header of no bytes": (b"\0" * 8, MetadataError),
    "header beyond the file": ((1000).to_bytes(8, "little") + b"{}", MetadataError),
    "header of 2^63 bytes": ((1 << 63).to_bytes(8, "little") + b"{}", MetadataError),
    "header of 2^64-1 bytes": (b"\xff" * 8 + b"{}", MetadataError),
    "not UTF-8": (framed(b'{"\xff":1}'), MetadataError),
    "not JSON": (framed(b"{nonsense}"), MetadataError),
    "truncated JSON": (framed(b'{"a": {"dtype"'), MetadataError),
    "a list": (framed(b"[]"), MetadataError),
    "depth": (framed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), MetadataError),
    "duplicate name": (framed(b'{"a":{},"a":{}}'), MetadataError),
    "missing field": (framed({"a": {"dtype": "F32", "shape": [4]}}, b"\0" * 16), MetadataError),
    "extra field": (one(extra=1), MetadataError),
    "shape as text": (one(shape="4"), MetadataError),
    "shape as float": (one(shape=[4.0]), MetadataError),
    "negative dimension": (one(shape=[-4]), MetadataError),
    "unknown type": (one(dtype="F7"), MetadataError),
    "lower-case type": (one(dtype="f32"), MetadataError),
    "product that wraps to zero": (one(shape=[2**32, 2**32], data_offsets=[0, 0]), MetadataError),
    "product that wraps": (one(shape=[65536] * 4), MetadataError),
    "zero and a huge dimension": (one(shape=[0, 2**63], data_offsets=[0, 0]), MetadataError),
    "end before begin": (one(data_offsets=[16, 0]), MetadataError),
    "end beyond the file": (one(shape=[8], data_offsets=[0, 32]), MetadataError),
    "begin near 2^64": (one(data_offsets=[2**64 - 8, 2**64 - 8 + 16]), MetadataError),
    "size that is not its shape": (one(shape=[3]), ShapeMismatchError),
    "hole": (framed({"a": entry(data_offsets=[4, 20])}, b"\0" * 20), MetadataError),
    "bytes after the last tensor": (one() + b"PK\x03\x04", MetadataError),
    "two on the same bytes": (framed({"a": entry(), "b": entry()}, b"\0" * 16), MetadataError),
    "metadata that is a number": (framed({"__metadata__": {"a": 1}}), MetadataError),
    "no tensors": (framed({}), MetadataError),
    "rank 9": (one(shape=[1, 1, 1, 1, 1, 1, 1, 1, 4]), MetadataError),
    "name of a megabyte": (framed({"n" * 2**20: entry()}, b"\0" * 16), MetadataError),
    "NUL in a name": (framed(b'{"a\\u0000":{}}'), MetadataError),
    "lone surrogate in a name": (framed(b'{"a\\ud800":{}}'), MetadataError),
    "a pickle": (b"\x80\x04\x95" + b"\0" * 100, MetadataError),
    "a zip file": (b"PK\x03\x04" + b"\0" * 100, MetadataError),
    "a GGUF file": (b"GGUF\x03\0\0\0" + b"\0" * 100, MetadataError),
    "a web page": (b"<!DOCTYPE html><html></html>" * 4, MetadataError),
    "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n" * 3, MetadataError),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_malformed_file_is_refused(tmp_path: Path, name: str) -> None:
    data, expected = FILES[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    config = DiffusionQuantConfig(modality="image")
    with pytest.raises(expected) as caught:
        ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "out", config)
    assert caught.value.exit_code == 4
    assert str(path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["empty", "depth", "header of 2^64-1 bytes", "a pickle", "hole"])
def test_the_command_refuses_it_with_exit_code_4(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(FILES[name][0])
    run = arrow_quant("quantize", path, "out", "--modality", "image", cwd=tmp_path)
    assert run.code == 4
    assert run.err.startswith("error: ")
    assert "Traceback" not in run.err
    assert not (tmp_path / "out").exists()


def sharded(folder: Path, weight_map: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model-00001-of-00001.safetensors").write_bytes(
        safetensors_bytes({"a.weight": gaussian(64, 64)})
    )
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    "target", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "", "x\0y", "C:\\x", ".."]
)
def test_an_index_never_leads_out_of_its_folder(tmp_path: Path, target: str) -> None:
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(safetensors_bytes({"a.weight": gaussian(64, 64)}))
    model = sharded(tmp_path / "model", {"a.weight": target})
    with pytest.raises(MetadataError):
        ArrowQuantV2().plan(model, DiffusionQuantConfig(modality="image"))


def test_shards_and_index_have_to_agree(tmp_path: Path) -> None:
    config = DiffusionQuantConfig(modality="image")
    shard = "model-00001-of-00001.safetensors"
    cases: dict[str, tuple[Any, type[ArrowQuantError]]] = {
        "extra": ({"a.weight": shard, "b.weight": shard}, MetadataError),
        "missing": ({"a.weight": "model-00002-of-00002.safetensors"}, ModelNotFoundError),
        "list": ([], MetadataError),
        "number": ({"a.weight": 3}, MetadataError),
    }
    for name, (weight_map, expected) in cases.items():
        with pytest.raises(expected):
            ArrowQuantV2().plan(sharded(tmp_path / name, weight_map), config)
    assert ArrowQuantV2().plan(sharded(tmp_path / "good", {"a.weight": shard}), config).tensors


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


@pytest.mark.parametrize(
    "make", [fifo, unix_socket, Path.mkdir, lambda path: path.symlink_to(path.name)]
)
def test_what_is_no_file_never_hangs(tmp_path: Path, make: Callable[[Path], None]) -> None:
    os.chdir(tmp_path)  # socket names are short
    path = Path("m.safetensors")
    make(path)
    with pytest.raises((ModelNotFoundError, MetadataError)):
        ArrowQuantV2().plan(path, DiffusionQuantConfig(modality="image"))


def test_a_device_is_no_model() -> None:
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises((ModelNotFoundError, MetadataError)):
            ArrowQuantV2().plan(device, DiffusionQuantConfig(modality="image"))


def test_links_to_weights_are_followed(tmp_path: Path) -> None:
    store = small_model(tmp_path / "store")
    linked = tmp_path / "model"
    linked.mkdir()
    for file in store.iterdir():
        (linked / file.name).symlink_to(file)
    config = DiffusionQuantConfig(modality="image")
    ArrowQuantV2().quantize_diffusion_model(linked, tmp_path / "out", config)
    assert not (tmp_path / "out" / "config.json").is_symlink()
    open_quantized(tmp_path / "out").verify()


def test_a_small_address_space_is_an_error_not_a_crash(model: Path, tmp_path: Path) -> None:
    import subprocess

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        [*COMMAND, "quantize", str(model), "out", "--modality", "image", "--bit-width", "8"],
        cwd=tmp_path,
        preexec_fn=limit,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_a_model_of_empty_tensors_is_named_by_its_file(tmp_path: Path) -> None:
    path = write_safetensors(
        tmp_path / "model" / "weights.safetensors", {"w.weight": np.zeros((0, 16), np.float32)}
    )
    for model in (path, path.parent):
        with pytest.raises(
            ConfigurationError, match="all tensors of this model are empty"
        ) as raised:
            ArrowQuantV2().quantize_diffusion_model(
                model, tmp_path / "out", DiffusionQuantConfig(modality="image")
            )
        assert str(path) in str(raised.value)
        assert "w.weight" in str(raised.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_permissions_are_reported(model: Path, tmp_path: Path) -> None:
    weights = next(model.glob("*.safetensors"))
    weights.chmod(0)
    config = DiffusionQuantConfig(modality="image")
    with pytest.raises(ModelNotFoundError, match=r"[Pp]ermission"):
        ArrowQuantV2().plan(model, config)
    weights.chmod(0o644)
    (tmp_path / "locked").mkdir(mode=0o500)
    run = arrow_quant("quantize", model, tmp_path / "locked" / "out", "--modality", "image")
    assert run.code == 7


def test_a_row_that_does_not_fit_the_memory_is_said_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "wide.safetensors"
    path.write_bytes(safetensors_bytes({"w.weight": np.zeros((1, 24_000_000), np.float32)}))
    config = DiffusionQuantConfig(
        modality="image", max_memory_mb=64, layer_rules={"w.weight": 4}, num_threads=2
    )
    with pytest.raises(ArrowQuantError, match="max_memory_mb") as caught:
        ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "out", config)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()
