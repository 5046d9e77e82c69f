"""What errors of a layer's outputs cost the prediction, in all and by diffusion time.

An error e in the output of a layer moves the prediction by J e, with J the Jacobian of what
follows. For an e of no particular direction |J e|^2 goes with |e|^2 |J|^2, and for v of independent
normal numbers E |J^T v|^2 = |J|^2 (Hutchinson's estimator): one run backwards from a random v gives
an estimate for every token of every layer. Where the prediction is a distribution over tokens, v is
the gradient of the log likelihood of a token drawn from it, so that squares add up to the Fisher
information, which is the divergence that small errors cause.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from arrow_quant_v2.config.settings import CALIBRATION
from arrow_quant_v2.torch.evaluation import frozen
from arrow_quant_v2.torch.observe.experts import tokens_of_a_sample
from arrow_quant_v2.torch.observe.shared_inputs import ObservedInput
from arrow_quant_v2.torch.observe.watch import watch
from arrow_quant_v2.torch.record.trajectory import Batch
from arrow_quant_v2.torch.text_models.routing import routed_tokens

__all__ = ["Costs", "Profile", "measure_costs"]

_ROWS = 2  # of a call that run backwards


@dataclass(frozen=True)
class Profile:
    """How often tokens of an input are to be seen.

    Attributes
    ----------
    times, shares
        Where the share is known, ascending, and the share, with mean 1 over the tape.
    hidden
        How much more a hidden token of a language model counts than a visible one.
    """

    times: npt.NDArray[np.float64]
    shares: npt.NDArray[np.float64]
    hidden: float = 1.0

    def share(self, times: Tensor) -> Tensor:
        """The share at each of `times`, in between on a straight line."""
        return torch.from_numpy(np.interp(times.numpy(), self.times, self.shares))


@dataclass(frozen=True)
class Costs:
    """What errors in the outputs of layers cost.

    Attributes
    ----------
    profiles
        By the numbers of inputs.
    sensitivities
        By the numbers of weights: NMSE of the prediction (of language models twice the divergence
        that goes with it, in nats) over that of the layer's output.
    reason
        Why there are none, where there are none.
    """

    profiles: Mapping[int, Profile] = field(default_factory=dict)
    sensitivities: Mapping[int, float] = field(default_factory=dict)
    reason: str = ""


def measure_costs(
    module: nn.Module,
    tape: Sequence[Batch],
    weights: list[Tensor],
    inputs: Sequence[ObservedInput],
    check: Callable[[], None],
) -> Costs:
    """Run a part of the recorded samples backwards; held-out samples are left out."""
    found = _Gradients(len(weights))
    try:
        with frozen(module), watch(weights, lambda *_: None, found.on_output):
            for batch in _part(tape):
                found.batch = batch
                found.run(module)
                check()
    except RuntimeError as error:  # what cannot be differentiated
        reason = " ".join(str(error).split())[:200]
        return Costs(reason=f"every time counts the same: {reason}")
    every = torch.cat([batch.times() for batch in tape]).numpy()
    profiles = {}
    for number, entry in enumerate(inputs):
        profile = found.profile(entry.weights, every)
        if profile is not None:
            profiles[number] = profile
    return Costs(profiles, found.sensitivities())


def _part(tape: Sequence[Batch]) -> Iterator[Batch]:
    """A few samples of calls spread evenly over time."""
    part = int(CALIBRATION.profile_part * sum(batch.samples for batch in tape))
    wanted = max(CALIBRATION.least_profiled, part) // _ROWS
    usable = [b for b in tape if b.held_out is None or not bool(b.held_out.all())]
    ordered = sorted(usable, key=lambda batch: float(batch.times().mean()))
    step = max(1.0, len(ordered) / wanted)
    for place in np.arange(step / 2, len(ordered), step).astype(int):
        batch = ordered[place]
        fitted = ~batch.held_out if batch.held_out is not None else torch.ones(batch.samples) > 0
        rows = torch.nonzero(fitted)[:, 0][:_ROWS]
        yield replace(batch.take(rows), valid=None, held_out=None)


class _Gradients:
    """Mean squares of gradients of every weight's outputs, of one call after the other."""

    def __init__(self, count: int) -> None:
        self._sums: list[list[tuple[float, float, float, float]]] = [[] for _ in range(count)]
        self._effects: list[list[tuple[float, float]]] = [[] for _ in range(count)]
        self._energy: list[float] = []  # of predictions, a sample
        self._random = torch.Generator().manual_seed(0)
        self.batch = Batch()

    def run(self, module: nn.Module) -> None:
        with torch.enable_grad():
            found = module(*self.batch.args, **self.batch.kwargs)
            outputs = [tensor for tensor in _tensors(found) if tensor.requires_grad]
            if not outputs:
                raise RuntimeError("the outputs have no gradient")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                self._probe(outputs).backward()

    def _probe(self, outputs: list[Tensor]) -> Tensor:
        hidden = self.batch.masked
        if hidden is not None and outputs[0].shape[:-1] == hidden.shape:
            logs = outputs[0].float().log_softmax(dim=-1)
            drawn = torch.multinomial(
                logs.detach().exp().flatten(0, 1).cpu(), 1, generator=self._random
            ).view(*hidden.shape, 1)
            likely = logs.gather(-1, drawn.to(logs.device))[..., 0]
            counts = hidden.sum(dim=1, keepdim=True).clamp(min=1).to(logs.device)
            self._energy.append(1.0)  # the divergence is what it is, relative to nothing
            return (likely * hidden.to(logs.device) / counts.sqrt()).sum()
        energy = sum(float(t.detach().float().square().sum()) for t in outputs)
        self._energy.append(energy / self.batch.samples)
        probes = (torch.randn(t.shape, generator=self._random).to(t.device) for t in outputs)
        return torch.stack(
            [(t.float() * v).sum() for t, v in zip(outputs, probes, strict=True)]
        ).sum()

    def on_output(self, weight: int, y: Tensor, channel: int) -> Tensor:
        """Have the gradient of `y`, whose channels are in dimension `channel`, looked at."""
        if not torch.is_grad_enabled() or not y.is_floating_point():
            return y
        samples = self.batch.samples
        given = routed_tokens(len(y)) if y.ndim == 2 else None
        energy = None
        if given is not None:
            owners = given // tokens_of_a_sample(self.batch, given)
            return self._looked_at(y, lambda g: self._take_routed(weight, g, y, given, owners))
        if y.numel() % samples == 0:
            energy = y.detach().float().reshape(samples, -1).square().mean(dim=1)
        return self._looked_at(y, lambda g: self._take(weight, g, channel, energy))

    def _looked_at(self, y: Tensor, take: Callable[[Tensor], None]) -> Tensor:
        if not y.requires_grad:
            y = y.detach().requires_grad_()
            y.register_hook(take)
            return y.clone()
        y.register_hook(take)
        return y

    def _take_routed(
        self, weight: int, gradient: Tensor, y: Tensor, given: Tensor, owners: Tensor
    ) -> None:
        """Of an expert, whose rows are the tokens `given` of the samples `owners`."""
        squares = gradient.detach().float().square().sum(dim=-1).cpu()
        energy = y.detach().float().square().mean(dim=-1).cpu()
        masked = self.batch.masked
        hidden = torch.ones(len(given), dtype=torch.bool)
        if masked is not None:
            hidden = masked.reshape(-1)[given]
        for sample, time in enumerate(self.batch.times().tolist()):
            own = owners == sample
            if not own.any():
                continue
            row, of = squares[own], hidden[own]
            self._effects[weight].append((time, float(row.sum() * energy[own].mean())))
            on = float(row[of].mean()) if of.any() else float("nan")
            off = float(row[~of].mean()) if not of.all() else float("nan")
            self._sums[weight].append((time, float(row.mean()), on, off))

    def _take(self, weight: int, gradient: Tensor, channel: int, energy: Tensor | None) -> None:
        squares = gradient.detach().float().square().sum(dim=channel)
        samples = self.batch.samples
        if squares.numel() % samples:
            return
        squares = squares.reshape(samples, -1)
        if energy is not None:
            effects = (squares.sum(dim=1) * energy).tolist()
            self._effects[weight] += zip(self.batch.times().tolist(), effects, strict=True)
        squares = squares.cpu()
        hidden = self.batch.masked
        if hidden is None or hidden.shape != squares.shape:
            hidden = torch.ones(squares.shape, dtype=torch.bool)
        for time, row, of in zip(self.batch.times().tolist(), squares, hidden, strict=True):
            on = float(row[of].mean()) if of.any() else float("nan")
            off = float(row[~of].mean()) if not of.all() else float("nan")
            self._sums[weight].append((time, float(row.mean()), on, off))

    def sensitivities(self) -> dict[int, float]:
        """Of every weight that was used, by its number."""
        energy = np.mean(self._energy)
        with np.errstate(all="ignore"):
            found = {n: _mean_over_time(e) / energy for n, e in enumerate(self._effects) if e}
        return {n: float(value) for n, value in found.items() if np.isfinite(value)}

    def profile(self, weights: Sequence[int], every: npt.NDArray[np.float64]) -> Profile | None:
        """Of an input that `weights` read, on a tape with these times."""
        rows = np.array([row for weight in weights for row in self._sums[weight]])
        if len(rows) == 0 or not rows[:, 1].sum() > 0 or not np.isfinite(rows[:, 1]).all():
            return None
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        parts = _by_time(rows)
        times = np.array([part[:, 0].mean() for part in parts])
        squares = np.array([part[:, 1].mean() for part in parts])
        raw = (squares / squares.mean()) ** CALIBRATION.profile_power
        raw /= np.interp(every, times, raw).mean()
        floor = CALIBRATION.least_share
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            on, off = np.nanmean(rows[:, 2]), np.nanmean(rows[:, 3])
        known = np.isfinite(on) and np.isfinite(off) and on > 0
        ratio = on / max(off, floor * on) if known else 1.0
        return Profile(times, floor + (1 - floor) * raw, float(ratio))


def _mean_over_time(effects: Sequence[tuple[float, float]]) -> float:
    """Of (time, effect): between times on a straight line of logarithms, as orders lie between."""
    times, of = np.unique([time for time, _ in effects], return_inverse=True)
    sums = np.bincount(of, [effect for _, effect in effects])
    means = np.maximum(sums / np.bincount(of), np.finfo(np.float64).tiny)
    if len(times) == 1:
        return float(means[0])
    first, second = means[:-1], means[1:]
    steps = np.log(second / first)
    flat = np.abs(steps) < 1e-6
    between = np.where(flat, first, (second - first) / np.where(flat, 1, steps))
    return float((between * np.diff(times)).sum() / (times[-1] - times[0]))


def _by_time(rows: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """Rows, whose times ascend, in parts of about the same size that share no time."""
    count = min(CALIBRATION.profile_times, len(rows))
    firsts = np.searchsorted(rows[:, 0], rows[np.arange(1, count) * len(rows) // count, 0])
    return [part for part in np.split(rows, np.unique(firsts)) if len(part)]


def _tensors(value: Any) -> Iterator[Tensor]:
    """Floating-point tensors in what a module returned."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "__dict__"):
        for item in vars(value).values():
            yield from _tensors(item)
