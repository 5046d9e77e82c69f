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

from arrow_quant_v2 import ArrowQuantV2
from arrow_quant_v2.cli.main import app
from arrow_quant_v2.config.settings import DiffusionQuantConfig

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
#: All pages of the repository that people read.
ALL_PAGES = sorted(
    path
    for folder, pattern in (
        (ROOT, "*.md"),
        (DOCS, "**/*.md"),
        (ROOT / "zoo", "**/*.md"),
        (ROOT / "benchmarks", "*.md"),
    )
    for path in folder.glob(pattern)
)
#: Pages whose blocks run, in order, in one folder for each page. Names of the API are no programs.
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PAGES = [page for page in PAGES if page.stem not in ("python-api", "cpp-api")]
INDEX = DOCS / "README.md"
#: What a page says in full and a test does in small.
SMALLER = {
    "--samples 128": "--samples 2",
    "--samples 16": "--samples 2",
    "calibration_samples=128": "calibration_samples=2",
    "num_inference_steps=50": "num_inference_steps=2",
    '    "2.5 bits": {"target_bits": 2.5},\n': "",  # shown again below, without calibration
}
#: Pages that speak of an artefact which another page made.
GIVEN = {
    "export": "my-model-int4",
    "from-pretrained": "my-model-int4",
    "query": "my-model-int2",
    "run-fast": "my-model-int4",
    "share": "my-model-int4",
    "troubleshooting": "my-model-int2",
    "validate": "my-model-int4",
}
#: Pages whose numbers come from more samples than a test draws: only the words are compared.
WORDS_ONLY = {"first-model"}
#: At least so many blocks run.
LEAST_STEPS = {
    "README": 8,
    "calibrate": 5,
    "choose-bits": 4,
    "configuration": 1,
    "errors": 6,
    "export": 1,
    "first-model": 6,
    "format": 1,
    "from-pretrained": 3,
    "learned-rounding": 1,
    "many-models": 3,
    "migrate": 6,
    "own-module": 3,
    "quantize": 4,
    "query": 6,
    "run-fast": 3,
    "troubleshooting": 1,
    "validate": 4,
    "which-layers": 2,
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
NUMBER = re.compile(r"\d[\d.,]*")


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
    models = (("my-model", ZOO_UNET), ("image-unet", ZOO_UNET), ("my-text-model", ZOO_TEXT))
    for name, model in models:
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


def check_command(step: Step, *, words_only: bool = False) -> None:
    def comparable(line: str) -> str:
        return NUMBER.sub("#", " ".join(line.split())) if words_only else line.rstrip()

    command = step.text.partition(" > ")[0]
    done = CliRunner().invoke(app, shlex.split(command, comments=True)[1:])
    fails = any(line.startswith("error: ") for line in step.shown)
    assert (done.exit_code != 0) is fails, done.output
    lines = iter(done.output.splitlines())
    for shown in step.shown:
        if shown == "...":
            continue
        wanted = comparable(shown)
        assert any(comparable(line) == wanted for line in lines), f"{shown!r} not in {done.output}"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_and_commands_print_what_it_shows(
    page: Path,
    workplace: Path,
    unet_artefacts: dict[int, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if page.stem in WORDS_ONLY:
        monkeypatch.delenv("ARROW_QUANT_CALIBRATION_SAMPLES")
    if given := GIVEN.get(page.stem):
        shutil.copytree(unet_artefacts[int(given[-1])], workplace / given)
    namespace: dict[str, Any] = {}
    for step in steps(page):
        if step.language == "python":
            exec(compile(step.text, f"{page.name}:{step.line}", "exec"), namespace)
        elif step.language == "sql":
            assert duckdb.sql(step.text).fetchall()
        else:
            check_command(step, words_only=page.stem in WORDS_ONLY)


def test_there_are_blocks_to_run() -> None:
    counts = {page.stem: len(steps(page)) for page in PAGES if page != INDEX}
    few = {name: counts[name] for name, least in LEAST_STEPS.items() if counts[name] < least}
    assert not few


def test_words_alone_do_not_let_another_text_pass() -> None:
    step = Step(1, "arrow-quant info", ("version 0.0.0", "no such line"))
    with pytest.raises(AssertionError, match="no such line"):
        check_command(step, words_only=True)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_the_pages_made_from_the_code_are_current(generator: ModuleType) -> None:
    for path, text in generator.pages().items():
        assert (ROOT / path).read_text() == text, f"{path}: run 'make docs'"


def test_every_setting_says_what_it_is() -> None:
    page = (REFERENCE / "configuration.md").read_text()
    for name, field in DiffusionQuantConfig.model_fields.items():
        assert field.description
        assert f"**`{name}`**: {field.description}" in page


def test_the_page_of_commands_has_every_option_that_help_shows() -> None:
    sections = (REFERENCE / "command-line.md").read_text().split("\n## ")
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.callback.__name__
        (section,) = (text for text in sections if text.startswith(f"`arrow-quant {name}`"))
        shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80"}).output
        options = set(re.findall(r"^\s+(--[a-z0-9-]+)", shown, re.MULTILINE)) - {"--help"}
        assert options == set(re.findall(r"^\| `(--[a-z0-9-]+)", section, re.MULTILINE)), name


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_every_public_name_of_python_is_documented(generator: ModuleType) -> None:
    missing = generator.undocumented_python()
    assert not missing, "\n".join(missing)


def test_every_public_name_of_the_headers_is_documented(generator: ModuleType) -> None:
    missing = generator.undocumented_cpp()
    assert not missing, "\n".join(missing)


def test_the_page_of_results_has_every_key(unet: Path, tmp_path: Path) -> None:
    page = (REFERENCE / "results.md").read_text()
    quantization, validation = page.split("## ValidationResult")
    quantizer = ArrowQuantV2()
    for text, result in (
        (quantization, quantizer.quantize_diffusion_model(unet, tmp_path / "out")),
        (validation, quantizer.validate_quality(unet, tmp_path / "out")),
    ):
        cells = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
        named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
        assert named == set(result)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found: dict[str, int] = {}
    names = set()
    for heading in HEADING.findall(text):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        names.add(f"{slug}-{count}" if count else slug)
    return names


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in LINK.findall(text):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {link}"


def test_pages_that_comments_name_exist() -> None:
    named = {
        (file, page)
        for folder in (
            "benchmarks",
            "bindings",
            "examples",
            "include",
            "python",
            "src",
            "tests",
            "zoo",
        )
        for suffix in ("py", "h", "cc")
        for file in (ROOT / folder).rglob(f"*.{suffix}")
        for page in re.findall(r"\b(?:docs|zoo)/[\w/-]+\.md\b", file.read_text())
    }
    assert len(named) > 10
    missing = sorted(
        f"{file.relative_to(ROOT)}: {page}" for file, page in named if not (ROOT / page).exists()
    )
    assert not missing, "\n".join(missing)


def test_the_index_names_every_page() -> None:
    linked = {
        (DOCS / link.partition("#")[0]).resolve()
        for link in LINK.findall(INDEX.read_text())
        if "://" not in link
    }
    pages = {page for page in DOCS.rglob("*.md") if page != INDEX}
    missing = sorted(str(page.relative_to(DOCS)) for page in pages - linked)
    assert not missing


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_numbers_have_a_digit_before_the_point(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    assert not re.findall(r"(?:^|[\s(|+-])\.\d+", text)
