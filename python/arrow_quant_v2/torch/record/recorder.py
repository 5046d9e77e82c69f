"""Listening to the denoisers of a pipeline while it samples.

A first run of one sample counts the calls of each denoiser and the steps of the scheduler that
they belong to. The runs after it record the calls of some steps. Counting calls, and not changes
of the diffusion time, keeps apart the steps of schedulers that visit a time twice (Heun, PNDM), and
puts the two calls of guidance that runs the network twice into one step.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from arrow_quant_v2.config.settings import CALIBRATION
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.torch.layers.clock import TIME_ARGUMENTS
from arrow_quant_v2.torch.record.trajectory import Batch, PerSample, copied, is_held_out, rows_of

__all__ = [
    "Counted",
    "Counter",
    "Recorder",
    "RunEndedError",
    "listening",
    "schedulers_of",
    "takes_time",
]

#: Arguments of denoisers that carry the noisy sample.
_SAMPLE_NAMES = ("sample", "hidden_states", "x", "x_t")


class RunEndedError(Exception):
    """Everything wanted of this run of the sampler has been heard."""


@dataclass(frozen=True)
class Form:
    """Leading dimensions of the tensors of an argument, to tell which of them count samples."""

    lengths: tuple[int, ...]

    @classmethod
    def of(cls, value: Any) -> Form:
        """Of a tensor, or of everything in a container."""
        return cls(tuple(_lengths(value)))


@dataclass(frozen=True)
class Call:
    """One call of a denoiser: the step of the schedulers that it came before, and its rows."""

    step: int
    rows: int
    forms: Mapping[str, Form]


@dataclass(frozen=True)
class Counted:
    """The calls of one denoiser in a run of one sample.

    Attributes
    ----------
    calls
        In order.
    step_of_call
        The step of each call, counted from 0 over the denoiser's own part of the schedule.
    times
        What the scheduler calls the time of each step; None where no scheduler steps.
    """

    calls: tuple[Call, ...]
    step_of_call: tuple[int, ...]
    times: tuple[Any, ...]

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return len(self.times)


def takes_time(network: nn.Module) -> bool:
    """Whether a network is called with a diffusion time, as denoisers are."""
    return any(name in inspect.signature(network.forward).parameters for name in TIME_ARGUMENTS)


class Arguments:
    """Reads the arguments of a denoiser's calls by name."""

    def __init__(self, denoiser: nn.Module) -> None:
        self._parameters = inspect.signature(denoiser.forward)
        self._time_name = self._first(TIME_ARGUMENTS)
        self.sample_name = self._first(_SAMPLE_NAMES)

    def _first(self, candidates: Sequence[str]) -> str | None:
        return next((name for name in candidates if name in self._parameters.parameters), None)

    def by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name; those beyond the named ones join them."""
        flat: dict[str, Any] = {}
        for name, value in self._parameters.bind(*args, **kwargs).arguments.items():
            kind = self._parameters.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                flat.update(value)
            elif kind is not inspect.Parameter.VAR_POSITIONAL:
                flat[name] = value
        return flat

    def time(self, given: Mapping[str, Any]) -> Tensor:
        """The diffusion time, float64 [rows] or [1]; of one for each token, the first."""
        time = torch.as_tensor(given.get(self._time_name or "", 0.0)).detach().double()
        return time.flatten(1)[:, 0] if time.dim() > 1 else time.reshape(-1)

    def rows(self, given: Mapping[str, Any]) -> int:
        """How many samples the call has, guidance counted."""
        sample = given.get(self.sample_name or "")
        if sample is None:
            lengths = [n for value in given.values() for n in Form.of(value).lengths]
            return lengths[0] if lengths else 1
        return len(sample)


class Counter:
    """Counts the calls of the denoisers of a pipeline, and the steps of its schedulers."""

    def __init__(self, denoisers: Mapping[str, nn.Module]) -> None:
        self._arguments = {name: Arguments(module) for name, module in denoisers.items()}
        self._calls: dict[str, list[Call]] = {name: [] for name in denoisers}
        self._times: list[Any] = []
        self._ended = False

    def on_call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A denoiser is about to run."""
        arguments = self._arguments[name]
        given = arguments.by_name(args, kwargs)
        forms = {key: Form.of(value) for key, value in given.items()}
        self._calls[name].append(Call(len(self._times), arguments.rows(given), forms))
        self._ended = False

    def on_step(self, scheduler: Any, time: Any) -> None:
        """A scheduler is about to make a step."""
        self._times.append(time)
        times = getattr(scheduler, "timesteps", None)
        last = times[-1] if isinstance(times, Tensor) and times.numel() else None
        self._ended = last is not None and bool(torch.as_tensor(time).reshape(-1)[0] == last)

    @property
    def ended(self) -> bool:
        """Whether every denoiser has run, and the last call was that of the last step."""
        return self._ended and all(self._calls.values())

    def counted(self) -> dict[str, Counted]:
        """The calls of each denoiser that ran."""
        return {name: self._of(calls) for name, calls in self._calls.items() if calls}

    def _of(self, calls: Sequence[Call]) -> Counted:
        steps = list(dict.fromkeys(call.step for call in calls))
        if len(steps) == 1 and len(calls) > 1 and not self._times:
            # The pipeline integrates by itself: each call is a step.
            return Counted(tuple(calls), tuple(range(len(calls))), (None,) * len(calls))
        numbers = {step: number for number, step in enumerate(steps)}
        times = tuple(self._times[step] if step < len(self._times) else None for step in steps)
        return Counted(tuple(calls), tuple(numbers[call.step] for call in calls), times)


@dataclass
class _Part:
    """What is recorded of one denoiser."""

    arguments: Arguments
    counted: Counted
    generator: torch.Generator
    call: int = 0
    wanted: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    last: int = -1
    batches: list[Batch] = field(default_factory=list)


class Recorder:
    """Copies what denoisers are given at the chosen steps of some trajectories.

    Parameters
    ----------
    denoisers, counted
        The networks, and their calls in a run of one sample.
    numbers
        Of the trajectories.
    noised
        Makes noisy samples of clean ones, of the name of the denoiser, the trajectories, what they
        replace and the time;
        None: samples stay those of the run.
    generators
        What the choice of steps and the noise are drawn from.
    progress
        Gets the part of the run that is done.
    shared
        Tensors that all samples share, from one run to the next: equal ones become one.
    """

    def __init__(
        self,
        denoisers: Mapping[str, nn.Module],
        counted: Mapping[str, Counted],
        numbers: range,
        noised: Callable[[str, Tensor, Any, Any], Any] | None,
        generators: Mapping[str, torch.Generator],
        progress: Callable[[float], None],
        shared: dict[tuple[str, str], list[Any]],
    ) -> None:
        self._numbers = torch.tensor(numbers)
        self._noised = noised
        self._progress = progress
        self._shared = shared
        self._total = sum(len(entry.calls) for entry in counted.values())
        self._parts = {
            name: _Part(Arguments(denoisers[name]), entry, generators[name])
            for name, entry in counted.items()
        }

    @property
    def batches(self) -> dict[str, list[Batch]]:
        """What has been recorded of each denoiser."""
        return {name: part.batches for name, part in self._parts.items()}

    def on_call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A denoiser is about to run."""
        part = self._parts.get(name)
        if part is None:
            return
        if part.call == 0:
            self._choose_steps(part)
        done = sum(entry.call for entry in self._parts.values())
        self._progress(min(done / self._total, 1.0))
        if part.call < len(part.counted.calls):
            given = part.arguments.by_name(args, kwargs)
            self._record(name, part, given, part.arguments.time(given))
        part.call += 1
        if all(entry.call > 0 and entry.call > entry.last for entry in self._parts.values()):
            raise RunEndedError

    def on_step(self, scheduler: Any, time: Any) -> None:
        """Steps have been counted before."""

    def _choose_steps(self, part: _Part) -> None:
        """For each trajectory one step in each of several equal parts of the schedule."""
        steps = part.counted.steps
        parts = min(CALIBRATION.steps_per_trajectory, steps)
        edges = torch.linspace(0, steps, parts + 1, dtype=torch.float64)
        count = len(self._numbers)
        part.wanted = torch.zeros(count, steps, dtype=torch.bool)
        for low, high in itertools.pairwise(edges):
            draw = torch.rand(count, generator=part.generator, dtype=torch.float64)
            chosen = (low + draw * (high - low)).long().clamp(max=steps - 1)
            part.wanted[torch.arange(count), chosen] = True
        any_of = part.wanted.any(dim=0)
        part.last = max(call for call, step in enumerate(part.counted.step_of_call) if any_of[step])

    def _record(self, name: str, part: _Part, given: dict[str, Any], time: Tensor) -> None:
        count, trajectories = part.arguments.rows(given), len(self._numbers)
        step = part.counted.step_of_call[part.call]
        before = part.counted.calls[part.call]
        if trajectories > 1 and count != trajectories * before.rows:
            raise ConfigurationError(
                f"{trajectories} samples at once gave {count} rows, and one gave {before.rows}"
            )
        # Guidance stacks the batch: row r belongs to trajectory r modulo their number.
        trajectory = torch.arange(count) % trajectories
        rows = torch.nonzero(part.wanted[trajectory, step])[:, 0]
        if not len(rows):
            return
        kept: dict[str, Any] = {}
        shared: set[str] = set()
        for key, value in given.items():
            if _counts_samples(value, before.forms.get(key), count, before.rows):
                kept[key] = rows_of(_marked(value, count), rows, count)
            else:
                kept[key] = self._same(name, key, value)
                shared |= {key} if Form.of(value).lengths else set()
        sample = part.arguments.sample_name
        if self._noised is not None and sample is not None:
            kept[sample] = self._noised(
                name, trajectory[rows], kept[sample], part.counted.times[step]
            )
        part.batches.append(
            Batch(
                kwargs=kept,
                timestep=time[rows] if len(time) == count else float(time[0]),
                held_out=is_held_out(self._numbers[trajectory[rows]]),
                shared=frozenset(shared),
            )
        )

    def _same(self, name: str, key: str, value: Any) -> Any:
        """An equal value of an earlier call, or a copy."""
        if not Form.of(value).lengths:
            return copied(value)
        known = self._shared.setdefault((name, key), [])
        for other in known:
            if _equal(other, value):
                return other
        known.append(copied(value))
        return known[-1]


@contextlib.contextmanager
def listening(
    pipeline: Any, denoisers: Mapping[str, nn.Module], listener: Counter | Recorder
) -> Iterator[None]:
    """Tell the listener of every call of the denoisers and every step of the schedulers."""

    def hook(name: str) -> Callable[..., None]:
        return lambda _, args, kwargs: listener.on_call(name, args, kwargs)

    with contextlib.ExitStack() as stack:
        for name, module in denoisers.items():
            handle = module.register_forward_pre_hook(hook(name), with_kwargs=True)
            stack.callback(handle.remove)
        for scheduler in schedulers_of(pipeline):
            scheduler.step = _Step(scheduler, listener)
            stack.callback(delattr, scheduler, "step")
        yield


def schedulers_of(pipeline: Any) -> list[Any]:
    """Everything in a pipeline that makes steps."""
    found = {}
    for part in vars(pipeline).values():
        if hasattr(part, "step") and hasattr(part, "set_timesteps"):
            found[id(part)] = part
    return list(found.values())


class _Step:
    """The step of a scheduler, in place of its method, that tells a listener.

    A pipeline may make a deep copy of its scheduler; the copy has a step of its own.
    """

    def __init__(self, scheduler: Any, listener: Counter | Recorder) -> None:
        self._scheduler = scheduler
        self._listener = listener
        method = type(scheduler).step
        self.__signature__ = inspect.signature(functools.partial(method, scheduler))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        time = kwargs["timestep"] if "timestep" in kwargs else args[1]
        self._listener.on_step(self._scheduler, time)
        return type(self._scheduler).step(self._scheduler, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Step:
        return _Step(memo[id(self._scheduler)], self._listener)


def _lengths(value: Any) -> Iterator[int]:
    if isinstance(value, Tensor):
        if value.ndim > 0:
            yield len(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _lengths(item)
    elif isinstance(value, tuple | list):
        if _is_list_of_tensors(value):
            yield len(value)
        for item in value:
            yield from _lengths(item)


def _is_list_of_tensors(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Tensor) for v in value)


def _counts_samples(value: Any, before: Form | None, count: int, count_before: int) -> bool:
    """Whether an argument has something for each sample.

    Its lengths are those of the samples both now and in the run of one sample.
    """
    now = Form.of(value).lengths
    if before is None or len(before.lengths) == 0 or count == count_before:
        return count in now
    return any(
        length == count and earlier == count_before
        for length, earlier in zip(now, before.lengths, strict=False)
    )


def _marked(value: Any, count: int) -> Any:
    """Lists of one tensor for each sample as such."""
    if _is_list_of_tensors(value) and len(value) == count:
        return PerSample(value)
    if isinstance(value, Mapping):
        return {key: _marked(item, count) for key, item in value.items()}
    return value


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return bool(a.keys() == b.keys()) and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b)
