"""The rules of the house: which folder may include which, and that the map names every folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
INCLUDE = re.compile(r'^\s*#include\s+"([^"]+)"', re.MULTILINE)

#: Folders every stage may use. Only src/pipeline joins stages.
SHARED = {"core", "io", "kernels", "arrow_quant"}
LOWER = {
    "core": {"core", "arrow_quant"},
    "io": {"io", "core", "arrow_quant"},
    "kernels": {"kernels", "core", "arrow_quant", "hwy"},
}
STAGES = sorted(p.name for p in SRC.iterdir() if p.is_dir() and any(p.rglob("*.cc")))


def allowed_folders(folder: str) -> set[str]:
    if folder == "pipeline":
        return SHARED | set(STAGES)
    return LOWER.get(folder, SHARED | {folder})


@pytest.mark.parametrize("folder", STAGES)
def test_a_folder_includes_only_what_lies_below_it(folder: str) -> None:
    wrong = []
    for path in sorted((SRC / folder).rglob("*.[ch]*")):
        for target in INCLUDE.findall(path.read_text()):
            if target.split("/")[0] not in allowed_folders(folder):
                wrong.append(f"{path.relative_to(ROOT)} includes {target}")
    assert not wrong, "\n".join(wrong)


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
    folders |= {f"{name}/" for name in STAGES}
    missing = sorted(folder for folder in folders if folder not in text)
    assert not missing, f"HACKING.md does not mention {missing}"
