"""The examples run as they stand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support import ROOT

from arrow_quant_v2 import open_quantized

EXAMPLES = ROOT / "examples"


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [os.fspath(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_quickstart_runs(unet: Path, tmp_path: Path) -> None:
    text = run(sys.executable, EXAMPLES / "quickstart.py", unet, tmp_path)
    assert "passed: True" in text
    assert (tmp_path / "exported" / "model_index.json").is_file()


def test_the_demo_makes_its_folder_table_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    output = tmp_path / "not" / "there"
    text = run(sys.executable, EXAMPLES / "demo.py", output)
    for bits in (8, 4, 2):
        (line,) = (line for line in text.splitlines() if line.startswith(f"INT{bits} "))
        assert float(line.split()[1]) < 7.2, "megabytes of the original"
        assert (output / f"int{bits}" / "manifest.json").is_file()
    with Image.open(output / "samples.png") as picture:
        assert picture.width > picture.height > 4 * 28


def test_the_page_of_errors_shows_code_that_runs() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    text = run(sys.executable, "-c", code)
    assert text.splitlines() == [
        "ConfigurationError configuration 2",
        "Invalid bit_width: 3. Must be 2, 4, or 8.",
    ]


@pytest.mark.skipif(
    not all(map(shutil.which, ("cmake", "c++"))), reason="needs cmake and a C++ compiler"
)
def test_the_cpp_example_builds_against_the_installed_library(unet: Path, tmp_path: Path) -> None:
    build = os.environ.get("ARROW_QUANT_CPP_BUILD")
    if build is None:
        pytest.skip("set ARROW_QUANT_CPP_BUILD to a CMake build of the library")
    prefix = tmp_path / "prefix"
    run("cmake", "--install", build, "--prefix", prefix)
    run(
        "cmake",
        f"-S{EXAMPLES / 'cpp'}",
        f"-B{tmp_path / 'build'}",
        f"-DCMAKE_PREFIX_PATH={prefix}",
        "-DCMAKE_BUILD_TYPE=Release",
    )
    run("cmake", "--build", tmp_path / "build")
    text = run(tmp_path / "build" / "quantize_file", unet, tmp_path / "out", "4")
    assert "INT4" in text
    assert len(open_quantized(tmp_path / "out")) > 100
