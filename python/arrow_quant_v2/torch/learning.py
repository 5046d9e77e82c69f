"""Learned rounding: the codes and scales of a quantized model, improved by gradient descent.

The whole network runs with the weights that are stored, on states of its calibration tape, and is
to predict what the float network predicts: end to end, as in the second phase of EfficientQAT (Chen
et al. 2024, arXiv 2407.11062), but for the rounding itself, as AutoRound does block by block (Cheng
et al. 2023, arXiv 2309.05516). Errors count relative to those of the start in the same
part of the range of diffusion times, so that late times, whose errors and losses are small, count
as much as early ones. States that the tape holds out choose the best iterate, the start among them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from arrow_quant_v2._runnable import CannotRunError
from arrow_quant_v2.config import LearningEffort
from arrow_quant_v2.packed import format_of
from arrow_quant_v2.tensors import QuantizedTensor
from arrow_quant_v2.torch.activations import TimeParameters
from arrow_quant_v2.torch.layers import Execution, quantized_layer
from arrow_quant_v2.torch.observe import evaluating
from arrow_quant_v2.torch.soft_weight import SoftWeight, Stored, can_learn
from arrow_quant_v2.torch.states import distances, gathered, predict, take
from arrow_quant_v2.torch.tape import Batch, batches_of
from arrow_quant_v2.torch.timestep import Clock, timestep
from arrow_quant_v2.torch.weight import PackedWeight

__all__ = ["Learned", "learn"]

_BYTES_PER_WEIGHT = 28  # position, its gradient and two moments; weight, its gradient, one level


@dataclass(frozen=True)
class Learned:
    """What learning brought.

    Attributes
    ----------
    weights
        New numbers of tensors, by name; empty when the start was best.
    changed
        Share of the codes of each of them that flipped.
    states, held_out_states
        How many states were learned from, and how many judged.
    iterations
        Of which the best was number `best`; 0 is the start.
    before, after
        Error on held-out states: of the start, and of what is kept. The mean over parts of the
        range of diffusion times of the squared error of predictions (language models: of the
        divergence of masked tokens).
    ratio
        Error over that of the start, as a geometric mean over these parts.
    """

    weights: Mapping[str, Stored]
    changed: Mapping[str, float]
    states: int
    held_out_states: int
    iterations: int
    best: int
    before: float
    after: float
    ratio: float


def learn(
    network: nn.Module,
    tape: Sequence[Batch],
    tensors: Mapping[str, QuantizedTensor],
    effort: LearningEffort,
    *,
    max_memory_mb: int,
    progress: Callable[[str, float], object],
) -> Learned:
    """Improve the quantized weights of a network.

    Parameters
    ----------
    network
        The float network, its parameters by the names of `tensors`. It is not changed.
    tape
        States with some held out.
    tensors
        What is stored of the network; codes of 2 and 4 bits are learned.
    effort
        How much is done.
    max_memory_mb
        What gradients and moments may take: where all layers take more, they learn in turn.
    progress
        Called with a message and a fraction; may raise.

    Raises
    ------
    CannotRunError
        Gradients do not reach the weights, or do not fit into memory.
    """
    with evaluating(network), _frozen(network):
        return _Run(network, tape, tensors, effort, max_memory_mb, progress).run()


class _Run:
    def __init__(
        self,
        network: nn.Module,
        tape: Sequence[Batch],
        tensors: Mapping[str, QuantizedTensor],
        effort: LearningEffort,
        max_memory_mb: int,
        progress: Callable[[str, float], object],
    ) -> None:
        self._network = network
        self._effort = effort
        self._progress = progress
        self._generator = torch.Generator().manual_seed(effort.seed)
        self._fitted = gathered(tape, held_out=False)
        self._judges = _some(gathered(tape, held_out=True), effort.judges, self._generator)
        self._bins = _Bins([*self._fitted, *self._judges], effort.time_bins)
        self._quantized = _Quantized(network, tensors, effort.freedom)
        self._parts = _parts(self._quantized.soft, max_memory_mb << 20)

    def run(self) -> Learned:
        quantized, effort = self._quantized, self._effort
        start = least = self._judged()
        best, weight = 0, self._bins.weights(start)
        kept = quantized.state()
        number = 0
        for part, soft in enumerate(self._parts):
            steps = _shares(effort.iterations, len(self._parts))[part]
            optimizer = torch.optim.Adam(
                [
                    {"params": [s.position for s in soft], "rate": effort.position_rate},
                    {"params": [p for s in soft for p in s.scales()], "rate": effort.scale_rate},
                ],
                betas=(0.9, 0.95),
            )
            for step in range(steps):
                self._progress("learning the rounding", number / effort.iterations)
                _set_rates(optimizer, step / steps)
                self._descend(soft, optimizer, weight)
                number += 1
                if number % effort.judged_every and step + 1 < steps:
                    continue
                errors = self._judged()
                if self._bins.ratio(errors, start) < self._bins.ratio(least, start):
                    best, least, kept = number, errors, quantized.state()
            quantized.restore(kept)  # the next part builds on the best so far
        return Learned(
            weights=quantized.stored() if best else {},
            changed=quantized.changed() if best else {},
            states=sum(batch.samples for batch in self._fitted),
            held_out_states=sum(batch.samples for batch in self._judges),
            iterations=number,
            best=best,
            before=float(start[self._bins.seen].mean()),
            after=float(least[self._bins.seen].mean()),
            ratio=self._bins.ratio(least, start),
        )

    def _descend(
        self, soft: Sequence[SoftWeight], optimizer: torch.optim.Optimizer, weight: Tensor
    ) -> None:
        batch = self._drawn()
        expected = predict(self._network, batch)
        optimizer.zero_grad(set_to_none=True)
        try:
            with torch.enable_grad():
                found = self._quantized.predict(batch, learning=soft)
                errors = distances(batch, expected, found)
                (errors * weight[self._bins.of(batch)]).mean().backward()
        except RuntimeError as error:
            what = " ".join(str(error).split())[:300]
            raise CannotRunError(f"gradients do not reach the weights: {what}") from error
        optimizer.step()
        for weights in soft:
            weights.confine()

    def _drawn(self) -> Batch:
        """States of one batch of the tape, drawn at random."""
        sizes = torch.tensor([float(batch.samples) for batch in self._fitted])
        batch = self._fitted[int(torch.multinomial(sizes, 1, generator=self._generator))]
        count = min(self._effort.states_per_iteration, batch.samples)
        return take(batch, torch.randperm(batch.samples, generator=self._generator)[:count])

    def _judged(self) -> Tensor:
        """Mean error of the held-out states in each part of the range of times."""
        self._quantized.refresh()
        sums = torch.zeros(self._effort.time_bins, dtype=torch.float64)
        for batch in self._judges:
            for numbers in batches_of(batch.samples, 2 * self._effort.states_per_iteration):
                part = take(batch, torch.tensor(numbers))
                found = self._quantized.predict(part)
                errors = distances(part, predict(self._network, part), found)
                sums.index_add_(0, self._bins.of(part), errors.double())
        return sums / self._bins.counts(self._judges)


class _Quantized:
    """The network with quantized weights, some of which learn."""

    def __init__(
        self, network: nn.Module, tensors: Mapping[str, QuantizedTensor], freedom: float
    ) -> None:
        self._network = network
        parameters = dict(network.named_parameters(remove_duplicate=False))
        self.soft: dict[str, SoftWeight] = {}
        self._weights: dict[str, Tensor] = {}
        self._corrections: list[tuple[nn.Module, TimeParameters, int]] = []
        for name in tensors:
            tensor = tensors[name]
            if not tensor.is_quantized or name not in parameters:
                continue
            own = parameters[name]
            if can_learn(tensor):
                self.soft[name] = SoftWeight(tensor, own, freedom).to(own.device)
                self._weights[name] = self.soft[name]().to(own.dtype)
            else:
                self._weights[name] = torch.from_numpy(tensor.dequantize()).to(own)
            if tensor.mean_output_bias is not None:
                self._correct(name, tensor, parameters)

    def _correct(
        self, name: str, tensor: QuantizedTensor, parameters: Mapping[str, Tensor]
    ) -> None:
        """Biases by time, or their mean where a layer does not run on packed weights."""
        if _runs_packed(self._network, name, tensor):
            layer = self._network.get_submodule(name.rpartition(".")[0])
            time = TimeParameters.from_groups(tensor.time_groups, Clock())
            channel_dim = -1 if len(tensor.shape) == 2 else 1 - len(tensor.shape)
            self._corrections.append((layer, time, channel_dim))
            return
        bias = name.removesuffix("weight") + "bias"
        if bias in parameters:
            mean = torch.from_numpy(tensor.mean_output_bias).to(parameters[bias])
            self._weights[bias] = parameters[bias].detach() + mean

    def predict(self, batch: Batch, *, learning: Sequence[SoftWeight] = ()) -> Tensor:
        """What the network predicts with its quantized weights; gradients reach what learns."""
        learns = set(map(id, learning))
        weights = {
            name: soft().to(self._weights[name].dtype)
            for name, soft in self.soft.items()
            if id(soft) in learns
        }
        with self._corrected(), timestep(batch.times()):
            output: Any = functional_call(
                self._network, {**self._weights, **weights}, batch.args, dict(batch.kwargs)
            )
        return output if isinstance(output, Tensor) else output[0]

    @contextlib.contextmanager
    def _corrected(self) -> Iterator[None]:
        """Layers add their biases by time."""

        def hook(time: TimeParameters, channel_dim: int) -> Any:
            return lambda layer, inputs, output: time.corrected(output, channel_dim)

        handles = [
            layer.register_forward_hook(hook(time, channel_dim))
            for layer, time, channel_dim in self._corrections
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def state(self) -> dict[str, dict[str, Tensor]]:
        return {
            name: {key: value.clone() for key, value in soft.state_dict().items()}
            for name, soft in self.soft.items()
        }

    def restore(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        for name, soft in self.soft.items():
            soft.load_state_dict(dict(state[name]))
        self.refresh()

    def refresh(self) -> None:
        """Take over what has been learned into the weights that do not learn just now."""
        with torch.no_grad():
            for name, soft in self.soft.items():
                self._weights[name] = soft().to(self._weights[name].dtype)

    def stored(self) -> dict[str, Stored]:
        return {name: soft.stored() for name, soft in self.soft.items()}

    def changed(self) -> dict[str, float]:
        return {name: soft.changed() for name, soft in self.soft.items()}


def _runs_packed(network: nn.Module, name: str, tensor: QuantizedTensor) -> bool:
    """Whether a layer runs on packed weights when the artefact is loaded, as :mod:`fit` decides."""
    path, _, leaf = name.rpartition(".")
    parent = network.get_submodule(path.rpartition(".")[0])
    if leaf != "weight" or not path or isinstance(parent, nn.MultiheadAttention):
        return False
    empty = PackedWeight.empty(format_of(tensor))
    return quantized_layer(network.get_submodule(path), empty, Execution()) is not None


class _Bins:
    """Parts of the range of diffusion times, all of one length."""

    def __init__(self, batches: Sequence[Batch], count: int) -> None:
        times = torch.cat([batch.times() for batch in batches])
        self._low = float(times.min())
        self._width = (float(times.max()) - self._low) / count or 1.0
        self._count = count
        self.seen = torch.zeros(count, dtype=torch.bool)

    def of(self, batch: Batch) -> Tensor:
        """The part that each sample is in."""
        part = ((batch.times() - self._low) / self._width).long()
        return part.clamp(max=self._count - 1)

    def counts(self, batches: Sequence[Batch]) -> Tensor:
        """Samples in each part, at least 1."""
        found = sum(torch.bincount(self.of(b), minlength=self._count) for b in batches)
        assert isinstance(found, Tensor)
        self.seen = found > 0
        return found.clamp(min=1).double()

    def weights(self, start: Tensor) -> Tensor:
        """What makes the errors of the start the same everywhere, with a mean of 1."""
        mean = start[self.seen].mean()
        weights = mean / start.clamp(min=float(_LEAST_SHARE * mean))
        return torch.where(self.seen, weights, 1.0).float()

    def ratio(self, errors: Tensor, start: Tensor) -> float:
        """Geometric mean over the parts of errors over those of the start."""
        known = self.seen & (start > 0)
        if not known.any():
            return 1.0
        logs = (errors[known] / start[known]).clamp(min=_SMALLEST).log()
        return float(logs.mean().exp())


#: Parts of the range of times whose errors are below this share of the mean do not weigh more.
_LEAST_SHARE = 1e-4
_SMALLEST = 1e-30


def _some(batches: Sequence[Batch], count: int, generator: torch.Generator) -> list[Batch]:
    """About `count` of the states, from each batch its share."""
    total = sum(batch.samples for batch in batches)
    share = min(1.0, count / max(1, total))
    chosen = []
    for batch in batches:
        rows = torch.randperm(batch.samples, generator=generator)
        chosen.append(take(batch, rows[: math.ceil(share * batch.samples)]))
    return chosen


def _parts(soft: Mapping[str, SoftWeight], limit: int) -> list[list[SoftWeight]]:
    """The weights in order, in parts that may learn at the same time."""
    parts: list[list[SoftWeight]] = [[]]
    used = 0
    for weight in soft.values():
        needed = weight.position.numel() * _BYTES_PER_WEIGHT
        if parts[-1] and used + needed > limit:
            parts.append([])
            used = 0
        parts[-1].append(weight)
        used += needed
    return parts if parts[0] else []


def _shares(whole: int, parts: int) -> list[int]:
    """`whole` in `parts` integers, the same but for rounding."""
    return [whole * (i + 1) // parts - whole * i // parts for i in range(parts)]


def _set_rates(optimizer: torch.optim.Optimizer, done: float) -> None:
    """Rates rise over the first twentieth and fall to zero as half a cosine."""
    factor = min(1.0, 20 * done + 0.05) * 0.5 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * factor


@contextlib.contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Parameters of the network take no gradients."""
    learning = [p for p in network.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
