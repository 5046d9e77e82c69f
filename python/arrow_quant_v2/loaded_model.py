"""The model of one run: planned once, loaded once, when something needs that."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrow_quant_v2.calibration.memory import check_memory
from arrow_quant_v2.calibration.model_kind import (
    CannotRunError,
    detect_model_kind,
    library_missing,
)
from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.model import View
from arrow_quant_v2.model_roles import model_roles
from arrow_quant_v2.plan.class_roles import TensorRole
from arrow_quant_v2.plan.model_plan import ModelPlan, plan_model

if TYPE_CHECKING:
    from arrow_quant_v2.torch.record.session import Session

__all__ = ["LoadedModel"]


class LoadedModel:
    """A model with its settings; what it takes to run it is made once.

    Parameters
    ----------
    view
        The model as it is read.
    config
        Settings of the run.
    data
        What the model runs on; None: samples that it makes itself.
    session
        A session that exists already; None: the model is loaded when it is needed.
    """

    def __init__(
        self,
        view: View,
        config: DiffusionQuantConfig,
        data: Any = None,
        session: Session | None = None,
    ) -> None:
        self.path = Path(view.path)
        self.names = view.names
        self.config = config
        self.data = data
        self.notes = view.model.notes
        self._source = view.model
        self._session = session

    @cached_property
    def plan(self) -> ModelPlan:
        """What happens to each tensor, without a target of mixed precision."""
        return plan_model(self.path, self.config, roles=self.roles)

    @cached_property
    def roles(self) -> list[TensorRole]:
        """What its tensors are for."""
        return model_roles(self.path)

    def session(self) -> Session:
        """The running model.

        Raises
        ------
        CannotRunError
            It cannot run here: of an unknown class, without its library, or for a data-free run.
        """
        if self._session is None:
            if self.config.calibration_samples == 0:
                raise CannotRunError("calibration_samples is 0")
            trusted = self.config.trust_remote_code
            detect_model_kind(self.path, trust_remote_code=trusted)
            check_memory(self.path, self.config)
            try:
                from arrow_quant_v2.torch.record.sampling import Sampling
                from arrow_quant_v2.torch.record.session import Session
            except ImportError as error:
                raise library_missing(error) from error
            self._session = Session(
                self.path,
                self.plan,
                self.data,
                Sampling.of(self.config),
                trust_remote_code=trusted,
            )
        return self._session

    def without_path(self, message: str) -> str:
        """A message for an artefact, which names the model but not where it was."""
        for path in (self.path, self._source.root, self._source.source):
            message = message.replace(os.fspath(path), self._source.name)
        return message
