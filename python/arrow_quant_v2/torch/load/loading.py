"""From an artefact to a model that runs, its weights packed."""

from __future__ import annotations

import gc
import inspect
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.artefact.model import QuantizedModel
from arrow_quant_v2.artefact.open import open_quantized
from arrow_quant_v2.calibration.model_kind import missing_components
from arrow_quant_v2.caller_warnings import warn_caller
from arrow_quant_v2.errors import ConfigurationError, ShapeMismatchError
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.torch.build.empty_model import INDEX, empty_model, is_pipeline, read_index
from arrow_quant_v2.torch.layers.adapters import accept_adapters
from arrow_quant_v2.torch.layers.clock import clock_of
from arrow_quant_v2.torch.layers.execution import Execution, execution_of
from arrow_quant_v2.torch.layers.packed_experts import PackedExperts
from arrow_quant_v2.torch.layers.packed_weight import PackedWeight
from arrow_quant_v2.torch.load.float_types import stored_dtype
from arrow_quant_v2.torch.load.load_weights import fit
from arrow_quant_v2.torch.load.tied import tied_parameters
from arrow_quant_v2.torch.ops.attention_gelu import compute_by_engine
from arrow_quant_v2.torch.text_models.experts import has_own_experts, separate_experts
from arrow_quant_v2.torch.text_models.pipelines import MODEL, is_text_pipeline, text_pipeline

__all__ = ["load_quantized"]


def load_quantized(
    path: StrPath,
    device: Any = "cpu",
    dtype: torch.dtype | None = None,
    activation: str | None = None,
    compute: str = "auto",
    *,
    module: nn.Module | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Load a quantized model ready to run; float weights are never made.

    Parameters
    ----------
    path
        The artefact: a pipeline, a component, a single file's, or the folder of one component in
        the artefact of a pipeline.
    device
        Where the model shall be.
    dtype
        Type of everything that is not quantized, and of the activations of a model that casts its
        inputs; what the model's library keeps in float32 stays in it. None: the type that most
        numbers of the source have, for all components; with `module`, each tensor as it is stored.
    activation
        ``"none"`` (the default unless `compute` is ``"int8"``): inputs stay floats, only weights
        are quantized. ``"dynamic"``: inputs become int8, each token (each sample of a convolution)
        by its own range. ``"static"``: by the range that calibration found, one for all diffusion
        times or one for each group of them; layers without one keep floating-point inputs.
    compute
        ``"packed"``: codes stay packed, the least memory. ``"int8"``: the int8 form of every weight
        is kept too, for the fastest products. ``"float"``: weights are restored once, ordinary
        layers run. ``"auto"``: ``"int8"`` on the CPU when activations are int8, else ``"packed"``.
    module
        A module with the parameter names of the artefact, whose layers are to be replaced; it is
        changed and returned. For models that neither diffusers nor transformers builds.
    trust_remote_code
        Build the model by Python code in the folder, where no library has its class. That code can
        do whatever you can: read it first.

    Returns
    -------
    object
        A diffusers pipeline, a diffusers component, a transformers model, or `module`; in
        evaluation mode, without gradients of weights. LLaDA, LLaDA-MoE, LLaDA2, Dream and
        DiffuCoder become models of transformers with attention in both directions, whose logits
        predict the tokens of their own positions; :func:`sample_text` writes with them.

    Raises
    ------
    ModelNotFoundError
        There is no artefact at `path`.
    ValidationError
        It is damaged.
    ConfigurationError
        An argument is invalid, or the folder does not say what model it holds.
    ShapeMismatchError
        The model has other tensors than the artefact.

    Examples
    --------
    >>> from arrow_quant_v2 import load_quantized
    >>> pipeline = load_quantized("my-model-int4/")  # doctest: +SKIP
    >>> images = pipeline(batch_size=4).images  # doctest: +SKIP
    """
    execution = execution_of(torch.device(device), activation, compute)
    settings = {"dtype": dtype, "execution": execution, "as_floats": compute == "float"}
    with _short_collections():
        artefact = open_quantized(path)
        component = _component(path, artefact)
        if module is None:
            if dtype is None:
                settings["dtype"] = stored_dtype(artefact.components.values())
            if component or not is_pipeline(artefact.path):
                folder = artefact.path / component
                module = empty_model(folder, trust_remote_code=trust_remote_code)
        model = _loaded(artefact, component, module, settings)
        # diffusers warns of float16 on the CPU at each move to it, where nothing is to be moved.
        return model if torch.device(device).type == "cpu" else model.to(device)


@contextmanager
def _short_collections() -> Iterator[None]:
    """Python looks for garbage among new objects only.

    The many objects of a model make it look again and again; with the libraries of models in
    memory, each time takes as long as reading a gigabyte.
    """
    if gc.get_freeze_count():
        yield  # somebody has put objects aside, and would get them back
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _component(path: StrPath, artefact: QuantizedModel) -> str:
    """The component whose folder `path` is; the whole artefact is ``""``."""
    folder, root = Path(os.fsdecode(path)).resolve(), artefact.path.resolve()
    if not folder.is_dir() or folder == root or not folder.is_relative_to(root):
        return ""
    name = folder.relative_to(root).as_posix()
    if name not in artefact.components:
        raise ConfigurationError(
            f"{folder}: component '{name}' is not quantized; {sorted(artefact.components)} are",
            path=str(folder),
            hint="Load it with from_pretrained of its own class.",
        )
    return name


def _loaded(
    artefact: QuantizedModel, component: str, module: nn.Module | None, settings: dict[str, Any]
) -> Any:
    if module is not None:
        return _fitted(module, artefact, component, settings)
    return _pipeline(artefact, artefact.path, settings)


def _pipeline(artefact: QuantizedModel, folder: Path, settings: dict[str, Any]) -> Any:
    import diffusers

    missing = missing_components(folder)
    if missing:
        raise ConfigurationError(
            f"{folder}: the pipeline names components that are not there: {', '.join(missing)}",
            path=str(folder),
            hint="Quantize the whole pipeline, or load the folder of one component.",
        )
    built: dict[str, Any] = {
        name: _fitted(empty_model(folder / name), artefact, name, settings)
        for name in artefact.components
    }
    if is_text_pipeline(read_index(folder)):
        return text_pipeline(folder, built[MODEL])
    optional = {name: built.pop(name) for name in _optional_components(folder) if name in built}
    built[_dtype_argument(diffusers.__version__)] = settings["dtype"]
    with _without_components(folder, optional) as place:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            place, local_files_only=True, **built
        )
    pipeline.register_modules(**optional)
    return pipeline


def _optional_components(folder: Path) -> list[str]:
    """Components that the pipeline's class can do without.

    diffusers reads these from the folder even where they were passed.
    """
    import diffusers

    kind = getattr(diffusers, read_index(folder).get("_class_name", ""), None)
    if kind is None:
        return []
    parameters = inspect.signature(kind.__init__).parameters
    return [name for name, p in parameters.items() if p.default is not p.empty]


@contextmanager
def _without_components(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """The folder of a pipeline as if it had no such components: links, and an index without."""
    absent = set(names)
    if not absent:
        yield folder
        return
    index = {k: [None, None] if k in absent else v for k, v in read_index(folder).items()}
    with tempfile.TemporaryDirectory(prefix="arrow-quant-") as place:
        for entry in folder.iterdir():
            if entry.name not in absent | {INDEX}:
                Path(place, entry.name).symlink_to(entry.absolute())
        Path(place, INDEX).write_text(json.dumps(index))
        yield Path(place)


def _dtype_argument(version: str) -> str:
    """What diffusers calls the type of a model; the old name warns since 0.42."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return "dtype" if (major, minor) >= (0, 42) else "torch_dtype"


def _fitted(
    model: nn.Module, artefact: QuantizedModel, component: str, settings: dict[str, Any]
) -> nn.Module:
    if component not in artefact.components:
        names = sorted(artefact.components)
        raise ConfigurationError(
            f"{artefact.path}: has several components, {names}; module= fits an artefact of one",
            path=str(artefact.path),
            hint="Open the folder of one component.",
        )
    clock = clock_of(model, artefact.path)
    tensors = artefact.components[component]
    if has_own_experts(tensors):
        separate_experts(model)
    tied = tied_parameters(model)
    fit(model, tensors, clock=clock, **settings)
    tied.share(model, tensors)
    _check_complete(model)
    if any(getattr(layer, "time_parameters", None) is not None for layer in model.modules()):
        clock.watch(model)
    if not settings["as_floats"]:
        compute_by_engine(model)
        _run_expert_by_expert(model)
        accept_adapters(model)
        _run_expert_by_expert(model)
        _make_saveable(model, settings["execution"])
    if settings["execution"].activation == "static":
        _check_static(model, artefact.path)
    return model.requires_grad_(False)


def _run_expert_by_expert(model: nn.Module) -> None:
    """Let models of transformers restore only those packed experts that tokens are sent to.

    Their other implementations take the weights of all experts at once.
    """
    choose = getattr(model, "set_experts_implementation", None)
    if choose is not None and _has_packed_experts(model):
        choose("eager")


def _has_packed_experts(model: nn.Module) -> bool:
    return any(isinstance(part, PackedExperts) for part in model.modules())


def _make_saveable(model: nn.Module, execution: Execution) -> None:
    """Let the library of `model` save it as it is, and know what it saved in this process."""
    if not any(isinstance(module, PackedWeight) for module in model.modules()):
        return
    if _has_packed_experts(model):
        if hasattr(model, "save_pretrained"):
            model.save_pretrained = _refuse_saving
    elif hasattr(model, "register_to_config"):
        from arrow_quant_v2.integrations import diffusers

        diffusers.make_saveable(model, execution)
    elif hasattr(model, "save_pretrained"):
        from arrow_quant_v2.integrations import transformers

        transformers.make_saveable(model, execution)


def _refuse_saving(*unused: Any, **settings: Any) -> None:
    raise ConfigurationError(
        "save_pretrained has no form for stacked experts that are packed",
        hint="Copy the artefact: load_quantized opens it again. A model loaded with "
        "compute='float' can be saved.",
    )


def _check_static(model: nn.Module, path: Path) -> None:
    """Raise where no layer has static scales, and say which have none."""
    layers = {
        name: layer for name, layer in model.named_modules() if hasattr(layer, "lacks_scales")
    }
    without = [name for name, layer in layers.items() if layer.lacks_scales]
    if layers and len(without) == len(layers):
        raise ConfigurationError(
            "activation='static' needs ranges that calibration found, and no layer has one",
            path=str(path),
            hint="Quantize with activation_bits=8 and calibration, or load with "
            "activation='dynamic'.",
        )
    if without:
        warn_caller(
            f"{len(without)} layers have no static range, as calibration did not reach them, and "
            f"keep floating-point inputs: {', '.join(without[:3])}"
        )


def _check_complete(model: nn.Module) -> None:
    missing = [
        name
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if tensor.device.type == "meta"
    ]
    if missing:
        raise ShapeMismatchError(
            f"{type(model).__name__}: {len(missing)} tensors of the model are not in the artefact, "
            f"the first is '{missing[0]}'",
            tensor=missing[0],
            hint="Is this the module that the artefact was made from?",
        )
