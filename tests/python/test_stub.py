"""The type stub of the extension is the one its code generates."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from support import ROOT


def test_the_stub_is_up_to_date() -> None:
    stubgen = pytest.importorskip("nanobind.stubgen")
    module = importlib.import_module("arrow_quant_v2._core")
    generator = stubgen.StubGen(module, quiet=True)
    generator.put(module)
    stored = ROOT / "python" / "arrow_quant_v2" / "_core.pyi"
    assert stored.read_text() == generator.get(), "run: make stubs"


def test_the_package_is_typed() -> None:
    import arrow_quant_v2

    assert (Path(arrow_quant_v2.__file__).parent / "py.typed").is_file()


def test_the_pin_of_pyarrow_is_one() -> None:
    from arrow_quant_v2._native import PYARROW_SERIES

    cmake = (ROOT / "cmake" / "dependencies.cmake").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    assert f"set(ARROW_QUANT_PYARROW_SERIES {PYARROW_SERIES})" in cmake
    assert project.count(f'"pyarrow=={PYARROW_SERIES}.*"') == 3
