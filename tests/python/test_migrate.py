"""``arrow-quant migrate``: V1 files become V2 files that a person can review."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support import arrow_quant

from arrow_quant_v2 import ConfigurationError, DiffusionQuantConfig, OutputError
from arrow_quant_v2.migrate import migrate_file, migrate_python, migrate_yaml

V1_YAML = '# edge\nbits: 2   # two\n"samples": 64\ngroup_size: 32\nstrategy: r2q\nmin_acc: 0.7\n'
V2_YAML = (
    "# edge\nbit_width: 2   # two\ncalibration_samples: 64\ngroup_size: 32\nmethod: r2q\n"
    "min_accuracy: 0.7\n"
)

V1_PROGRAM = '''\
"""A V1 program."""
import os
from arrow_quant import ArrowQuant, QuantizationError

os.environ["ARROW_QUANT_BITS"] = "4"
quantizer = ArrowQuant()
configs = [
    {"bits": 2, "samples": 32},  # edge
    {"bits": 4, "samples": 128},
]
for config in configs:
    result = quantizer.quantize(
        model_path=f"models/{config}/",
        output_path="quantized/",
        config=config
    )
    print(f"{result['compression']}x", result.get("size"))
config = {
    "bits": 4,
    # calibration
    "samples": 256,
    "min_acc": 0.85,
    "threads": 8
}
config["bits"] = 2
try:
    result = quantizer.quantize(model_path, output_path, config)
except QuantizationError:
    result = quantizer.quantize(model_path, output_path, bit_width=4, strategy="gptq")
tensor = quantizer.quantize(weights, bit_width=4)
print({"bits": 1, "pieces": 2}, image.quantize(256), other["size"])
'''

V2_PROGRAM = '''\
"""A V1 program."""
import os
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, QuantizationError

os.environ["ARROW_QUANT_BIT_WIDTH"] = "4"
quantizer = ArrowQuantV2(mode="diffusion")
configs = [
    DiffusionQuantConfig(bit_width=2, calibration_samples=32),  # edge
    DiffusionQuantConfig(bit_width=4, calibration_samples=128),
]
for config in configs:
    result = quantizer.quantize_diffusion_model(
        model_path=f"models/{config}/",
        output_path="quantized/",
        config=config
    )
    print(f"{result['compression_ratio']}x", result.get("model_size_mb"))
config = DiffusionQuantConfig(
    bit_width=4,
    # calibration
    calibration_samples=256,
    min_accuracy=0.85,
    num_threads=8
)
config.bit_width = 2
try:
    result = quantizer.quantize_diffusion_model(model_path, output_path, config)
except QuantizationError:
    result = quantizer.quantize_diffusion_model(model_path, output_path, \
config=DiffusionQuantConfig(bit_width=4, method="gptq"))
tensor = quantizer.quantize(weights, bit_width=4)
print({"bits": 1, "pieces": 2}, image.quantize(256), other["size"])
'''


def program(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(text)
    return path


def test_a_v1_yaml_keeps_its_comments_and_order(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(V1_YAML)
    run = arrow_quant("migrate", "old.yaml", "new.yaml", cwd=tmp_path)
    assert (run.code, run.out, run.err) == (0, "", "")
    assert (tmp_path / "new.yaml").read_text() == V2_YAML
    assert (tmp_path / "old.yaml").read_text() == V1_YAML
    config = DiffusionQuantConfig.from_yaml(tmp_path / "new.yaml")
    assert (config.bit_width, config.method, config.min_accuracy) == (2, "r2q", 0.7)
    again = arrow_quant("migrate", "old.yaml", "new.yaml", cwd=tmp_path)
    assert again.code == 7


@pytest.mark.parametrize(("old", "new"), [(V1_YAML, V2_YAML), (V1_PROGRAM, V2_PROGRAM)])
def test_the_change_is_a_diff_that_patch_applies(tmp_path: Path, old: str, new: str) -> None:
    name = "old.yaml" if old is V1_YAML else "old.py"
    for text, wanted in ((old, new), (old.rstrip("\n"), new.rstrip("\n"))):
        (tmp_path / name).write_text(text)
        run = arrow_quant("migrate", name, cwd=tmp_path)
        assert run.code == 0, run.err
        assert (tmp_path / name).read_text() == text
        subprocess.run(
            ["patch", "-p0", "-s"], input=run.out, cwd=tmp_path, check=True, encoding="utf-8"
        )
        assert (tmp_path / name).read_text() == wanted


def test_write_replaces_the_file_and_keeps_its_mode(tmp_path: Path) -> None:
    path = program(tmp_path, V1_PROGRAM)
    path.chmod(0o754)
    run = arrow_quant("migrate", "--write", path)
    assert (run.code, run.out) == (0, "")
    assert path.read_text() == V2_PROGRAM
    assert stat.S_IMODE(path.stat().st_mode) == 0o754
    again = arrow_quant("migrate", "--write", path)
    assert again.code == 0
    assert "nothing to change" in again.err
    assert [p.name for p in tmp_path.iterdir()] == ["program.py"]


def test_a_program_that_imports_the_module_is_qualified(tmp_path: Path) -> None:
    for alias, name in (("", "arrow_quant_v2"), (" as aq", "aq")):
        old = alias.removeprefix(" as ") or "arrow_quant"
        text = (
            f"import arrow_quant{alias}\n"
            f"q = {old}.ArrowQuant()\n"
            f"r: dict = q.quantize('m', 'o', config=dict(bits=4))\n"
            f"print(r['path'], q.quantize('m', 'o')['size'], f(arrow_quant=1))\n"
        )
        assert migrate_python(program(tmp_path, text)).new == (
            f"import arrow_quant_v2{alias}\n"
            f'q = {name}.ArrowQuantV2(mode="diffusion")\n'
            f"r: dict = q.quantize_diffusion_model("
            f"'m', 'o', config={name}.DiffusionQuantConfig(bit_width=4))\n"
            f"print(r['quantized_path'], "
            f"q.quantize_diffusion_model('m', 'o')['model_size_mb'], f(arrow_quant=1))\n"
        )


def test_an_alias_of_the_class_stays(tmp_path: Path) -> None:
    text = "from arrow_quant import ArrowQuant as AQ\nq = AQ()\n"
    assert migrate_python(program(tmp_path, text)).new == (
        'from arrow_quant_v2 import ArrowQuantV2 as AQ\nq = AQ(mode="diffusion")\n'
    )


@pytest.mark.parametrize(
    ("lines", "note"),
    [
        ("c = yaml.safe_load(f)\nq.quantize('m', 'o', c)", "line 3: 'c' must be a DiffusionQuant"),
        ("q.quantize('m', 'o', {'bits': 4, 'x': 1})", "line 2: a configuration with unknown"),
        ("q.quantize('m', 'o', {**c})", "line 2: a configuration with keys that are no"),
        ("q.quantize('m', 'o', {}, bits=4)", "line 2: put the settings among the arguments"),
        ("from arrow_quant.core import x", "line 2: V2 has no arrow_quant.core"),
        ("from arrow_quant import calibrate", "line 2: V2 may have no 'calibrate'"),
        ("q = ArrowQuant(cache=1)", "line 2: ArrowQuantV2 takes only mode="),
    ],
)
def test_what_needs_a_person_is_a_note(tmp_path: Path, lines: str, note: str) -> None:
    text = f"from arrow_quant import ArrowQuant\n{lines}\n"
    migration = migrate_python(program(tmp_path, text))
    assert len(migration.notes) == 1
    assert migration.notes[0].startswith(note)


def test_notes_go_to_stderr(tmp_path: Path) -> None:
    program(tmp_path, "from arrow_quant import ArrowQuant\nq.quantize('m', 'o', c)\n")
    run = arrow_quant("migrate", "program.py", cwd=tmp_path)
    assert run.code == 0
    assert run.err.startswith("note: program.py, line 2: 'c' must be a DiffusionQuantConfig")


def test_a_program_without_v1_stays_as_it_is(tmp_path: Path) -> None:
    text = 'q.quantize("m", "o", {"bits": 4})\nos.environ["ARROW_QUANT_BITS"]\n'
    assert not migrate_python(program(tmp_path, text)).changed


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encoding_and_line_ends_stay(tmp_path: Path, newline: str) -> None:
    lines = ["# -*- coding: latin-1 -*-", "from arrow_quant import ArrowQuant", "x = 'é'", ""]
    path = tmp_path / "program.py"
    path.write_bytes(newline.join(lines).encode("latin-1"))
    migration = migrate_python(path)
    migration.write(path)
    lines[1] = "from arrow_quant_v2 import ArrowQuantV2"
    assert path.read_bytes() == newline.join(lines).encode("latin-1")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "bits: 3\n", "Invalid bit_width: 3. Must be 2, 4, or 8."),
        ("a.yaml", "bits: 4\nbit_width: 4\n", "line 1: 'bits' is the V1 name of 'bit_width'"),
        ("a.yaml", "bits: 4\nsample: 4\n", "Did you mean 'calibration_samples'"),
        ("a.yaml", "strategy: awq\n", "Must be 'r2q' or 'gptq'"),
        ("a.yaml", "", "the file is empty"),
        ("a.py", "x = (\n", "a.py, line 1: not valid Python"),
        ("a.txt", "bits: 4\n", "ends in .yaml, .yml or .py"),
        ("a.py", None, "No such file"),
        ("a.yaml", None, "does not exist"),
    ],
)
def test_a_file_that_cannot_be_migrated_is_an_error(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        migrate_file(tmp_path / name)
    assert message in str(caught.value)


def test_a_yaml_is_never_left_half_written(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(V1_YAML)
    migration = migrate_yaml(tmp_path / "old.yaml")
    with pytest.raises(OutputError, match="cannot be written"):
        migration.write(tmp_path / "absent" / "new.yaml")
    with pytest.raises(ConfigurationError):
        migrate_yaml(tmp_path)


def test_without_libcst_the_message_says_what_to_install(tmp_path: Path) -> None:
    path = program(tmp_path, V1_PROGRAM)
    code = (
        "import sys; sys.modules['libcst'] = None\n"
        "from arrow_quant_v2.cli.main import main\n"
        f"sys.argv = ['arrow-quant', 'migrate', {str(path)!r}]\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'arrow-quant-v2[migrate]'" in done.stderr
