"""A model that runs on states of its own, to see what other weights would do to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from arrow_quant_v2._engine import ProgressCallback
from arrow_quant_v2.config import CALIBRATION, SENSITIVITY
from arrow_quant_v2.plan import ModelPlan
from arrow_quant_v2.torch.capture import record_tape
from arrow_quant_v2.torch.replay import Replay
from arrow_quant_v2.torch.tape import Batch, rows_of

__all__ = ["RunningModel"]


class RunningModel:
    """The component of a model that runs at every step, and states that it went through.

    The states are of trajectories that calibration did not fit to: another seed, and of the user's
    samples only those that calibration sets aside.

    Raises
    ------
    CannotRunError
        The model cannot be run here.
    """

    def __init__(
        self,
        model: Path,
        plan: ModelPlan,
        calibration_data: Any,
        progress: ProgressCallback | None,
    ) -> None:
        def report(fraction: float) -> None:
            if progress is not None:
                progress("recording states", fraction)

        own = calibration_data is None
        self._component, network, tape = record_tape(
            model,
            plan,
            samples=SENSITIVITY.samples * (1 if own else CALIBRATION.held_out_every),
            seed=SENSITIVITY.seed,
            progress=report,
            calibration_data=calibration_data,
        )
        self._replay = Replay(network, tape if own else _held_out(tape))

    @property
    def states(self) -> int:
        """How many states there are."""
        return self._replay.states

    def has(self, key: tuple[str, str]) -> bool:
        """Whether a weight, by component and name, takes part."""
        component, name = key
        return component == self._component and self._replay.knows(name)

    def drift(self, weights: Mapping[tuple[str, str], npt.NDArray[np.float32]]) -> float:
        """The drift of the predictions with these weights in place of the model's own."""
        return self._replay.drift(
            {name: torch.from_numpy(weight) for (_, name), weight in weights.items()}
        )


def _held_out(tape: list[Batch]) -> list[Batch]:
    """Samples that calibration sets aside, or any where it does none, as many as are replayed."""
    aside = torch.cat([b.held_out if b.held_out is not None else _none(b) for b in tape])
    numbers = torch.nonzero(aside if aside.any() else ~aside)[:, 0]
    most = SENSITIVITY.samples * CALIBRATION.steps_per_trajectory
    wanted = torch.zeros_like(aside)
    wanted[numbers[torch.linspace(0, len(numbers) - 1, min(most, len(numbers))).long()]] = True
    rows = wanted.split([batch.samples for batch in tape])
    return [_rows(batch, chosen) for batch, chosen in zip(tape, rows, strict=True) if chosen.any()]


def _none(batch: Batch) -> torch.Tensor:
    return torch.zeros(batch.samples, dtype=torch.bool)


def _rows(batch: Batch, rows: torch.Tensor) -> Batch:
    count = batch.samples
    return replace(
        batch,
        args=rows_of(batch.args, rows, count),
        kwargs=rows_of(dict(batch.kwargs), rows, count),
        timestep=batch.times()[rows],
        held_out=rows[rows],
        valid=None if batch.valid is None else batch.valid[rows],
        masked=None if batch.masked is None else batch.masked[rows],
    )
