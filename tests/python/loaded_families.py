"""Tiny pipelines of the table of builders, as floats and quantized, made once for several tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from families.builders import BUILDERS

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, load_quantized


@dataclass(frozen=True)
class Family:
    """One entry of the table in a folder.

    Attributes
    ----------
    name
        Of the entry.
    floats, artefact
        Folders of the original and of what was made of it.
    """

    name: str
    floats: Path
    artefact: Path

    @classmethod
    def make(cls, name: str, folder: Path, dtype: Any = None, **settings: Any) -> Family:
        """Build and quantize; 8 bits without calibration unless `settings` say otherwise."""
        import torch

        floats = BUILDERS[name].build(folder / name / "floats", dtype or torch.float32)
        fields = {"bit_width": 8, "min_accuracy": 0.0, "calibration_samples": 0} | settings
        artefact = folder / name / "artefact"
        ArrowQuantV2().quantize_diffusion_model(floats, artefact, DiffusionQuantConfig(**fields))
        return cls(name, floats, artefact)

    @property
    def denoiser(self) -> str:
        return BUILDERS[self.name].denoisers[0]

    def original(self, dtype: Any = None) -> Any:
        import torch

        return BUILDERS[self.name].load(self.floats, dtype or torch.float32)

    def quantized(self, **settings: Any) -> Any:
        model = load_quantized(self.artefact, **settings)
        if hasattr(model, "set_progress_bar_config"):
            model.set_progress_bar_config(disable=True)
        return model

    def run(self, model: Any) -> np.ndarray[Any, Any]:
        """Two steps with a fixed seed."""
        return BUILDERS[self.name].run(model)[0]


def distance(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Mean absolute difference."""
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).mean())
