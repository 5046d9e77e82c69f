"""A model that runs, and the states that it went through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrow_quant_v2._engine import ProgressCallback, StrPath
from arrow_quant_v2._runnable import CannotRunError, how_to_run
from arrow_quant_v2.config import CALIBRATION, DiffusionQuantConfig
from arrow_quant_v2.plan import plan_model

if TYPE_CHECKING:
    from torch import nn

    from arrow_quant_v2.torch.tape import Batch

__all__ = ["RecordedNetwork", "record_network"]


@dataclass(frozen=True)
class RecordedNetwork:
    """A float network, which component of its model it is, and what it was given.

    Raises
    ------
    CannotRunError
        No state is held out, so that nothing could be judged.
    """

    component: str
    network: nn.Module
    tape: Sequence[Batch]

    def __post_init__(self) -> None:
        if any(batch.held_out is not None and batch.held_out.any() for batch in self.tape):
            return
        raise CannotRunError(
            f"no state is held out to judge by: {CALIBRATION.held_out_every} samples are the least"
        )


def record_network(
    model_path: StrPath,
    config: DiffusionQuantConfig,
    calibration_data: Any,
    seed: int,
    progress: ProgressCallback | None,
) -> RecordedNetwork:
    """Load a model and let it make the samples that `config` asks for.

    Raises
    ------
    CannotRunError
        The model cannot be run here, on so few samples, or without a library.
    """
    path = Path(model_path)
    how_to_run(path)
    if config.calibration_samples == 0:
        raise CannotRunError("calibration_samples is 0")
    try:
        from arrow_quant_v2.torch.capture import record_tape
    except ImportError as error:
        raise CannotRunError(
            f"a library is missing: {error}", hint="pip install 'arrow-quant-v2[models]'"
        ) from error

    def report(fraction: float) -> None:
        if progress is not None:
            progress("running the model", fraction)

    component, network, tape = record_tape(
        path,
        plan_model(path, config),
        samples=config.calibration_samples,
        seed=seed,
        progress=report,
        calibration_data=calibration_data,
    )
    return RecordedNetwork(component, network, tape)
