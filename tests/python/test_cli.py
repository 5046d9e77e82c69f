"""The command as a shell sees it: output, exit codes, what lands on which stream."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from support import COMMAND, ROOT, arrow_quant, gaussian, safetensors_bytes, write_safetensors

from arrow_quant_v2 import open_quantized


def test_the_whole_way_from_plan_to_export(unet: Path, tmp_path: Path) -> None:
    plan = arrow_quant("plan", unet, "--bit-width", "2", "--json")
    assert plan.code == 0
    assert plan.json["modality"] == "image"
    assert not any(tmp_path.iterdir())
    done = arrow_quant("quantize", unet, "out", "--bit-width", "2", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.json["bit_width"] == 2
    assert done.json["bits_per_weight"] == pytest.approx(plan.json["bits_per_weight"])
    assert len(done.json["tensors"]) == len(plan.json["tensors"])
    shown = arrow_quant("inspect", "out", "--json", cwd=tmp_path)
    assert shown.code == 0
    assert shown.json["cosine_similarity"] == pytest.approx(done.json["cosine_similarity"])
    assert shown.json["worst_layer"] == done.json["worst_layer"]
    metadata = arrow_quant("inspect", "out", "--metadata", "--json", cwd=tmp_path)
    assert metadata.json["unet"]["modality"] == "image"
    checked = arrow_quant("validate", unet, "out", "--json", cwd=tmp_path)
    assert checked.code == 0
    assert checked.json["passed"] is True
    exported = arrow_quant(
        "export",
        "out",
        "e",
        "--format",
        "safetensors",
        "--dtype",
        "float16",
        "--json",
        cwd=tmp_path,
    )
    assert exported.code == 0, exported.err
    assert exported.json["bytes"] > 0
    assert (tmp_path / "e" / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def test_tables_are_for_people(unet: Path, unet_artefacts: dict[int, Path]) -> None:
    wide = {"COLUMNS": "120"}
    plan = arrow_quant("plan", unet, "--layer-rule", "*.to_q.weight=8", env=wide)
    assert plan.code == 0
    row = next(line for line in plan.out.splitlines() if "mid_block.attentions.0.to_q.w" in line)
    assert re.search(r"96x96 +8 +row .*rule '\*\.to_q\.weight'", row)
    assert "bits per weight" in plan.out
    assert "conv_in.bias" not in plan.out
    assert "conv_in.bias" in arrow_quant("plan", unet, "--all").out
    shown = arrow_quant("inspect", unet_artefacts[2])
    assert re.search(r"96x96 +2 +fp16 +search +\S+ kB +0\.9\d+ +\d\.\d+e-02", shown.out)
    assert "worst layer" in shown.out
    checked = arrow_quant("validate", unet, unet_artefacts[2])
    assert "passed" in checked.out
    assert "mean" in checked.out


def test_info_says_what_this_is() -> None:
    info = arrow_quant("info", "--json")
    assert info.code == 0
    assert info.json["instruction_set"] in info.json["supported_instruction_sets"]
    assert info.json["pyarrow"].startswith("26.0.")
    scalar = arrow_quant("info", "--json", env={"ARROW_QUANT_FORCE_ISA": "scalar"})
    assert scalar.json["instruction_set"] == "scalar"
    assert "instruction set" in arrow_quant("info").out
    assert arrow_quant("--version").out.startswith("arrow-quant 2.")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["quantize"], 2, "Missing argument"),
        (["quantize", "MODEL", "out", "--bits", "4"], 2, "--bits"),
        (["quantize", "MODEL", "out", "--bit-width", "x"], 2, "Invalid bit_width: 'x'"),
        (["quantize", "MODEL", "out", "--bit-width"], 2, "--bit-width"),
        (["quantize", "MODEL", "out", "--bit-width", "3"], 2, "Invalid bit_width: 3. Must be 2, 4"),
        (["quantize", "MODEL", "out", "--profile", "phone"], 2, "Invalid deployment_profile"),
        (["quantize", "MODEL", "out", "--layer-rule", "x"], 2, "Invalid layer rule"),
        (["quantize", "MODEL", "out", "--layer-rule", "zz=4"], 2, "matches no tensor"),
        (["quantize", "MODEL", "out", "--layer-rule", "a=4", "--layer-rule", "a=8"], 2, "two val"),
        (["quantize", "MODEL", "out", "--components", "vae"], 2, "no component 'vae'"),
        (["quantize", "MODEL", "out", "--config", "absent.yaml"], 2, "does not exist"),
        (["quantize", "MODEL", "out", "--max-memory-mb", "1"], 2, "Invalid max_memory_mb"),
        (["quantize", "MODEL", "MODEL/inside"], 2, "overlap"),
        (["quantize", "absent", "out"], 3, "absent"),
        (["plan", "absent"], 3, "absent"),
        (["inspect", "absent"], 3, "absent"),
        (["inspect", "."], 3, "manifest.json"),
        (["validate", "MODEL", "absent"], 3, "absent"),
        (["export", "absent", "e", "--format", "safetensors"], 3, "absent"),
        (["export", "absent", "e", "--format", "gguf"], 2, "--format"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_mistakes_get_one_line_a_hint_and_their_exit_code(
    unet: Path, tmp_path: Path, arguments: list[str], code: int, text: str
) -> None:
    run = arrow_quant(*(a.replace("MODEL", str(unet)) for a in arguments), cwd=tmp_path)
    assert run.code == code, run.err
    assert text in run.err
    assert run.out == ""
    assert "Traceback" not in run.err
    assert not any(tmp_path.iterdir())


def test_debug_adds_the_traceback(tmp_path: Path) -> None:
    for arguments in (["--debug", "plan", "absent"], ["plan", "absent", "--debug"]):
        run = arrow_quant(*arguments, cwd=tmp_path)
        assert run.code == 3
        assert "Traceback" in run.err


def test_overwrite_has_to_be_asked_for_and_never_takes_what_is_not_ours(
    unet: Path, tmp_path: Path
) -> None:
    assert arrow_quant("quantize", unet, "out", "--bit-width", "8", cwd=tmp_path).code == 0
    refused = arrow_quant("quantize", unet, "out", "--bit-width", "4", cwd=tmp_path)
    assert refused.code == 7
    assert "--overwrite" in refused.err
    assert open_quantized(tmp_path / "out").manifest["report"]["bit_width"] == 8
    done = arrow_quant("quantize", unet, "out", "--bit-width", "4", "--overwrite", cwd=tmp_path)
    assert done.code == 0
    assert open_quantized(tmp_path / "out").manifest["report"]["bit_width"] == 4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    run = arrow_quant("quantize", unet, "mine", "--overwrite", cwd=tmp_path)
    assert run.code == 7
    assert (tmp_path / "mine" / "file").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out"]


def test_a_file_and_options_add_up(unet: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("bit_width: 8\ngroup_size: 64\nparam_encoding: fp16\n")
    run = arrow_quant(
        "plan", unet, "--config", "c.yaml", "--bit-width", "4", "--json", cwd=tmp_path
    )
    specs = {
        (t["bit_width"], t["group_size"], t["param_encoding"])
        for t in run.json["tensors"]
        if t["bit_width"]
    }
    assert specs == {(4, 64, "fp16")}
    from_environment = arrow_quant("plan", unet, "--json", env={"ARROW_QUANT_BIT_WIDTH": "2"})
    assert {t["bit_width"] for t in from_environment.json["tensors"]} == {2, None}
    old = arrow_quant("plan", unet, "--json", env={"ARROW_QUANT_BITS": "2"})
    assert {t["bit_width"] for t in old.json["tensors"]} == {4, None}
    warning = "ARROW_QUANT_BITS is a V1 name and is not applied. Set ARROW_QUANT_BIT_WIDTH instead."
    assert " ".join(old.err.split()) == f"warning: {warning}"
    wrong = arrow_quant("plan", unet, env={"ARROW_QUANT_NUM_THREADS": "many"})
    assert wrong.code == 2
    assert "ARROW_QUANT_NUM_THREADS" in wrong.err
    unknown = arrow_quant("info", env={"ARROW_QUANT_FORCE_ISA": "avx9"})
    assert unknown.code == 2
    assert "avx9" in unknown.err


def test_an_unknown_instruction_set_is_refused_by_whoever_reads(
    unet_artefacts: dict[int, Path],
) -> None:
    unknown = arrow_quant("inspect", unet_artefacts[2], env={"ARROW_QUANT_FORCE_ISA": "avx9"})
    assert unknown.code == 2
    assert "avx9" in unknown.err


def test_the_fallback_is_told_and_fail_fast_fails(unet: Path, tmp_path: Path) -> None:
    arguments = ["quantize", unet, "out", "--bit-width", "2", "--min-accuracy", "0.99"]
    failed = arrow_quant(*arguments, "--fail-fast", cwd=tmp_path)
    assert failed.code == 5
    assert not any(tmp_path.iterdir())
    done = arrow_quant(*arguments, "--json", cwd=tmp_path)
    assert done.code == 0
    assert done.json["bit_width"] == 4
    assert "INT4 was used instead of INT2" in done.err


def test_validation_failures_exit_with_6(
    unet: Path, unet_artefacts: dict[int, Path], tmp_path: Path
) -> None:
    missed = arrow_quant("validate", unet, unet_artefacts[2], "--min-accuracy", "0.99")
    assert missed.code == 6
    assert "FAILED" in missed.out
    subprocess.run(["cp", "-r", unet_artefacts[2], tmp_path / "copy"], check=True)
    path = tmp_path / "copy" / "unet" / "weights.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    damaged = arrow_quant("validate", unet, "copy", "--json", cwd=tmp_path)
    assert damaged.code == 6
    assert damaged.out == ""


def test_nothing_a_terminal_could_act_on_is_printed(tmp_path: Path) -> None:
    names = ["a\x1b[31mred.weight", "b\nline.weight", "c\u202ertl.weight", "d\x9bcsi.weight"]
    path = write_safetensors(
        tmp_path / "m.safetensors", {name: gaussian(32, 128) for name in names}
    )
    plan = arrow_quant("plan", path, "--modality", "image")
    assert plan.code == 0
    done = arrow_quant("quantize", path, tmp_path / "out", "--modality", "image")
    assert done.code == 0
    shown = arrow_quant("inspect", tmp_path / "out")
    for text in (plan.out, done.out, shown.out):
        assert not set(text) & {"\x1b", "\u202e", "\x9b"}
        assert "\x00" not in text
    assert r"a\x1b[31mred.weight" in plan.out
    assert r"b\nline.weight" in shown.out
    assert set(open_quantized(tmp_path / "out")) == set(names)
    broken = tmp_path / "n.safetensors"
    weights = gaussian(32, 128)
    weights[0, 0] = float("nan")
    broken.write_bytes(safetensors_bytes({names[0]: weights}))
    failed = arrow_quant("quantize", broken, tmp_path / "o2", "--modality", "image")
    assert failed.code == 5
    assert "\x1b" not in failed.err


def test_a_reader_that_stops_is_no_error_worth_a_traceback(unet: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    run = subprocess.run(
        [*COMMAND, "plan", str(unet), "--all"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write_end)
    assert run.returncode == 141
    assert run.stderr == b""


def on_terminal(*arguments: str) -> tuple[int, str]:
    """Run the command on a terminal of 80 columns; exit code and what it shows."""
    parent, child = pty.openpty()
    subprocess.run(["stty", "cols", "80", "rows", "24"], stdin=child, check=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**environment, "TERM": "xterm"},
    )
    os.close(child)
    data = b""
    while True:
        try:
            block = os.read(parent, 65536)
        except OSError:
            break
        if not block:
            break
        data += block
    os.close(parent)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode())
    return process.wait(timeout=60), text.replace("\r\n", "\n")


def test_tables_fit_a_terminal_of_80_columns(
    unet: Path, unet_artefacts: dict[int, Path], tmp_path: Path
) -> None:
    for arguments in (["plan", str(unet)], ["inspect", str(unet_artefacts[4])], ["--help"]):
        code, text = on_terminal(*arguments)
        assert code == 0
        assert max(map(len, text.splitlines())) <= 80
    code, text = on_terminal("quantize", str(unet), str(tmp_path / "out"))
    assert code == 0
    assert "100%" in text  # the progress bar was there


def test_json_is_all_there_is_on_stdout(unet: Path, tmp_path: Path) -> None:
    for arguments in (
        ["plan", str(unet), "--json"],
        ["quantize", str(unet), str(tmp_path / "out"), "--json"],
        ["inspect", str(tmp_path / "out"), "--json"],
        ["validate", str(unet), str(tmp_path / "out"), "--json"],
        ["info", "--json"],
    ):
        run = arrow_quant(*arguments)
        assert run.code == 0
        assert isinstance(json.loads(run.out), dict)


@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_NUM_THREADS": "garbage"},
        {"TMPDIR": "/nonexistent"},
        {"HOME": ""},
        {"LC_ALL": "C"},
        {"LC_ALL": "tr_TR.UTF-8"},
        {"PYTHONUTF8": "0", "LC_ALL": "POSIX"},
    ],
)
def test_odd_environments_change_nothing(
    model: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    run = arrow_quant(
        "quantize", model, "out", "--modality", "image", "--json", cwd=tmp_path, env=environment
    )
    assert run.code == 0, run.err
    assert run.json["bit_width"] == 4


def test_odd_paths_work(model: Path, tmp_path: Path) -> None:
    name = os.fsdecode("bad \xff utf8 ".encode("latin-1")) + "ß 模型"
    run = arrow_quant("quantize", model, tmp_path / name, "--modality", "image")
    assert run.code == 0, run.err
    shown = arrow_quant("inspect", tmp_path / name, "--json")
    assert shown.code == 0
    exported = arrow_quant(
        "export", tmp_path / name, tmp_path / (name + "e"), "--format", "safetensors"
    )
    assert exported.code == 0
    longest = arrow_quant("quantize", model, tmp_path / ("x" * 300), "--modality", "image")
    assert longest.code == 7


def test_the_console_script_is_declared() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert 'arrow-quant = "arrow_quant_v2.cli.main:main"' in text
