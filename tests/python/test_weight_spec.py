"""One rule says which bit widths, group sizes and parameter encodings go together: the engine's."""

from __future__ import annotations

import pytest

from arrow_quant_v2 import ConfigurationError
from arrow_quant_v2._native import core
from arrow_quant_v2.tensors.weight_format import WeightFormat

ENCODINGS = ("two_level", "fp16", "row", "residual_binary")


def refused(bit_width: int, group_size: int, encoding: str) -> bool:
    try:
        core.check_spec(bit_width, group_size, encoding)
    except ConfigurationError:
        return True
    return False


@pytest.mark.parametrize(
    ("bit_width", "group_size", "encoding"),
    [(4, 0, "fp16"), (2, 56, "two_level"), (8, 64, "two_level"), (4, 64, "row"), (3, 64, "fp16")],
)
def test_the_engine_takes_no_specification_that_does_not_exist(
    bit_width: int, group_size: int, encoding: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"bit_width|group_size"):
        core.AffineSpec(bit_width, group_size, encoding, "rtn")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_packed_weight_may_have_what_the_engine_takes_and_nothing_else(encoding: str) -> None:
    for bit_width in range(-1, 10):
        for group_size in (-8, 0, 4, 8, 24, 32, 56, 64, 128, 65536, 65568):
            fields = {
                "shape": [4, 128],
                "bit_width": bit_width,
                "group_size": group_size,
                "param_encoding": encoding,
            }
            if refused(bit_width, group_size, encoding):
                with pytest.raises(ConfigurationError, match="packed weight"):
                    WeightFormat.from_dict(fields)
            else:
                assert WeightFormat.from_dict(fields).group_size == group_size


def test_sub_groups_that_end_within_a_byte_are_refused() -> None:
    fields = {"shape": [4, 112], "bit_width": 2, "group_size": 56, "param_encoding": "two_level"}
    with pytest.raises(ConfigurationError, match="multiple of 32"):
        WeightFormat.from_dict(fields)
