"""A model that is loaded once and recorded once, whatever a run needs it for.

Calibration, mixed precision, learned rounding and the comparison of outputs all need the float
network and what its own sampler gives it. They share one :class:`Session`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.calibration.model_kind import (
    CannotRunError,
    detect_model_kind,
    library_missing,
    read_json,
)
from arrow_quant_v2.errors import ArrowQuantError, QuantizationError
from arrow_quant_v2.model import Component, resolve
from arrow_quant_v2.plan.model_plan import ModelPlan
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.torch.evaluation import evaluating
from arrow_quant_v2.torch.record.library_names import library_names, missing_names
from arrow_quant_v2.torch.record.renamed import load_renamed
from arrow_quant_v2.torch.record.samples import Samples, read_samples
from arrow_quant_v2.torch.record.sampling import Sampling
from arrow_quant_v2.torch.record.trajectory import Batch, as_batches
from arrow_quant_v2.torch.text_models.pipelines import MODEL, TOKENIZER, is_text_pipeline

__all__ = ["Session", "stopping_at_once"]

#: What one network, or each of several components by its name, was given.
_Recorded = list[Batch] | dict[str, list[Batch]]

#: Makes a trajectory: of so many samples, from this seed, and tells which part is done.
_Record = Callable[[Samples, int, int, Callable[[float], None]], _Recorded]


@dataclass(frozen=True)
class _Model:
    """A loaded network, the component that it is, and how it is recorded.

    `others` are further networks that run at steps, by component.
    """

    component: str
    network: nn.Module
    record: _Record
    others: Mapping[str, nn.Module] = field(default_factory=dict)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network by component."""
        return {self.component: self.network, **self.others}


class Session:
    """A float model that runs.

    Nothing is loaded before it is needed. A model that cannot be loaded is not tried again.

    Parameters
    ----------
    path
        A model folder.
    plan
        Its plan: of its components those run that take a diffusion time, or the first.
    data
        What the model runs on, as :func:`arrow_quant_v2.torch.capture` takes it.
    sampling
        Size, steps and guidance of the samples; None: the defaults.
    trust_remote_code
        Run code that the folder brings, where no library has the class.

    Raises
    ------
    CannotRunError
        From every method: the class of the model is unknown, its library is missing, or it needs
        inputs that nothing supplies.
    """

    def __init__(
        self,
        path: Path,
        plan: ModelPlan,
        data: Any = None,
        sampling: Sampling | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        self.plan = plan
        self._sampling = sampling or Sampling()
        self._trusted = trust_remote_code
        self.data = read_samples(data)
        self._path = path
        self._model: _Model | None = None
        self._failure: CannotRunError | None = None
        self._recorded: dict[int, tuple[int, dict[str, list[Batch]]]] = {}

    @classmethod
    def of_network(cls, component: str, network: nn.Module, batches: list[Batch]) -> Session:
        """A session about a network that exists already, with what it was given."""
        session = cls.__new__(cls)
        session.data = Samples(batches=tuple(batches))
        session._failure = None
        session._model = _Model(component, network, lambda *_: batches)
        session._recorded = {}
        return session

    @property
    def component(self) -> str:
        """The component that runs at every step; empty where the model is one."""
        return self._loaded().component

    @property
    def network(self) -> nn.Module:
        """That component, in float32."""
        return self._loaded().network

    @property
    def components(self) -> tuple[str, ...]:
        """Every component that runs at steps: several where denoisers share a schedule."""
        return tuple(self._loaded().networks)

    def network_of(self, component: str) -> nn.Module:
        """One of :attr:`components`, in float32."""
        return self._loaded().networks[component]

    def recorded(
        self,
        samples: int,
        seed: int,
        progress: ProgressCallback | None = None,
        *,
        component: str | None = None,
    ) -> list[Batch]:
        """What a network is given while the model makes at least `samples` samples.

        What a seed has brought is kept: a later call that needs no more gets the same batches. All
        components are recorded in the same samples.

        Parameters
        ----------
        samples, seed
            How many samples, and where their noise comes from.
        progress
            Called with a message and a fraction.
        component
            One of :attr:`components`; None: :attr:`component`. A component that never ran has no
            batches.
        """
        model = self._loaded()
        wanted = model.component if component is None else component
        known = self._recorded.get(seed)
        if known is not None and known[0] >= samples:
            return known[1].get(wanted, [])

        def report(fraction: float) -> None:
            if progress is not None:
                with stopping_at_once():
                    progress("running the model", fraction)

        with ExitStack() as stack:
            stack.enter_context(_user_errors())
            for network in model.networks.values():
                stack.enter_context(evaluating(network))
            batches = self._batches(model, samples, seed, report)
        self._recorded[seed] = (samples, batches)
        return batches.get(wanted, [])

    def _batches(
        self, model: _Model, samples: int, seed: int, report: Callable[[float], None]
    ) -> dict[str, list[Batch]]:
        """Batches of the user, or what the model is given while it makes samples."""
        data = self.data
        if data.make_batches is not None:
            made = data.make_batches(model.network)
            return {model.component: as_batches(made, held_out=True)}
        if data.batches:
            return {model.component: as_batches(data.batches, held_out=True)}
        with _failures_of_libraries():
            recorded = model.record(data, samples, seed, report)
        return {model.component: recorded} if isinstance(recorded, list) else recorded

    def _loaded(self) -> _Model:
        if self._failure is not None:
            raise self._failure
        if self._model is None:
            try:
                self._model = _load(
                    self._path, self.plan, self._sampling, trust_remote_code=self._trusted
                )
            except CannotRunError as error:
                self._failure = error
                raise
            for network in self._model.networks.values():
                _require_finite(network, self._path)
        return self._model


def _load(path: Path, plan: ModelPlan, sampling: Sampling, *, trust_remote_code: bool) -> _Model:
    kind = detect_model_kind(path, trust_remote_code=trust_remote_code)
    if kind == "pipeline" and is_text_pipeline(read_json(path / "model_index.json")):
        return _load_masked_language_model(
            path / MODEL, path / TOKENIZER, MODEL, trust_remote_code=trust_remote_code
        )
    if kind == "pipeline":
        return _load_pipeline(path, {name: name for name in plan.components}, sampling)
    if kind == "denoiser":
        inside = path.absolute()
        parent = inside.parent
        if is_text_pipeline(read_json(parent / "model_index.json")):
            return _load_masked_language_model(
                path, parent / TOKENIZER, "", trust_remote_code=trust_remote_code
            )
        return _load_pipeline(parent, {inside.name: ""}, sampling)
    return _load_masked_language_model(path, path, "", trust_remote_code=trust_remote_code)


def _load_pipeline(path: Path, wanted: Mapping[str, str], sampling: Sampling) -> _Model:
    """`wanted`: attributes of the pipeline, and the components that they are."""
    from arrow_quant_v2.torch.record.pipelines import pipeline_tapes
    from arrow_quant_v2.torch.record.recorder import takes_time

    with _failures_of_libraries():
        from diffusers import DiffusionPipeline
        from diffusers.utils import logging

        index = read_json(path / "model_index.json")
        given: dict[str, Any] = {"safety_checker": None} if "safety_checker" in index else {}
        model = resolve(path)
        given |= {
            part.name: load_renamed(part, torch.float32)
            for part in model.components
            if part.names and part.class_name
        }
        with _quiet(logging):
            pipeline = DiffusionPipeline.from_pretrained(
                str(path),
                local_files_only=True,
                torch_dtype=torch.float32,
                use_safetensors=True,
                **given,
            )
    found = {name: getattr(pipeline, name, None) for name in wanted}
    networks = {name: part for name, part in found.items() if isinstance(part, nn.Module)}
    if not networks:
        raise CannotRunError(f"{type(pipeline).__name__} has no network '{next(iter(wanted))}'")
    for part in model.components:
        if part.name in networks:
            _require_complete(networks[part.name], part)
    attributes = [name for name, part in networks.items() if takes_time(part)]
    attributes = attributes or list(networks)[:1]

    def record(
        data: Samples, samples: int, seed: int, progress: Callable[[float], None]
    ) -> dict[str, list[Batch]]:
        tapes = pipeline_tapes(
            pipeline,
            attributes,
            data,
            samples=samples,
            seed=seed,
            progress=progress,
            sampling=sampling,
        )
        return {wanted[name]: tape for name, tape in tapes.items()}

    first, *others = attributes
    return _Model(
        wanted[first], networks[first], record, {wanted[name]: networks[name] for name in others}
    )


def _load_masked_language_model(
    path: Path, tokenizer: Path, component: str, *, trust_remote_code: bool
) -> _Model:
    from arrow_quant_v2.torch.record.masked_language import masked_language_tape
    from arrow_quant_v2.torch.record.text_model import load_text_model

    with _failures_of_libraries():
        from transformers.utils import logging

        (stored,) = resolve(path).components
        with _quiet(logging):
            network, tokens = load_text_model(
                path, tokenizer=tokenizer, trust_remote_code=trust_remote_code
            )

    if stored.class_name.endswith("ForMaskedLM"):
        _require_complete(network, stored)

    def record(
        data: Samples, samples: int, seed: int, progress: Callable[[float], None]
    ) -> list[Batch]:
        return masked_language_tape(
            network,
            tokens.tokenizer,
            data,
            samples=samples,
            seed=seed,
            progress=progress,
            mask_token_id=tokens.mask_token_id,
        )

    return _Model(component, network, record)


def _require_complete(network: nn.Module, component: Component) -> None:
    """Raise CannotRunError where the library has drawn weights that the files do not have."""
    names = [component.names.get(name, name) for name in component.tensors]
    missing = missing_names(network, library_names(network, names).values())
    if names and missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CannotRunError(
            f"the weight files lack tensors of {type(network).__name__}: {missing[0]}{more}",
            hint="Is the download complete, and config.json of this model?",
        )


def _require_finite(network: nn.Module, path: Path) -> None:
    """Raise QuantizationError for a broken weight, before the model runs on it for long."""
    for name, weight in network.named_parameters():
        finite = weight.detach().isfinite()
        if not finite.all():
            element = int(finite.logical_not().flatten().nonzero()[0])
            raise QuantizationError(
                f"{os.fspath(path)}: tensor '{name}': expected finite weights, found NaN, "
                f"Inf or a value beyond f32 at element {element}",
                path=os.fspath(path),
                tensor=name,
                hint="Repair the checkpoint: whatever this model puts out depends on it.",
            )


class _Stopped(BaseException):
    """The user's callback wants the run to stop; no library on the way may catch it."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Around a call of the user's callback while another library runs."""
    try:
        yield
    except Exception as error:
        raise _Stopped(error) from error


@contextmanager
def _user_errors() -> Iterator[None]:
    """What the user's callback raised comes out as it was."""
    try:
        yield
    except _Stopped as stopped:
        raise stopped.error from None


@contextmanager
def _failures_of_libraries() -> Iterator[None]:
    """Whatever goes wrong inside another library means that the model cannot be run here."""
    try:
        yield
    except (ArrowQuantError, MemoryError):
        raise
    except ImportError as error:
        raise library_missing(error) from error
    except Exception as error:
        what = " ".join(str(error).split())[:300]
        raise CannotRunError(f"the model does not run: {type(error).__name__}: {what}") from error


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """No progress bars and warnings of a library that loads a model, by its logging module."""
    shown = library.is_progress_bar_enabled()
    library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            library.enable_progress_bar()
