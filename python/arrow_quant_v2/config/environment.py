"""Settings that the environment supplies, and names that look like settings and are none."""

from __future__ import annotations

import difflib
import os
from typing import Any

from arrow_quant_v2.caller_warnings import warn_caller
from arrow_quant_v2.config.yaml_file import scalar

#: Environment variable -> the setting that it supplies.
VARIABLES = {
    "ARROW_QUANT_BIT_WIDTH": "bit_width",
    "ARROW_QUANT_NUM_TIME_GROUPS": "num_time_groups",
    "ARROW_QUANT_GROUP_SIZE": "group_size",
    "ARROW_QUANT_MIN_ACCURACY": "min_accuracy",
    "ARROW_QUANT_CALIBRATION_SAMPLES": "calibration_samples",
    "ARROW_QUANT_FAIL_FAST": "fail_fast",
    "ARROW_QUANT_NUM_THREADS": "num_threads",
}

#: V1 environment variable -> its V2 name.
V1_VARIABLES = {
    "ARROW_QUANT_BITS": "ARROW_QUANT_BIT_WIDTH",
    "ARROW_QUANT_SAMPLES": "ARROW_QUANT_CALIBRATION_SAMPLES",
}

_FLAGS = {"1": True, "0": False}
_SIMILAR = 0.85


def settings() -> dict[str, tuple[Any, str]]:
    """Setting -> (value, variable name) for every variable that is set.

    Text is read as in a configuration file; what is no number stays text, so that validation names
    it.
    """
    _warn_of_lookalikes()
    found: dict[str, tuple[Any, str]] = {}
    for variable, setting in VARIABLES.items():
        text = os.environ.get(variable)
        if text is not None:
            found[setting] = (_value(setting, text.strip()), variable)
    return found


def _value(setting: str, text: str) -> Any:
    if setting == "fail_fast" and text in _FLAGS:
        return _FLAGS[text]
    return scalar(text) if text else text  # empty is not "unset": validation says so


def _warn_of_lookalikes() -> None:
    for name in os.environ:
        if name in VARIABLES or not name.startswith("ARROW_QUANT_"):
            continue
        new = V1_VARIABLES.get(name)
        if new is not None:
            warn_caller(f"{name} is a V1 name and is not applied. Set {new} instead.")
            continue
        near = difflib.get_close_matches(name, VARIABLES, n=1, cutoff=_SIMILAR)
        if near:
            warn_caller(f"{name} is no setting and is not applied. Did you mean {near[0]}?")
