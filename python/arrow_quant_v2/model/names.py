"""Names of tensors as the class of the model has them: wrappers and old spellings taken off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["final_names", "other_networks"]

#: What torch puts around a module, at any depth of the name: torch.compile, FSDP, checkpointing.
_AROUND_MODULES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
#: What training code and other programs put before all names.
_DISTRIBUTED = "module."
_BEFORE_ALL = ("net.", "network.", "diffmodel.", "diffusion_model.", "model.")
#: How transformers renames parameters of old checkpoints.
_OLD_NORMS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
#: Networks that all-in-one files hold beside the denoiser.
_OTHER_NETWORKS = (
    "first_stage_model.",
    "cond_stage_model.",
    "conditioner.",
    "vae.",
    "audio_vae.",
    "vocoder.",
    "text_encoder.",
    "text_encoder_2.",
    "text_encoder_3.",
    "text_encoders.",
    "model_ema.",
)


def final_names(names: Iterable[str], library: str) -> dict[str, str]:
    """The names that change, and what they become.

    In a folder whose library is known, names become those of the library's class. In a lone file
    only what torch itself puts around modules goes; the other names belong to whoever made it.

    Parameters
    ----------
    names
        All names of a component.
    library
        ``"diffusers"``, ``"transformers"`` or empty.
    """
    before = list(names)
    after = [_without_modules(name) for name in before]
    while after and all(name.startswith(_DISTRIBUTED) for name in after):
        after = [name.removeprefix(_DISTRIBUTED) for name in after]
    prefix = _wrapper(after, library)
    while prefix:
        after = [name.removeprefix(prefix) for name in after]
        prefix = _wrapper(after, library)
    if library == "transformers":
        after = [_new_spelling(name) for name in after]
    if len(set(after)) < len(before) or not all(after):
        return {}  # they are not wrappers, then
    return {old: new for old, new in zip(before, after, strict=True) if old != new}


def other_networks(names: Iterable[str]) -> tuple[str, ...]:
    """The prefixes of networks beside the denoiser; none where all names belong to them."""
    known = list(names)
    found = {prefix: sum(map(prefix.__eq__, _prefixes(known))) for prefix in _OTHER_NETWORKS}
    if sum(found.values()) == len(known):
        return ()
    return tuple(prefix for prefix, count in found.items() if count)


def _prefixes(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        plain = name.removeprefix("model.")
        yield next((p for p in _OTHER_NETWORKS if plain.startswith(p)), "")


def _without_modules(name: str) -> str:
    for wrapper in _AROUND_MODULES:
        name = name.replace(wrapper, "")
    return name


def _wrapper(names: list[str], library: str) -> str:
    """What stands before all names and is no part of the class; empty when there is nothing."""
    for prefix in _BEFORE_ALL if library else ():
        if not names or not all(name.startswith(prefix) for name in names):
            continue
        # A transformers model with tied weights has only names of its own ``model``.
        inside = (name.removeprefix(prefix).startswith(prefix) for name in names)
        if library == "diffusers" or prefix != "model." or any(inside):
            return prefix
    return ""


def _new_spelling(name: str) -> str:
    for old, new in _OLD_NORMS.items():
        name = name.replace(old, new)
    return name
