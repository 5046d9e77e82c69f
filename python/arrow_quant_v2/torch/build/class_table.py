"""Writes ``plan/known_classes.json``: run it after diffusers or transformers has new classes."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

import arrow_quant_v2.plan.class_roles as class_roles
from arrow_quant_v2.torch.build.empty_model import uninitialised
from arrow_quant_v2.torch.build.roles import module_roles, patterns_of

__all__ = ["class_table"]

#: Text encoders of diffusers' pipelines.
_TEXT_ENCODERS = (
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPVisionModelWithProjection",
    "Gemma2Model",
    "LlamaForCausalLM",
    "LlamaModel",
    "Qwen2Model",
    "Qwen3ForCausalLM",
    "Qwen3Model",
    "T5EncoderModel",
    "UMT5EncoderModel",
)


def class_table() -> dict[str, Any]:
    """Patterns of what is not quantized, by class, for all classes with a default configuration."""
    classes = {}
    for name, model in _models():
        found = patterns_of(module_roles(model))
        if any(role.quantize for role in module_roles(model).values()):
            classes[name] = found
    versions = {name: import_module(name).__version__ for name in ("diffusers", "transformers")}
    return {"made_with": versions, "classes": dict(sorted(classes.items()))}


def _models() -> Iterator[tuple[str, nn.Module]]:
    """Models of every class that can be built from its defaults, on the meta device."""
    import diffusers
    import transformers

    for name in sorted(dir(diffusers)):
        kind = getattr(diffusers, name, None)
        if inspect.isclass(kind) and issubclass(kind, diffusers.ModelMixin):
            yield from _built(name, kind, ())
    for config, kind in sorted(_text_models().items(), key=lambda item: item[0].__name__):
        if inspect.isclass(kind):
            yield from _built(kind.__name__, kind, (config,))
    for name in _TEXT_ENCODERS:
        kind = getattr(transformers, name)
        yield from _built(name, kind, (kind.config_class,))


def _text_models() -> dict[Any, Any]:
    from transformers.models.auto import modeling_auto

    return dict(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING.items())


def _built(name: str, kind: Any, configs: tuple[Any, ...]) -> Iterator[tuple[str, nn.Module]]:
    try:
        with warnings.catch_warnings(), uninitialised():
            warnings.simplefilter("ignore")
            yield name, kind(*[config() for config in configs])
    except Exception as error:  # a class without usable defaults is not in the table
        print(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:100]}")


if __name__ == "__main__":
    path = Path(class_roles.__file__).with_name("known_classes.json")
    path.write_text(json.dumps(class_table(), indent=1) + "\n")
