"""Models of the Hugging Face Hub by their names: from the cache, else downloaded into it."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from arrow_quant_v2.errors import ModelNotFoundError
from arrow_quant_v2.model.files import is_weight_like, tree

__all__ = ["is_hub_id", "snapshot"]

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
#: Weights of other programs, which nothing here reads.
_IGNORED = (
    "*.msgpack",
    "*.h5",
    "*.onnx",
    "*.onnx_data",
    "*.ot",
    "*.tflite",
    "*.gguf",
    "openvino_*",
)


def is_hub_id(path: str) -> bool:
    """Whether `path` reads as ``owner/name`` and nothing of that name lies on this machine."""
    if _ID.fullmatch(path) is None or path.endswith(
        (".safetensors", ".bin", ".ckpt", ".pt", ".pth")
    ):
        return False
    return not os.path.lexists(path) and not os.path.lexists(path.partition("/")[0])


def snapshot(name: str, revision: str | None = None) -> Path:
    """The folder of a Hub model in huggingface_hub's cache; what is absent is downloaded.

    Raises
    ------
    ModelNotFoundError
        It is neither in the cache nor on the Hub, or the Hub cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelNotFoundError(
            f"{name}: no such file or directory; a model of the Hub needs huggingface_hub",
            path=name,
            hint="pip install 'arrow-quant-v2[models]'",
        ) from error
    cached = None
    with contextlib.suppress(Exception):  # the library has several for what is not in the cache
        cached = Path(snapshot_download(name, revision=revision, local_files_only=True))
    if cached is not None and _has_weights(cached):
        return cached
    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=list(_IGNORED)))
    except Exception as error:
        if cached is not None:
            return cached
        what = " ".join(str(error).split())[:300]
        raise ModelNotFoundError(
            f"{name}: no such file or directory, and no model of the Hub: {what}",
            path=name,
            hint="Pass a model folder, a .safetensors file, or the name of a model on the Hub.",
        ) from error


def _has_weights(folder: Path) -> bool:
    """Whether more than configurations was downloaded before."""
    return any(is_weight_like(file) for file in tree(folder))
