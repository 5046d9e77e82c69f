"""The rules of the house: which folder may include which, and that the map names every folder."""

from __future__ import annotations

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
    **{stage: BELOW_STAGES for stage in STAGE_NAMES},
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
