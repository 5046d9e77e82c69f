"""Models whose weights torch saved, as a temporary folder of the same with safetensors.

Copying goes in pieces, so memory stays small; the disk needs room for the weights once more.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from arrow_quant_v2.errors import ArrowQuantError, ConfigurationError, MetadataError
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.tensors.safetensors_writer import Entry, SafetensorsWriter
from arrow_quant_v2.torch_files.archive import StoredTensor, TorchArchive

__all__ = ["readable_model"]

_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_STEMS = ("diffusion_pytorch_model", "pytorch_model", "model")
_INDEX = ".bin.index.json"
#: Name of a file of torch -> what transformers calls the same in safetensors.
_SAFE_STEMS = {"pytorch_model": "model"}


@contextmanager
def readable_model(
    path: StrPath, *, output: StrPath | None = None, headers_only: bool = False
) -> Iterator[StrPath]:
    """`path`, or a folder that stands for it while its weights are in files of torch.

    Errors inside the block speak of `path`.

    Parameters
    ----------
    path
        A model. Unless it is a file of torch or a folder with such files and no safetensors, it
        comes back as it is.
    output
        Where the result will go; it may not lie inside the model.
    headers_only
        Leave the weights out: names, types and shapes are right, values are not.
    """
    root = Path(path)
    parts = _parts(root)
    if not parts:
        yield path
        return
    _check_apart(root, output)
    with tempfile.TemporaryDirectory(prefix="arrow-quant-") as folder:
        # The last part of the path may tell what the model is.
        stand_in = Path(folder) / (root.stem if root.is_file() else root.resolve().name)
        conversion = _Conversion(root, stand_in, headers_only)
        try:
            yield conversion.run(parts)
        except ArrowQuantError as error:
            conversion.speak_of_the_source(error)
            raise


def _parts(root: Path) -> dict[str, list[Path]]:
    """Folder below `root` ("" is itself) -> its files of torch that hold the weights."""
    # os.path, unlike Path, never raises: a path that cannot be followed is the engine's to name.
    if os.path.isfile(root):
        return {"": [root]} if root.suffix in _SUFFIXES else {}
    names = [""]
    if os.path.isfile(root / "model_index.json"):
        names = sorted(name for name in os.listdir(root) if os.path.isdir(root / name))
    found = {}
    for name in names:
        files = _weights(root / name, is_model=not name)
        if files:
            found[name] = files
    return found


def _weights(folder: Path, *, is_model: bool) -> list[Path]:
    """The files of torch in `folder`, unless it has weights in a better form.

    In a folder that `is_model`, they must be one or have a usual name.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    if any(entry.suffix in (".safetensors", ".parquet") for entry in entries):
        return []
    indexes = [entry for entry in entries if entry.name.endswith(_INDEX)]
    if len(indexes) == 1:
        return _shards(indexes[0])
    files = [entry for entry in entries if entry.suffix in _SUFFIXES and entry.is_file()]
    usual = [file for file in files if file.stem in _STEMS]
    if len(usual) == 1:
        return usual
    if len(files) > 1 and is_model:
        raise ConfigurationError(
            f"{folder}: several files of torch, and none is called {' or '.join(_STEMS)}.*: "
            f"{', '.join(file.name for file in files)}",
            path=str(folder),
            hint="Pass the file that has the weights.",
        )
    return files if len(files) == 1 else []


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise MetadataError(f"{index}: expected a weight_map", path=str(index)) from None
    for name in names:
        if not isinstance(name, str) or name != os.path.basename(name) or name in ("", ".", ".."):
            raise MetadataError(
                f"{index}: expected names of files in its own folder, found {name!r}",
                path=str(index),
            )
    return [index.parent / name for name in sorted(names)]


def _check_apart(root: Path, output: StrPath | None) -> None:
    if output is None or root.is_file():
        return
    model, out = Path(os.path.realpath(root)), Path(os.path.realpath(output))
    if model == out or model in out.parents or out in model.parents:
        raise ConfigurationError(
            f"{os.fspath(output)}: input and output overlap",
            path=os.fspath(output),
            hint="Choose an output folder outside the model.",
        )


class _Conversion:
    """Makes the stand-in: safetensors for what torch saved, links to everything else."""

    def __init__(self, root: Path, stand_in: Path, headers_only: bool) -> None:
        self._root = root
        self._stand_in = stand_in
        self._headers_only = headers_only
        self._names = {str(stand_in): str(root)}  # path in an error -> path of the source

    def run(self, parts: dict[str, list[Path]]) -> Path:
        if self._root.is_file():
            return self._write(parts[""], self._stand_in.parent)
        self._stand_in.mkdir()
        for name, files in parts.items():
            folder = self._stand_in / name
            folder.mkdir(exist_ok=True)
            if name:
                _link_others(self._root / name, folder)
            self._write(files, folder)
        _link_others(self._root, self._stand_in, besides=set(parts))
        return self._stand_in

    def speak_of_the_source(self, error: ArrowQuantError) -> None:
        for name in sorted(self._names, key=len, reverse=True):
            source = self._names[name]
            error.message = error.message.replace(name, source)
            error.path = error.path.replace(name, source)
            error.hint = error.hint.replace(name, source)
        error.args = (error.message,)

    def _write(self, files: list[Path], folder: Path) -> Path:
        """One safetensors file, named as the libraries expect, with the tensors of `files`."""
        stem = files[0].stem
        if len(files) > 1:
            stem = stem.partition("-0")[0]
        target = folder / (_SAFE_STEMS.get(stem, stem) + ".safetensors")
        self._names[str(target)] = str(files[0] if len(files) == 1 else files[0].parent)
        _write(files, target, self._headers_only)
        return target


def _link_others(source: Path, folder: Path, besides: set[str] | None = None) -> None:
    for entry in source.iterdir():
        is_weight = entry.suffix in _SUFFIXES or entry.name.endswith(_INDEX)
        if is_weight or entry.name.startswith(".") or entry.name in (besides or ()):
            continue
        (folder / entry.name).symlink_to(entry.resolve())


def _write(files: list[Path], target: Path, headers_only: bool) -> None:
    with ExitStack() as stack:
        found: dict[str, tuple[TorchArchive, StoredTensor]] = {}
        for file in files:
            archive = stack.enter_context(TorchArchive(file))
            for name, tensor in archive.tensors.items():
                if name in found:
                    raise MetadataError(
                        f"{file}: tensor '{name}' is in {found[name][0].path.name} as well",
                        path=str(file),
                        tensor=name,
                    )
                found[name] = archive, tensor
        entries = [
            Entry(name, tensor.dtype, tensor.shape, tensor.nbytes)
            for name, (_, tensor) in found.items()
        ]
        writer = stack.enter_context(SafetensorsWriter(target, entries))
        if headers_only:
            writer.skip_rest()
            return
        for archive, tensor in found.values():
            for piece in archive.pieces(tensor):
                writer.append(piece)
