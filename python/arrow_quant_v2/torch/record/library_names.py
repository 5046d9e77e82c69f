"""Names of tensors as a model has them, from those in its files: the library's own renaming."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from arrow_quant_v2.model.names import final_names

__all__ = ["library_names", "missing_names"]


def library_names(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """What each name is called in `model`, by the library that the model's class is from.

    Norms of old checkpoints, attention blocks of old autoencoders and prefixes of base models are
    renamed as ``from_pretrained`` does; modules of torch.compile lose their wrapper. A name that
    nobody knows stays as it is.
    """
    known = {name for name, _ in _named(model)}
    before = list(names)
    found = {name: name for name in before}
    if all(name in known for name in before):
        return found
    if hasattr(model, "_fix_state_dict_keys_on_load"):
        kept = {name: name for name in before}
        model._fix_state_dict_keys_on_load(kept)
        found = {old: new for new, old in kept.items()}
    elif hasattr(model, "base_model_prefix"):
        found = _of_transformers(model, before)
    wrapped = {new: old for old, new in final_names(known, "").items()}
    return {old: wrapped.get(new, new) if new not in known else new for old, new in found.items()}


def missing_names(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Parameters of `model` that are not among `names`, which are the model's; ties count once."""
    present = set(names)
    shared: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(name)
    tied = _tied(model)
    return [
        group[0]
        for group in shared.values()
        if not present.intersection(group) and not tied.intersection(group)
    ]


def _tied(model: nn.Module) -> set[str]:
    """Parameters that the library fills from others."""
    found: set[str] = set()
    for prefix, module in model.named_modules():
        keys = getattr(module, "_tied_weights_keys", None) or ()
        found.update(f"{prefix}.{key}" if prefix else key for key in keys)
    return found


def _of_transformers(model: nn.Module, names: list[str]) -> dict[str, str]:
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming, rename_source_key
    except ImportError:  # before version 5
        return {name: name for name in names}
    own = get_model_conversion_mapping(model)
    renamings = [entry for entry in own if isinstance(entry, WeightRenaming)]
    state = model.state_dict()
    prefix = model.base_model_prefix
    return {name: rename_source_key(name, renamings, [], prefix, state)[0] for name in names}


def _named(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
