"""From calls of the watched weights to the sums of :class:`CalibrationStatistics`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from arrow_quant_v2.calibration.statistics import CalibrationStatistics
from arrow_quant_v2.config.settings import CALIBRATION
from arrow_quant_v2.torch.collect.error_costs import Profile
from arrow_quant_v2.torch.observe.experts import tokens_of_a_sample
from arrow_quant_v2.torch.observe.shared_inputs import ObservedInput
from arrow_quant_v2.torch.observe.tokens import Window, choose_tokens, count_tokens, take_tokens
from arrow_quant_v2.torch.observe.watch import InputNumbers
from arrow_quant_v2.torch.record.trajectory import Batch
from arrow_quant_v2.torch.text_models.routing import routed_tokens

__all__ = ["BUFFERED_TOKENS", "Accumulator"]

#: Tokens that are added to the sums at once: enough for matrix products at full speed.
BUFFERED_TOKENS = 1024
_LEVELS = 4  # of the weights of tokens in a doubling


@dataclass
class _Buffer:
    tokens: list[npt.NDArray[np.float32]] = field(default_factory=list)
    times: list[npt.NDArray[np.float64]] = field(default_factory=list)
    count: int = 0


class Accumulator:
    """Sums over the tokens of some inputs, with a seeded choice of tokens.

    Which tokens are chosen depends on the seed, the batch and the input alone, so it does not
    matter in how many passes the inputs are observed.
    """

    def __init__(
        self,
        statistics: CalibrationStatistics,
        inputs: dict[int, tuple[int, ObservedInput]],
        samples: int,
        seed: int,
        profiles: Mapping[int, Profile],
    ) -> None:
        """`inputs`: number in the survey -> number in `statistics`, and what the survey found.

        `profiles` of some inputs, by their number in the survey, say which tokens count for more.
        """
        self._statistics = statistics
        self._inputs = inputs
        self._input_of = {w: n for n, (_, found) in inputs.items() for w in found.weights}
        self._samples = samples
        self._seed = seed
        self._profiles = profiles
        self._buffers: dict[tuple[int, bool, int], _Buffer] = {}
        self._batch = Batch()
        self._times = torch.zeros(1)
        self._held_out = torch.zeros(1, dtype=torch.bool)
        self._batch_number = -1
        self._numbers = InputNumbers()
        self._met: dict[int, list[tuple[int, Window]]] = {}

    def begin(self, batch: Batch) -> None:
        """What follows belongs to this batch."""
        self._batch = batch
        self._batch_number += 1
        self._numbers = InputNumbers()
        self._met = {}
        self._times = batch.times()
        assert batch.held_out is not None
        self._held_out = batch.held_out

    def on_call(self, weight: int, x: Tensor, window: Window | str) -> None:
        """Add tokens of `x`, unless another weight of the same input has brought it already."""
        number = self._input_of.get(weight)
        if number is None or isinstance(window, str):
            return
        met = self._met.setdefault(number, [])
        call = (self._numbers(x), window)
        if call in met:
            return
        met.append(call)
        self._take(number, len(met), x, window)

    def _take(self, number: int, call: int, x: Tensor, window: Window) -> None:
        rows, per_row = count_tokens(x, window)
        samples = len(self._times)
        times, held_out = self._times, self._held_out
        given = routed_tokens(rows)
        if given is not None:
            self._take_routed(number, call, x, given)
            return
        if rows % samples:  # no sample has rows of its own
            samples, times = 1, times.mean()[None]
            held_out = torch.zeros(1, dtype=torch.bool)
        tokens = rows // samples * per_row
        generator = torch.Generator().manual_seed(
            hash((self._seed, self._batch_number, number, call)) % (1 << 63)
        )
        quotas, levels = self._quotas(number, times, tokens)
        which, token = choose_tokens(
            quotas, tokens, generator, self._batch.valid, self._odds(number, samples, tokens)
        )
        row = which * (rows // samples) + token // per_row
        taken = take_tokens(x, window, row, token % per_row)
        self._keep(number, taken, which, times, held_out, levels)

    def _take_routed(self, number: int, call: int, x: Tensor, given: Tensor) -> None:
        """Of an expert, which was given some tokens of every sample, numbered over all samples."""
        samples = len(self._times)
        tokens = tokens_of_a_sample(self._batch, given)
        places = torch.full((samples * tokens,), -1)
        places[given] = torch.arange(len(given))
        places = places.view(samples, tokens)
        valid = places >= 0
        if self._batch.valid is not None and self._batch.valid.shape == valid.shape:
            valid &= self._batch.valid
        generator = torch.Generator().manual_seed(
            hash((self._seed, self._batch_number, number, call)) % (1 << 63)
        )
        quotas, levels = self._quotas(number, self._times, tokens)
        which, token = choose_tokens(
            quotas, tokens, generator, valid, self._odds(number, samples, tokens)
        )
        rows = places[which, token]
        taken = take_tokens(x, Window(), rows, torch.zeros_like(rows))
        self._keep(number, taken, which, self._times, self._held_out, levels)

    def _keep(
        self,
        number: int,
        tokens: Tensor,
        which: Tensor,
        times: Tensor,
        held_out: Tensor,
        levels: Tensor,
    ) -> None:
        """Add tokens of the samples `which` to the buffers of their kinds."""
        taken = tokens.cpu().numpy()
        kinds = torch.stack([held_out.long(), levels], dim=1)
        for kind in kinds.unique(dim=0):
            mask = (kinds[which] == kind).all(dim=1).numpy()
            if mask.any():
                key = (number, bool(kind[0]), int(kind[1]))
                self._buffer(key, taken[mask], times[which].numpy()[mask])

    def _quotas(self, number: int, times: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Tokens wanted of each sample; and their weight, as a power of 2^(1/4).

        Samples at times that count for more give more tokens. What they have too few tokens for,
        the weight makes up.
        """
        quota = self._quota(number)
        profile = self._profiles.get(number)
        if profile is None:
            return torch.full((len(times),), quota), torch.zeros(len(times), dtype=torch.long)
        wanted = quota * profile.share(times)
        quotas = wanted.round().clamp(1, tokens).long()
        weights = wanted / quotas * min(1.0, tokens / quota)
        return quotas, (_LEVELS * weights.log2()).round().long()

    def _odds(self, number: int, samples: int, tokens: int) -> Tensor | None:
        """How much likelier hidden tokens of a language model are chosen."""
        profile, hidden = self._profiles.get(number), self._batch.masked
        if profile is None or hidden is None or hidden.shape != (samples, tokens):
            return None
        return torch.where(hidden, profile.hidden, 1.0)

    def _quota(self, number: int) -> int:
        """Tokens of one sample that are wanted for an input."""
        every = CALIBRATION.held_out_every
        channels = self._inputs[number][1].channels
        fitted = max(CALIBRATION.tokens_per_channel * channels, CALIBRATION.least_tokens)
        return math.ceil(fitted * every / (every - 1) / self._samples)

    def _buffer(
        self,
        key: tuple[int, bool, int],
        tokens: npt.NDArray[np.float32],
        times: npt.NDArray[np.float64],
    ) -> None:
        buffer = self._buffers.setdefault(key, _Buffer())
        buffer.tokens.append(tokens)
        buffer.times.append(times)
        buffer.count += len(tokens)
        if buffer.count >= BUFFERED_TOKENS:
            self._flush(key)

    def _flush(self, key: tuple[int, bool, int]) -> None:
        buffer = self._buffers.pop(key)
        number, held, level = key
        self._statistics.add(
            self._inputs[number][0],
            np.concatenate(buffer.tokens),
            np.concatenate(buffer.times),
            weight=2.0 ** (level / _LEVELS),
            held_out=held,
        )

    def finish(self) -> None:
        """Add what is still waiting."""
        for key in sorted(self._buffers):
            self._flush(key)
