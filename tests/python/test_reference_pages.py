"""What makes the reference pages reads code right, and sees what is not documented."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import ROOT

sys.path.insert(0, str(ROOT / "docs"))

from reference_pages import cpp_api, docstring, markdown, python_api

HEADER = """\
// A header that is documented in part.
#pragma once

namespace arrow_quant {

struct Declared;

/// A kind.
enum class Kind : uint8_t { kOne, kTwo };

enum class Bare { kFirst, kSecond };

/// Sizes.
struct ARROW_QUANT_API Sizes {
  enum class Order { kUp, kDown };  ///< how they are sorted
  int rows = 0;                     ///< of the weight
  int cols = 0;
  std::array<int, 2> kernel{1, 1};  ///< taps

  /// All of them.
  int total() const noexcept { return rows * cols; }
  int half() const { return total() / 2; }
};

class Reader {
 public:
  explicit Reader(int number);
  ~Reader();

  /// Read `count` bytes,
  /// at most.
  std::string read(size_t count, const std::function<void()>& poll = {}) const;

 private:
  int number_ = 0;
};

/// The greatest number.
inline constexpr int kGreatest = 7;
ARROW_QUANT_API void undocumented(int a, int b);

}  // namespace arrow_quant
"""


@pytest.fixture
def header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cpp_api, "INCLUDE", tmp_path)
    path = tmp_path / "some.h"
    path.write_text(HEADER)
    return path


@pytest.mark.usefixtures("header")
def test_a_public_name_of_a_header_without_a_comment_is_found() -> None:
    assert cpp_api.undocumented() == [
        f"some.h: {name}"
        for name in (
            "Bare",
            "Bare::kFirst",
            "Bare::kSecond",
            "Sizes::cols",
            "Sizes::half",
            "Reader",
            "undocumented",
        )
    ]


def test_declarations_and_their_comments_are_read(header: Path) -> None:
    items = {item.name: item for item in cpp_api.parse_header(header)}
    assert list(items) == ["Kind", "Bare", "Sizes", "Reader", "kGreatest", "undocumented"]
    members = {member.name: member.doc for member in items["Sizes"].members}
    assert members == {
        "Order": "how they are sorted",
        "rows": "of the weight",
        "cols": "",
        "kernel": "taps",
        "total": "All of them.",
        "half": "",
    }
    (reading,) = (member for member in items["Reader"].members if member.name == "read")
    assert reading.doc == "Read `count` bytes, at most."
    assert "number_" not in {member.name for member in items["Reader"].members}
    assert "inline constexpr int kGreatest = 7" in cpp_api.cpp_page()


class Documented:
    """A thing.

    Parameters
    ----------
    first, second
        Two numbers.
    """

    def __init__(self, first: int, second: int, third: int) -> None: ...

    def same(self, first: int) -> None:
        """Do what `first` says."""

    def other(self, first: int, unknown: int) -> None:
        """Do more.

        Parameters
        ----------
        first
            A number.
        """

    @property
    def bare(self) -> int:
        return 1


def test_a_parameter_without_a_description_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_api, "PACKAGE", Documented.__module__)
    assert list(python_api._lacks("Documented", Documented)) == [
        "Documented: parameter 'third' is not described",
        "Documented.other: parameter 'unknown' is not described",
        "Documented.bare: no docstring",
    ]


def test_docstrings_are_taken_apart() -> None:
    found = docstring.parse(
        "What it is.\n\nMore.\n\nParameters\n----------\na, b\n    Two\n    lines.\n**rest\n"
        "    Others.\n\nRaises\n------\nValueError\n    Never.\n\nExamples\n--------\n>>> 1\n1"
    )
    assert found.text == "What it is.\n\nMore."
    assert found.items["Parameters"] == [("a, b", "Two lines."), ("**rest", "Others.")]
    assert found.names("Parameters") == {"a", "b", "rest"}
    assert found.others == {"Examples": ">>> 1\n1"}


def test_marks_that_are_missing_are_an_error() -> None:
    page = "a\n<!-- made by docs/generate.py from here: x -->\nold\n<!-- to here -->\nb\n"
    made = markdown.between_marks(page, "x", "new\n")
    assert made == page.replace("old", "new")
    with pytest.raises(ValueError, match="from here: y"):
        markdown.between_marks(page, "y", "new\n")
