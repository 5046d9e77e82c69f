"""Models without weights, from the configuration files of a folder."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.text_families import family_of

__all__ = ["empty_model", "is_pipeline", "pipeline_classes", "read_index", "uninitialised"]


def is_pipeline(folder: Path) -> bool:
    """Whether the folder is a diffusers pipeline."""
    return (folder / "model_index.json").is_file()


def read_index(folder: Path) -> dict[str, Any]:
    """What ``model_index.json`` of a pipeline says."""
    found: dict[str, Any] = json.loads((folder / "model_index.json").read_bytes())
    return found


def pipeline_classes(folder: Path) -> dict[str, tuple[str, str]]:
    """Library and class of each component of a pipeline."""
    index = read_index(folder)
    return {
        name: (entry[0], entry[1])
        for name, entry in index.items()
        if isinstance(entry, list) and len(entry) == 2 and entry[0] and entry[1]
    }


def empty_model(folder: Path, *, trust_remote_code: bool = False) -> nn.Module:
    """Build the model that ``config.json`` describes, its parameters on the meta device.

    With `trust_remote_code`, code in the folder may build it where no library has the class.

    Raises
    ------
    ConfigurationError
        There is no ``config.json``, or it names no class of diffusers or transformers.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigurationError(
            f"{path}: not found, so nobody knows which module the weights belong to",
            path=str(path),
            hint="Pass the module: load_quantized(path, module=my_module).",
        )
    config = json.loads(path.read_bytes())
    if "_class_name" in config:
        return _diffusers_model(path, config)
    family = family_of(config)
    if family is None:
        return _transformers_model(path, config, trust_remote_code=trust_remote_code)
    from arrow_quant_v2.torch.text_models.build import build

    with uninitialised():
        return build(family, config, path)


class _Uninitialised(TorchFunctionMode):
    """Parameters on the meta device are not drawn: that would take as long as reading weights."""

    _DRAWS = (Tensor.normal_, Tensor.uniform_)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Within a function of torch.nn.init this mode is off, so these are met as a whole.
        if func in self._DRAWS or getattr(func, "__module__", None) == nn.init.__name__:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def uninitialised() -> Iterator[None]:
    """Modules that are made in the body have their parameters on the meta device."""
    from accelerate import init_empty_weights

    with init_empty_weights(), _Uninitialised():
        yield


def _diffusers_model(path: Path, config: dict[str, Any]) -> nn.Module:
    kind = _class(path, "diffusers", config["_class_name"])
    with uninitialised():
        model: nn.Module = kind.from_config(kind.load_config(path.parent))
    return model.eval()


def _transformers_model(
    path: Path, config: dict[str, Any], *, trust_remote_code: bool
) -> nn.Module:
    from transformers import AutoConfig

    names = config.get("architectures") or []
    if not names:
        raise ConfigurationError(
            f"{path}: has neither '_class_name' (diffusers) nor 'architectures' (transformers)",
            path=str(path),
            hint="Pass the module: load_quantized(path, module=my_module).",
        )
    if trust_remote_code and config.get("auto_map"):
        from arrow_quant_v2.torch.text_models.remote import remote_class

        kind, settings = remote_class(path.parent, config)
    else:
        kind = _class(path, "transformers", names[0])
        settings = AutoConfig.from_pretrained(path.parent, local_files_only=True)
    with uninitialised():
        model: nn.Module = kind(settings)
    generation = path.parent / "generation_config.json"
    if generation.is_file() and model.can_generate():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(path.parent)
    return model.eval()


def _class(path: Path, library: str, name: str) -> Any:
    found = getattr(importlib.import_module(library), name, None)
    if found is None:
        raise ConfigurationError(
            f"{path}: {library} {_version(library)} has no class {name!r}",
            path=str(path),
            hint="Install the version that the model was made with, or pass module=.",
        )
    return found


def _version(library: str) -> str:
    return str(getattr(importlib.import_module(library), "__version__", ""))
