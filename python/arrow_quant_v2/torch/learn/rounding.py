"""Learned rounding: the codes and scales of a quantized model, improved by gradient descent.

The whole network runs with the weights that are stored, on states of its calibration tape, and is
to predict what the float network predicts: end to end, as in the second phase of EfficientQAT (Chen
et al. 2024, arXiv 2407.11062), but for the rounding itself, as AutoRound does block by block (Cheng
et al. 2023, arXiv 2309.05516). Errors count relative to those of the start in the same
part of the range of diffusion times, so that late times, whose errors and losses are small, count
as much as early ones. States that the tape holds out choose the best iterate, the start among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arrow_quant_v2.calibration.model_kind import CannotRunError
from arrow_quant_v2.config.settings import LearningEffort
from arrow_quant_v2.tensors.tensor import QuantizedTensor
from arrow_quant_v2.torch.compare.held_out_error import Judge
from arrow_quant_v2.torch.compare.minibatches import distances, gathered, predict
from arrow_quant_v2.torch.compare.quantized_network import QuantizedNetwork
from arrow_quant_v2.torch.evaluation import evaluating, frozen
from arrow_quant_v2.torch.learn.trainable_weight import SoftWeight, Stored, can_learn
from arrow_quant_v2.torch.record.trajectory import Batch

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
        How many recorded samples were learned from, and how many held-out ones judged.
    iterations
        Of which the best was number `best`; 0 is the start.
    before, after
        Error on held-out samples: of the start, and of the final result. The mean over parts of the
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
    with evaluating(network), frozen(network):
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
        self._done = 0
        self._judge = Judge(network, tape, self._generator, self._report)
        self._learner = Learner(network, tensors, effort.freedom)
        self._parts = _parts(self._learner.soft, max_memory_mb << 20)

    def run(self) -> Learned:
        learner, effort, judge = self._learner, self._effort, self._judge
        start = least = self._judged()
        best, weight = 0, judge.weights(start)
        kept = learner.state()
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
                self._report()
                _set_rates(optimizer, step / steps)
                self._descend(soft, optimizer, weight)
                self._done += 1
                if self._done % effort.judged_every and step + 1 < steps:
                    continue
                errors = self._judged()
                if judge.ratio(errors, start) < judge.ratio(least, start):
                    best, least, kept = self._done, errors, learner.state()
            learner.restore(kept)  # the next part builds on the best so far
        return Learned(
            weights=learner.stored() if best else {},
            changed=learner.changed() if best else {},
            states=sum(batch.samples for batch in self._fitted),
            held_out_states=judge.states,
            iterations=self._done,
            best=best,
            before=judge.mean(start),
            after=judge.mean(least),
            ratio=judge.ratio(least, start),
        )

    def _descend(
        self, soft: Sequence[SoftWeight], optimizer: torch.optim.Optimizer, weight: Tensor
    ) -> None:
        batch = self._drawn()
        expected = predict(self._network, batch)
        optimizer.zero_grad(set_to_none=True)
        try:
            with torch.enable_grad():
                found = self._learner.predict_learning(batch, soft)
                errors = distances(batch, expected, found)
                (errors * weight[self._judge.bins(batch)]).mean().backward()
        except RuntimeError as error:
            what = " ".join(str(error).split())[:300]
            raise CannotRunError(f"gradients do not reach the weights: {what}") from error
        optimizer.step()
        for weights in soft:
            weights.confine()

    def _drawn(self) -> Batch:
        """Recorded samples of one batch, drawn at random."""
        sizes = torch.tensor([float(batch.samples) for batch in self._fitted])
        batch = self._fitted[int(torch.multinomial(sizes, 1, generator=self._generator))]
        count = min(self._effort.states_per_iteration, batch.samples)
        return batch.take(torch.randperm(batch.samples, generator=self._generator)[:count])

    def _judged(self) -> Tensor:
        self._learner.refresh()
        return self._judge.errors(self._learner.predict)

    def _report(self) -> None:
        self._progress("learning the rounding", self._done / self._effort.iterations)


class Learner(QuantizedNetwork):
    """The network with quantized weights, some of which learn.

    Attributes
    ----------
    soft
        These, by name.
    """

    def __init__(
        self, network: nn.Module, tensors: Mapping[str, QuantizedTensor], freedom: float
    ) -> None:
        super().__init__(network, tensors)
        parameters = dict(network.named_parameters(remove_duplicate=False))
        self.soft = {
            name: SoftWeight(tensors[name], parameters[name], freedom).to(parameters[name].device)
            for name in tensors
            if name in self.weights and can_learn(tensors[name])
        }

    def predict_learning(self, batch: Batch, learning: Sequence[SoftWeight]) -> Tensor:
        """What :meth:`predict` gives, with gradients to what learns just now."""
        learns = set(map(id, learning))
        return self.predict(
            batch,
            {
                name: soft().to(self.weights[name].dtype)
                for name, soft in self.soft.items()
                if id(soft) in learns
            },
        )

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
        """Take over what has been learned into the weights of the artefact."""
        with torch.no_grad():
            for name, soft in self.soft.items():
                self.weights[name] = soft().to(self.weights[name].dtype)

    def stored(self) -> dict[str, Stored]:
        return {name: soft.stored() for name, soft in self.soft.items()}

    def changed(self) -> dict[str, float]:
        return {name: soft.changed() for name, soft in self.soft.items()}


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
