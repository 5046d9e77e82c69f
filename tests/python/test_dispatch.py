"""No kernel is called past the choice of the instruction set."""

from __future__ import annotations

from support import ROOT


def test_kernels_are_called_through_the_one_dispatch() -> None:
    kernels = ROOT / "src" / "kernels"
    texts = {path.name: path.read_text() for path in ROOT.glob("src/**/*.cc")}
    assert [name for name, text in texts.items() if "HWY_DYNAMIC" in text] == []
    assert sum("ARROW_QUANT_DISPATCH" in text for text in texts.values()) > 10
    assert "choose_isa(), HWY_DYNAMIC_DISPATCH" in (kernels / "isa.h").read_text()


def test_nothing_in_the_engine_ends_the_process() -> None:
    for path in [*ROOT.glob("src/**/*.cc"), *ROOT.glob("src/**/*.h")]:
        for word in ("HWY_ABORT", "HWY_ASSERT", "abort(", "terminate("):
            assert word not in path.read_text(), f"{path.name}: {word}"
