"""The exception classes: what they derive from, what they carry."""

from __future__ import annotations

import pickle

import pytest

import arrow_quant_v2
from arrow_quant_v2 import errors

CLASSES = {
    "ConfigurationError": (ValueError, 2),
    "ModelNotFoundError": (FileNotFoundError, 3),
    "MetadataError": (ValueError, 4),
    "ShapeMismatchError": (ValueError, 4),
    "QuantizationError": (RuntimeError, 5),
    "ValidationError": (ValueError, 6),
    "OutputError": (OSError, 7),
}


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_fits_a_built_in_and_an_exit_code(name: str) -> None:
    cls = getattr(arrow_quant_v2, name)
    builtin, exit_code = CLASSES[name]
    assert issubclass(cls, arrow_quant_v2.ArrowQuantError)
    assert issubclass(cls, builtin)
    assert cls.exit_code == exit_code
    error = cls("what", path="p", tensor="t", hint="next")
    assert str(error) == "what\nnext"
    assert (error.path, error.tensor, error.hint, error.message) == ("p", "t", "next", "what")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.tensor == "t"


def test_the_page_of_errors_names_every_class_and_exit_code() -> None:
    from support import ROOT

    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    for name, (builtin, exit_code) in CLASSES.items():
        assert f"`{name}`" in page
        assert f"| `{name}` | `{builtin.__name__}` | {exit_code} |" in page
    assert set(errors.__all__) == {*CLASSES, "ArrowQuantError"}
