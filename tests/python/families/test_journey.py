"""Every family is planned, calibrated, quantized, validated, loaded, run and exported."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from families.builders import BUILDERS, REPRESENTATIVE
from families.journey import travel
from families.test_builders import need

ENTRIES = [
    pytest.param(name, marks=() if name in REPRESENTATIVE else pytest.mark.families)
    for name in BUILDERS
]


@pytest.mark.default_calibration
@pytest.mark.parametrize("name", ENTRIES)
def test_a_model_goes_the_whole_way(name: str, tmp_path: Path) -> None:
    need(name)
    journey = travel(name, tmp_path, widths=(4,))
    assert journey.ok, {step: end for step, end in journey.steps.items() if end != "ok"}
