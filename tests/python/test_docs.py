"""The pages for users: their code runs, commands print what they show, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import pytest
from support import ROOT, ZOO_TEXT, ZOO_UNET
from typer.testing import CliRunner

from arrow_quant_v2.cli.main import app
from arrow_quant_v2.config.settings import DiffusionQuantConfig

DOCS = ROOT / "docs"
#: Pages whose blocks run, in order, in one folder for each page.
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
#: What a page says in full and a test does in small.
SMALLER = {
    "--samples 128": "--samples 2",
    "calibration_samples=128": "calibration_samples=2",
    "num_inference_steps=50": "num_inference_steps=2",
}
#: Pages that speak of an artefact which another page made.
GIVEN = {"running": "my-model-int4", "troubleshooting": "my-model-int2"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Step:
    """A command and the lines that a page shows under it, or a program in Python or SQL."""

    line: int
    text: str
    shown: tuple[str, ...] = ()
    language: str = ""


def steps(page: Path) -> list[Step]:
    found = []
    text = page.read_text()
    for match in FENCE.finditer(text):
        line = text[: match.start()].count("\n") + 1
        language, body = match.groups()
        if language in ("python", "sql"):
            found.append(Step(line, _smaller(body), language=language))
        elif language in ("", "sh", "console"):
            found += _commands(line, body, "$ " if language == "console" else "")
    return found


def _commands(line: int, body: str, prompt: str) -> list[Step]:
    """Commands of ours; below a prompt, the lines up to the next one are what they print."""
    found = []
    lines = body.splitlines()
    for i, text in enumerate(lines):
        if not text.startswith(f"{prompt}arrow-quant "):
            continue
        shown: list[str] = []
        for below in lines[i + 1 :] if prompt else []:
            if below.startswith(prompt):
                break
            shown += [below] if below.strip() else []
        found.append(Step(line, _smaller(text.removeprefix(prompt)), tuple(shown)))
    return found


def _smaller(text: str) -> str:
    for full, small in SMALLER.items():
        text = text.replace(full, small)
    return text


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the names that the pages use."""
    for name, model in (("my-model", ZOO_UNET), ("my-text-model", ZOO_TEXT)):
        for file in model.rglob("*"):
            if file.is_file() and file.suffix != ".png":
                copy = tmp_path / name / file.relative_to(model)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.symlink_to(file)
    (tmp_path / "texts.txt").write_text("In the beginning was the word.\n" * 5)
    (tmp_path / "old.yaml").write_text("bits: 4\nsamples: 64\n")
    (tmp_path / "script.py").write_text(
        "from arrow_quant import ArrowQuant\n\nquantizer = ArrowQuant()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARROW_QUANT_CALIBRATION_SAMPLES", "0")
    return tmp_path


def check_command(step: Step) -> None:
    words = shlex.split(step.text, comments=True)[1:]
    done = CliRunner().invoke(app, words)
    fails = any(line.startswith("error: ") for line in step.shown)
    assert (done.exit_code != 0) is fails, done.output
    lines = iter(done.output.splitlines())
    for shown in step.shown:
        if shown == "...":
            continue
        assert any(line.rstrip() == shown for line in lines), f"{shown!r} not in {done.output}"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_and_commands_print_what_it_shows(
    page: Path, workplace: Path, unet_artefacts: dict[int, Path]
) -> None:
    if given := GIVEN.get(page.stem):
        shutil.copytree(unet_artefacts[int(given[-1])], workplace / given)
    namespace: dict[str, Any] = {}
    for step in steps(page):
        if step.language == "python":
            exec(compile(step.text, f"{page.name}:{step.line}", "exec"), namespace)
        elif step.language == "sql":
            assert duckdb.sql(step.text).fetchall()
        else:
            check_command(step)


def test_there_are_blocks_to_run() -> None:
    counts = {page.stem: len(steps(page)) for page in PAGES}
    assert counts["README"] >= 6
    assert counts["quickstart"] >= 9
    assert counts["migration"] >= 5
    assert counts["errors"] >= 5
    assert counts["calibration"] >= 6
    assert counts["running"] >= 6
    assert counts["troubleshooting"] >= 1


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_made_from_the_code_are_current() -> None:
    made = generator()
    assert (DOCS / "configuration.md").read_text() == made.configuration_page(), "run 'make docs'"
    page = (DOCS / "environment.md").read_text()
    assert page == made.environment_page(page), "run 'make docs'"


def test_every_setting_says_what_it_is() -> None:
    page = (DOCS / "configuration.md").read_text()
    for name, field in DiffusionQuantConfig.model_fields.items():
        assert field.description
        assert f"**`{name}`**: {field.description}" in page


@pytest.mark.parametrize(
    "page", [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))], ids=lambda page: page.stem
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
