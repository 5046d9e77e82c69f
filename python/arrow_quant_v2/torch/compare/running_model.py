"""A model that runs on its recorded samples, to measure the effect of other weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from arrow_quant_v2.config.settings import CALIBRATION, SENSITIVITY
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.torch.compare.drift import Replay
from arrow_quant_v2.torch.record.session import Session
from arrow_quant_v2.torch.record.trajectory import Batch

__all__ = ["RunningModel"]


class RunningModel:
    """The components of a model that run at every step, and inputs that they had.

    The inputs are of trajectories that calibration does not fit to.

    Parameters
    ----------
    session
        The model.

    Raises
    ------
    CannotRunError
        The model cannot be run here.
    """

    def __init__(self, session: Session, progress: ProgressCallback | None = None) -> None:
        samples = SENSITIVITY.samples * CALIBRATION.held_out_every
        session.recorded(samples, CALIBRATION.seed, progress)
        self._replays: dict[str, Replay] = {}
        for name in session.components:
            batches = session.recorded(samples, CALIBRATION.seed, component=name)
            if batches:
                self._replays[name] = Replay(session.network_of(name), _held_out(batches))

    @property
    def states(self) -> int:
        """How many recorded samples there are."""
        return sum(replay.states for replay in self._replays.values())

    def has(self, key: tuple[str, str]) -> bool:
        """Whether a weight, by component and name, takes part."""
        component, name = key
        return component in self._replays and self._replays[component].knows(name)

    def drift(self, weights: Mapping[tuple[str, str], npt.NDArray[np.float32]]) -> float:
        """The drift of the predictions with these weights in place of the model's own.

        Of several denoisers the mean: each makes a part of the steps.
        """
        drifts = []
        for component, replay in self._replays.items():
            own = {name: weight for (part, name), weight in weights.items() if part == component}
            found = {name: torch.from_numpy(weight) for name, weight in own.items()}
            drifts.append(replay.drift(found) if found else 0.0)
        return sum(drifts) / len(drifts)


def _held_out(tape: list[Batch]) -> list[Batch]:
    """Samples that calibration sets aside, or any where it does none, as many as are replayed."""
    aside = torch.cat([b.held_out if b.held_out is not None else _none(b) for b in tape])
    numbers = torch.nonzero(aside if aside.any() else ~aside)[:, 0]
    most = SENSITIVITY.samples * CALIBRATION.steps_per_trajectory
    wanted = torch.zeros_like(aside)
    wanted[numbers[torch.linspace(0, len(numbers) - 1, min(most, len(numbers))).long()]] = True
    rows = wanted.split([batch.samples for batch in tape])
    return [
        batch.take(torch.nonzero(chosen)[:, 0])
        for batch, chosen in zip(tape, rows, strict=True)
        if chosen.any()
    ]


def _none(batch: Batch) -> torch.Tensor:
    return torch.zeros(batch.samples, dtype=torch.bool)
