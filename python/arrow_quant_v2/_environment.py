"""Settings that the environment supplies, and the V1 names that it no longer does."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

_TRUE_AND_FALSE = {"true": True, "1": True, "false": False, "0": False}


def _flag(text: str) -> Any:
    return _TRUE_AND_FALSE.get(text.lower(), text)


#: Environment variable -> the setting it supplies and how its text becomes a value.
VARIABLES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "ARROW_QUANT_BIT_WIDTH": ("bit_width", int),
    "ARROW_QUANT_NUM_TIME_GROUPS": ("num_time_groups", int),
    "ARROW_QUANT_GROUP_SIZE": ("group_size", int),
    "ARROW_QUANT_MIN_ACCURACY": ("min_accuracy", float),
    "ARROW_QUANT_CALIBRATION_SAMPLES": ("calibration_samples", int),
    "ARROW_QUANT_FAIL_FAST": ("fail_fast", _flag),
    "ARROW_QUANT_NUM_THREADS": ("num_threads", int),
}

#: V1 environment variable -> its V2 name.
V1_VARIABLES = {
    "ARROW_QUANT_BITS": "ARROW_QUANT_BIT_WIDTH",
    "ARROW_QUANT_SAMPLES": "ARROW_QUANT_CALIBRATION_SAMPLES",
}


def settings() -> dict[str, tuple[Any, str]]:
    """Setting -> (value, variable name) for every variable that is set.

    Text that is no number is handed on as it is, so that validation names it.
    """
    for old, new in V1_VARIABLES.items():
        if old in os.environ:
            warnings.warn(
                f"{old} is a V1 name and is not applied. Set {new} instead.", stacklevel=4
            )
    found: dict[str, tuple[Any, str]] = {}
    for variable, (setting, parse) in VARIABLES.items():
        text = os.environ.get(variable)
        if text is not None:
            found[setting] = (_parse(parse, text), variable)
    return found


def _parse(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text.strip())
    except ValueError:
        return text
