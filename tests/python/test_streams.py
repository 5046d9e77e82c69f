"""The command on terminals that lack characters, and where nobody reads what it writes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from support import COMMAND, gaussian, write_safetensors

#: A character of three bytes and one outside of the first 65,536.
NAME = "слой.\U0001f600.weight"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
PIPE_CLOSED = 141


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "модель.safetensors", {NAME: gaussian(32, 64)})


def shell(
    *arguments: str | Path, redirect: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the command with streams that a shell redirects."""
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirect}', "sh", *COMMAND, *map(str, arguments)],
        capture_output=True,
        env={**os.environ, **(env or {})},
        timeout=120,
    )


def unread(*arguments: str | Path) -> tuple[int, str]:
    """Run the command into a pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        run = subprocess.run(
            [*COMMAND, *map(str, arguments)], stdout=writer, stderr=subprocess.PIPE, timeout=120
        )
    finally:
        os.close(writer)
    return run.returncode, run.stderr.decode()


def test_names_that_the_terminal_lacks_are_escaped(model: Path, tmp_path: Path) -> None:
    plan = shell("plan", model, "--all", "--modality", "image", env=ASCII)
    assert plan.returncode == 0, plan.stderr
    assert rb"\u0441\u043b\u043e\u0439.\U0001f600.weight" in plan.stdout
    out = tmp_path / "выход"
    done = shell("quantize", model, out, "--modality", "image", env=ASCII)
    assert done.returncode == 0, done.stderr
    assert (out / "manifest.json").is_file()
    missing = shell("plan", tmp_path / "нет", env=ASCII)
    assert missing.returncode == 3
    assert rb"\u043d\u0435\u0442" in missing.stderr


def test_json_on_such_a_terminal_says_the_same(model: Path) -> None:
    wide = shell("plan", model, "--json", "--modality", "image")
    narrow = shell("plan", model, "--json", "--modality", "image", env=ASCII)
    assert narrow.returncode == 0, narrow.stderr
    assert narrow.stdout.isascii()
    assert json.loads(narrow.stdout) == json.loads(wide.stdout)
    assert json.loads(narrow.stdout)["tensors"][0]["name"] == NAME


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-"])
def test_a_model_is_quantized_though_a_stream_is_closed(
    model: Path, tmp_path: Path, redirect: str
) -> None:
    out = tmp_path / "out"
    done = shell("quantize", model, out, "--modality", "image", redirect=redirect)
    assert (done.returncode, done.stderr) == (0, b"")
    assert shell("validate", model, out).returncode == 0


@pytest.mark.parametrize("arguments", [["--help"], ["quantize", "--help"], ["--version"]])
def test_help_ends_cleanly_though_nobody_reads_it(arguments: list[str]) -> None:
    assert shell(*arguments, redirect=">&-").returncode == 0
    assert unread(*arguments) == (PIPE_CLOSED, "")


def test_quantizing_ends_cleanly_though_the_reader_has_left(model: Path, tmp_path: Path) -> None:
    assert unread("quantize", model, tmp_path / "out", "--modality", "image") == (PIPE_CLOSED, "")
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_a_failure_keeps_its_exit_code_though_stderr_is_closed(tmp_path: Path) -> None:
    assert shell("plan", tmp_path / "nothing", redirect="2>&-").returncode == 3
