"""Published names for parts of a library's model.

A part that moves is found in one place only, under its published name, so that whatever replaces it
there (a packed layer) is what the library's code calls. The library's module looks it up there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["expanded", "publish"]


def expanded(names: Mapping[str, str], layers: int) -> dict[str, str]:
    """`names` with one entry for each layer in place of those with ``{}``."""
    found: dict[str, str] = {}
    for published, own in names.items():
        count = layers if "{}" in published else 1
        found.update({published.format(n): own.format(n) for n in range(count)})
    return found


def publish(model: nn.Module, names: Mapping[str, str]) -> None:
    """Move parts of `model`, modules or tensors, to where their published names say.

    Parameters
    ----------
    names
        Published names, and those that the parts have now; parts that the model has not are left
        out.
    """
    for published, own in names.items():
        path, _, leaf = own.rpartition(".")
        try:
            holder = model.get_submodule(path)
            part = getattr(holder, leaf)
        except AttributeError:  # of another kind of layer
            continue
        for group in (holder._modules, holder._parameters, holder._buffers):
            group.pop(leaf, None)
        _place(model, published, part)
        _look_up(holder)[leaf] = (model, published)


def _place(model: nn.Module, name: str, part: Any) -> None:
    """Register `part`, making modules on the way."""
    module = model
    *path, leaf = name.split(".")
    for step, inner in zip(path, [*path[1:], leaf], strict=True):
        if step not in module._modules:
            module.add_module(step, nn.ModuleList() if inner.isdigit() else nn.Module())
        module = module.get_submodule(step)
    if isinstance(part, nn.Module):
        module.add_module(leaf, part)
    elif isinstance(part, nn.Parameter):
        module.register_parameter(leaf, part)
    else:
        module.register_buffer(leaf, part)


def _look_up(holder: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Where attributes of `holder` are that it has no longer; its class is extended once."""
    if "_elsewhere" not in holder.__dict__:
        kind = type(holder)
        holder.__class__ = type(kind.__name__, (_LooksElsewhere, kind), {})
        holder.__dict__["_elsewhere"] = {}
    found: dict[str, tuple[nn.Module, str]] = holder.__dict__["_elsewhere"]
    return found


class _LooksElsewhere(nn.Module):
    """A module that has some of its parts under other names, elsewhere in the model."""

    def __getattr__(self, name: str) -> Any:
        known = self.__dict__.get("_elsewhere", {})
        if name not in known:
            return super().__getattr__(name)
        model, published = known[name]
        path, _, leaf = published.rpartition(".")
        return getattr(model.get_submodule(path), leaf)
