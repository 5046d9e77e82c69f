"""The rules of the house: which folder may include which, and that the map names every folder."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
INCLUDE = re.compile(r'^\s*#include\s+"([^"]+)"', re.MULTILINE)

#: Which folders a folder of src/ may include besides itself and the public headers: those below it.
BELOW_STAGES = {"core", "io", "codec", "kernels"}
STAGE_NAMES = {"read", "calibrate", "plan", "quantize", "write", "run"}
MAY_INCLUDE: dict[str, set[str]] = {
    "core": set(),
    "io": {"core"},
    "codec": {"core"},
    "kernels": {"core", "codec", "hwy"},
    # A stage never includes another stage: they meet in choose and in pipeline.
    **dict.fromkeys(STAGE_NAMES, BELOW_STAGES),
    "choose": BELOW_STAGES | STAGE_NAMES,
    "pipeline": BELOW_STAGES | STAGE_NAMES | {"choose"},
}
FOLDERS = sorted(p.name for p in SRC.iterdir() if any(p.rglob("*.h")))


def test_every_folder_of_the_engine_has_a_place_in_the_order() -> None:
    assert set(FOLDERS) == set(MAY_INCLUDE)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_includes_only_what_lies_below_it(folder: str) -> None:
    allowed = MAY_INCLUDE[folder] | {folder, "arrow_quant"}
    wrong = []
    for path in sorted((SRC / folder).rglob("*.[ch]*")):
        for target in INCLUDE.findall(path.read_text()):
            if target.split("/")[0] not in allowed:
                wrong.append(f"{path.relative_to(ROOT)} includes {target}")
    assert not wrong, "\n".join(wrong)


def test_what_reads_the_old_layouts_is_used_through_three_headers() -> None:
    """The rest of `read/legacy/` may change without anybody else noticing."""
    doors = {"read/legacy/model.h", "read/legacy/reader.h", "read/legacy/tensor.h"}
    for root in (SRC, ROOT / "bindings"):
        for path in sorted(root.rglob("*.[ch]*")):
            if path.parent.name != "legacy":
                inner = [t for t in INCLUDE.findall(path.read_text()) if "/legacy/" in t]
                assert set(inner) <= doors, f"{path.relative_to(ROOT)} includes {inner}"


def test_public_headers_name_no_third_party_and_no_internal_header() -> None:
    standard = re.compile(r"^\s*#include\s+<([a-z_0-9]+)>", re.MULTILINE)
    for path in sorted((ROOT / "include").rglob("*.h")):
        text = path.read_text()
        for target in INCLUDE.findall(text):
            assert target.startswith("arrow_quant/"), f"{path.name} includes {target}"
        angled = re.findall(r"^\s*#include\s+<([^>]+)>", text, re.MULTILINE)
        assert set(angled) == set(standard.findall(text)), f"{path.name}: {angled}"


def test_simd_lives_in_kernels_only() -> None:
    for path in sorted(SRC.rglob("*.[ch]*")):
        if path.parent.name != "kernels":
            text = path.read_text()
            assert "hwy/" not in text, path
            assert "immintrin.h" not in text, path


def test_the_map_names_every_folder() -> None:
    text = (ROOT / "HACKING.md").read_text()
    top = [p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")]
    known_outputs = {"build", "dist", "demo-output"}
    folders = {f"{name}/" for name in top if name not in known_outputs}
    folders |= {f"{name}/" for name in FOLDERS}
    missing = sorted(folder for folder in folders if folder not in text)
    assert not missing, f"HACKING.md does not mention {missing}"


PACKAGE = ROOT / "python" / "arrow_quant_v2"
NAME = PACKAGE.name

#: The parts of the Python package from the ground up: each imports only parts before it. A part is
#: a folder, or a module of the package itself. Faces (``__init__.py``) only hand names on.
PYTHON_ORDER = (
    "errors",
    "_native",
    "paths",
    "progress",
    "caller_warnings",
    "config",
    "tensors",
    "artefact",
    "text_families",
    "calibration",
    "torch_files",
    "model",
    "plan",
    "torch/evaluation",
    "torch/text_models",
    "torch/build",
    "model_roles",
    "torch/ops",
    "torch/layers",
    "torch/record",
    "loaded_model",
    "torch/observe",
    "torch/collect",
    "torch/compare",
    "torch/learn",
    "mixed",
    "quantize",
    "integrations",
    "torch/load",
    "torch/sample_text",
    "validate",
    "export",
    "batch",
    "api",
    "aio",
    "v1",
    "migrate",
    "cli",
)


def python_modules() -> dict[str, Path]:
    """Every module of the package but the faces, by dotted name."""
    return {
        ".".join((NAME, *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "__init__.py"
    }


def imports_of(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules of the package that a module imports, also inside functions and for types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
            found |= {name for name in names if name in modules}
    return found


def part_of(module: str) -> str:
    parts = module.split(".")[1:]
    return "/".join(parts[:2]) if parts[0] == "torch" else parts[0]


def test_a_python_module_imports_only_what_lies_below_it() -> None:
    modules = python_modules()
    assert {part_of(module) for module in modules} == set(PYTHON_ORDER)
    ranks = {part: rank for rank, part in enumerate(PYTHON_ORDER)}
    wrong = [
        f"{module} imports {target}"
        for module, path in modules.items()
        for target in imports_of(path, modules)
        if ranks[part_of(target)] > ranks[part_of(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_python_modules_import_each_other_in_a_circle() -> None:
    modules = python_modules()
    targets = {module: imports_of(path, modules) for module, path in modules.items()}
    while leaves := [module for module, found in targets.items() if not found]:
        for leaf in leaves:
            del targets[leaf]
        targets = {module: found - set(leaves) for module, found in targets.items()}
    assert not targets, sorted(targets)


def test_the_map_names_every_python_folder() -> None:
    text = (ROOT / "HACKING.md").read_text()
    folders = [path for path in PACKAGE.rglob("*") if path.is_dir() and any(path.glob("*.py"))]
    names = [f"{path.relative_to(PACKAGE)}/" for path in folders]
    missing = sorted(name for name in names if f"`{name}`" not in text)
    assert not missing, f"HACKING.md does not mention {missing}"
