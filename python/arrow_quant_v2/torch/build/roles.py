"""What each parameter of a network is for, told by its modules alone; nothing runs.

A module says which parameters are weights of linear layers and convolutions, which are embedding
tables, norms or bare parameters. The tree says what lies outside the repeated blocks: the way in,
the way out, and the embeddings of time and conditions. These are few weights, and errors in them
reach everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import nn

from arrow_quant_v2.plan.class_roles import Role

__all__ = ["BARE", "OUTSIDE", "module_roles", "patterns_of"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TABLES = (nn.Embedding, nn.EmbeddingBag)
#: Where more of the weights of layers lie outside what looks like blocks, it says nothing.
_MOST_OUTSIDE = 0.5

_LINEAR = Role("linear weight", True)
_CONVOLUTION = Role("convolution weight", True)
_EXPERTS = Role("weights of experts", True, row_dimensions=2)
_TRANSPOSED_EXPERTS = Role("weights of experts, inputs first", True)
_TABLE = Role("embedding", False)
_NORM = Role("norm", False)
_ROUTER = Role("router", False)
BARE = Role("no weight of a layer", False)
OUTSIDE = Role("outside the repeated blocks", False)


def module_roles(module: nn.Module) -> dict[str, Role]:
    """The role of each parameter of two or more dimensions, by name.

    Parameters may be on the meta device. A parameter with several names has an entry for each.
    """
    owners = dict(module.named_modules(remove_duplicate=False))
    roles: dict[str, Role] = {}
    sizes: dict[str, int] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.ndim >= 2:
            path, _, leaf = name.rpartition(".")
            roles[name] = _role_in(owners[path], leaf, parameter.ndim)
            sizes[name] = parameter.numel()
    layers = [name for name, role in roles.items() if role.quantize]
    inside = tuple(f"{prefix}." for prefix in _blocks(owners))
    outside = [name for name in layers if not name.startswith(inside)]
    whole = sum(sizes[name] for name in layers)
    if inside and sum(sizes[name] for name in outside) <= _MOST_OUTSIDE * whole:
        roles |= dict.fromkeys(outside, OUTSIDE)
    return roles


def _role_in(owner: nn.Module, leaf: str, dimensions: int) -> Role:
    """What a parameter is to the module that holds it."""
    kind = type(owner).__name__
    if isinstance(owner, _TABLES):
        return _TABLE
    if "Norm" in kind:
        return _NORM
    if kind.endswith(("Router", "Gate")):
        return _ROUTER
    if "Expert" in kind and dimensions == 3:
        return _TRANSPOSED_EXPERTS if _has_inputs_first(owner) else _EXPERTS
    if isinstance(owner, nn.MultiheadAttention):
        return _LINEAR if leaf.endswith("_weight") else BARE
    if leaf != "weight":
        return BARE
    if isinstance(owner, (*_CONVOLUTIONS, *_TRANSPOSED)) or "Conv" in kind and dimensions > 2:
        return _CONVOLUTION
    if isinstance(owner, nn.Linear) or "Linear" in kind or kind == "Conv1D":
        return _LINEAR
    return BARE


def _has_inputs_first(experts: nn.Module) -> bool:
    """Whether stacked experts are ``[experts, in, out]``.

    Classes of transformers say so. Shapes tell it of the others: gate and up projections in one
    tensor have twice the outputs that the down projection has inputs.
    """
    known = getattr(experts, "is_transposed", None)
    if isinstance(known, bool):
        return known
    gate_up, down = (experts._parameters.get(name) for name in ("gate_up_proj", "down_proj"))
    if gate_up is None or down is None or gate_up.ndim != 3 or down.ndim != 3:
        return False
    return bool(gate_up.shape[1] == down.shape[2] and gate_up.shape[2] == 2 * down.shape[1])


def _blocks(owners: Mapping[str, nn.Module]) -> Iterable[str]:
    """Paths of what a network repeats: elements of lists that have modules of their own."""
    for path, module in owners.items():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        composite = [(key, child) for key, child in module.named_children() if _is_composite(child)]
        kinds = {type(child) for _, child in composite}
        repeated = isinstance(module, nn.ModuleList) or len(composite) > max(1, len(kinds))
        if repeated:
            yield from (f"{path}.{key}" if path else key for key, _ in composite)


def _is_composite(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def patterns_of(roles: Mapping[str, Role]) -> dict[str, list[str]]:
    """Globs for the parameters that are not quantized, by role: numbers become ``*``.

    A pattern that also fits a quantized parameter is not one.
    """
    quantized = {_pattern(name) for name, role in roles.items() if role.quantize}
    found: dict[str, set[str]] = {}
    for name, role in roles.items():
        pattern = _pattern(name)
        if not role.quantize:
            chosen = name if pattern in quantized else pattern
            found.setdefault(role.name, set()).add(chosen)
    return {role: sorted(patterns) for role, patterns in sorted(found.items())}


def _pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", name)
