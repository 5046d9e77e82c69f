"""Settings: every way in, the precedence between them, and what an error says."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest

from arrow_quant_v2 import (
    PROFILES,
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    OutputError,
)

pytestmark = pytest.mark.default_calibration


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_the_defaults_are_those_of_the_contract() -> None:
    config = DiffusionQuantConfig()
    assert (config.bit_width, config.num_time_groups, config.group_size) == (4, 10, 128)
    assert (config.min_accuracy, config.calibration_samples) == (0.85, 128)
    assert config.enable_time_aware
    assert config.enable_spatial
    assert not config.fail_fast
    assert config.num_threads == 0
    assert config.modality is None
    assert config.deployment_profile == "local"


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("edge", (2, 5, 256, 32, 0.65, False)),
        ("local", (4, 10, 128, 128, 0.85, True)),
        ("cloud", (8, 20, 64, 512, 0.95, True)),
    ],
)
def test_profiles_are_those_of_the_contract(profile: str, expected: tuple[Any, ...]) -> None:
    for config in (
        DiffusionQuantConfig.from_profile(profile),
        DiffusionQuantConfig(deployment_profile=profile),
    ):
        assert (
            config.bit_width,
            config.num_time_groups,
            config.group_size,
            config.calibration_samples,
            config.min_accuracy,
            config.enable_spatial,
        ) == expected
        assert config.enable_time_aware
        assert config.deployment_profile == profile


def test_the_message_for_a_wrong_bit_width_is_that_of_the_contract(tmp_path: Path) -> None:
    text = "Invalid bit_width: 3. Must be 2, 4, or 8."
    with pytest.raises(ConfigurationError) as caught:
        DiffusionQuantConfig(bit_width=3)
    assert str(caught.value) == text
    config = DiffusionQuantConfig()
    with pytest.raises(ConfigurationError) as caught:
        config.bit_width = 3
    assert str(caught.value) == text
    assert config.bit_width == 4
    with pytest.raises(ConfigurationError) as caught:
        DiffusionQuantConfig.from_yaml(yaml_file(tmp_path, "group_size: 64\nbit_width: 3\n"))
    assert str(caught.value).splitlines()[0] == text
    assert "config.yaml, line 2" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("bit_width", v) for v in (0, 1, 17, -4, 2**40, "4", 4.0, 4.5, True, None, [4])),
        *(("group_size", v) for v in (0, 3, -1, 12, 2**40, "128")),
        *(("min_accuracy", v) for v in (float("nan"), float("inf"), -0.1, 1.1, "0.9", True)),
        *(("num_threads", v) for v in (-1, 10**6, 1.0)),
        *(("calibration_samples", v) for v in (-1, 1.5)),
        *(("num_time_groups", v) for v in (0, -1)),
        *(("fail_fast", v) for v in (1, 0, "yes", None)),
        *(("modality", v) for v in ("video", 3)),
        *(("deployment_profile", v) for v in ("phone", 1, ["edge"])),
        *(("layer_rules", v) for v in ({"x": 3}, {"": 4}, {"x": True}, ["x=4"], "x=4")),
        *(("components", v) for v in ("unet", [], [1], [""])),
        *(("max_memory_mb", v) for v in (0, 63, -1)),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"Invalid {name}: .*Must be ") as caught:
        DiffusionQuantConfig(**{name: value})
    assert caught.value.code == "configuration"
    config = DiffusionQuantConfig()
    before = getattr(config, name)
    with pytest.raises(ConfigurationError, match=f"Invalid {name}: "):
        setattr(config, name, value)
    assert getattr(config, name) == before


def test_an_unknown_setting_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'bit_width'"):
        DiffusionQuantConfig(bitwidth=4)
    config = DiffusionQuantConfig()
    with pytest.raises(ConfigurationError, match="Did you mean 'group_size'"):
        config.groupsize = 4
    with pytest.raises(ConfigurationError, match="Settings are: bit_width"):
        DiffusionQuantConfig(zzzzz=4)


def test_v1_names_are_answered_with_v2_names(tmp_path: Path) -> None:
    text = "bits: 4\ngroup_size: 128\nsamples: 128\nmin_acc: 0.85\nthreads: 2\nstrategy: r2q\n"
    path = yaml_file(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        DiffusionQuantConfig.from_yaml(path)
    assert caught.value.message == (
        f"{path}: Unknown settings 'bits', 'samples', 'min_acc', 'threads', 'strategy'."
    )
    assert caught.value.hint.splitlines() == [
        "Line 1: 'bits' is a V1 name; V2 calls it bit_width.",
        "Line 3: 'samples' is a V1 name; V2 calls it calibration_samples.",
        "Line 4: 'min_acc' is a V1 name; V2 calls it min_accuracy.",
        "Line 5: 'threads' is a V1 name; V2 calls it num_threads.",
        "Line 6: 'strategy' is a V1 name; V2 calls it method.",
        f"Convert the file with: arrow-quant migrate --write {path}",
    ]
    with pytest.raises(ConfigurationError, match="V2 calls it bit_width"):
        DiffusionQuantConfig(bits=4)


def test_a_v1_dict_is_answered_with_its_v2_spelling() -> None:
    wanted = "DiffusionQuantConfig(bit_width=4, calibration_samples=32)"
    with pytest.raises(ConfigurationError) as caught:
        DiffusionQuantConfig({"bits": 4, "samples": 32})
    assert wanted in caught.value.hint
    with pytest.raises(ConfigurationError) as caught:
        ArrowQuantV2().quantize_diffusion_model("m", "o", {"bits": 4, "samples": 32})
    assert wanted in caught.value.hint
    with pytest.raises(ConfigurationError, match="from_yaml"):
        ArrowQuantV2().quantize_diffusion_model("m", "o", "config.yaml")


def test_the_yaml_of_the_guide_loads(tmp_path: Path) -> None:
    text = (
        "bit_width: 4\nnum_time_groups: 10\ngroup_size: 128\nenable_time_aware: true\n"
        "enable_spatial: true\nmin_accuracy: 0.85\ncalibration_samples: 128\n"
        "deployment_profile: local\n"
    )
    assert DiffusionQuantConfig.from_yaml(yaml_file(tmp_path, text)) == DiffusionQuantConfig()


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    config = DiffusionQuantConfig(
        bit_width=8,
        min_accuracy=0.00001,
        layer_rules={"*.to_q": 8, "out*": "keep", "# odd: [name]": 2},
        components=["unet", "vae"],
        modality="audio",
    )
    config.to_yaml(tmp_path / "out.yaml")
    assert DiffusionQuantConfig.from_yaml(tmp_path / "out.yaml") == config
    with pytest.raises(OutputError, match="cannot be written"):
        config.to_yaml(tmp_path / "absent" / "out.yaml")


def test_precedence_is_argument_environment_file_profile_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = yaml_file(tmp_path, "bit_width: 4\ngroup_size: 64\ndeployment_profile: cloud\n")
    assert DiffusionQuantConfig.from_yaml(path).num_time_groups == 20
    monkeypatch.setenv("ARROW_QUANT_BIT_WIDTH", "2")
    monkeypatch.setenv("ARROW_QUANT_CALIBRATION_SAMPLES", "7")
    config = DiffusionQuantConfig.from_yaml(path)
    assert (config.bit_width, config.group_size, config.num_time_groups) == (2, 64, 20)
    assert config.calibration_samples == 7
    assert DiffusionQuantConfig.from_profile("cloud").bit_width == 2
    assert DiffusionQuantConfig(bit_width=8).bit_width == 8
    config.bit_width = 8
    assert config.bit_width == 8
    explained = config.explain()
    assert explained["bit_width"] == (8, "assignment")
    assert explained["calibration_samples"] == (7, "environment ARROW_QUANT_CALIBRATION_SAMPLES")
    assert explained["group_size"] == (64, f"{path}, line 2")
    assert explained["num_time_groups"] == (20, "profile 'cloud'")
    assert explained["fail_fast"] == (False, "default")
    assert set(explained) == set(DiffusionQuantConfig.model_fields)


@pytest.mark.parametrize(
    ("variable", "field", "text", "value"),
    [
        ("BIT_WIDTH", "bit_width", "8", 8),
        ("NUM_TIME_GROUPS", "num_time_groups", "3", 3),
        ("GROUP_SIZE", "group_size", "64", 64),
        ("MIN_ACCURACY", "min_accuracy", "0.5", 0.5),
        ("FAIL_FAST", "fail_fast", "true", True),
        ("NUM_THREADS", "num_threads", "2", 2),
        ("CALIBRATION_SAMPLES", "calibration_samples", "0", 0),
    ],
)
def test_every_variable_applies_by_itself(
    monkeypatch: pytest.MonkeyPatch, variable: str, field: str, text: str, value: Any
) -> None:
    monkeypatch.setenv(f"ARROW_QUANT_{variable}", text)
    assert getattr(DiffusionQuantConfig(), field) == value


@pytest.mark.parametrize("text", ["abc", "-1", "9999999999", ""])
def test_a_wrong_variable_is_an_error_and_never_a_silent_default(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("ARROW_QUANT_NUM_THREADS", text)
    with pytest.raises(ConfigurationError, match="environment ARROW_QUANT_NUM_THREADS"):
        DiffusionQuantConfig()


def test_v1_variables_warn_and_are_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARROW_QUANT_BITS", "2")
    with pytest.warns(UserWarning, match="Set ARROW_QUANT_BIT_WIDTH instead"):
        config = DiffusionQuantConfig()
    assert config.bit_width == 4


def test_a_misspelt_variable_gets_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARROW_QUANT_BITWIDTH", "2")
    with pytest.warns(UserWarning, match=r"Did you mean ARROW_QUANT_BIT_WIDTH\?") as caught:
        config = DiffusionQuantConfig()
    assert config.bit_width == 4
    assert caught[0].filename == __file__


@pytest.mark.parametrize("text", ["1_0", "٣", "0x10", "1e1", "4.0", "None", "true"])
def test_a_variable_is_read_as_strictly_as_a_file(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("ARROW_QUANT_NUM_THREADS", text)
    with pytest.raises(ConfigurationError, match="Invalid num_threads"):
        DiffusionQuantConfig()


@pytest.mark.parametrize("text", ["yes", "on", "2", ""])
def test_a_flag_is_true_or_false(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ARROW_QUANT_FAIL_FAST", text)
    with pytest.raises(ConfigurationError, match="Invalid fail_fast"):
        DiffusionQuantConfig()


def test_assigning_a_profile_supplies_only_what_nothing_else_set() -> None:
    config = DiffusionQuantConfig(group_size=32)
    config.min_accuracy = 0.5
    config.deployment_profile = "edge"
    assert (config.bit_width, config.group_size, config.min_accuracy) == (2, 32, 0.5)
    assert not config.enable_spatial
    config.deployment_profile = "cloud"
    assert (config.bit_width, config.group_size, config.min_accuracy) == (8, 32, 0.5)
    assert config.enable_spatial


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 4\n",
        "4\n",
        "bit_width: 4\nbit_width: 4\n",
        "bit_width: 4\n---\nbit_width: 4\n",
        "bit_width: &a 4\ngroup_size: *a\n",
        "a: &x [*x]\n",
        "bit_width: !!int 4\n",
        "!!python/object/apply:os.system ['true']\n",
        "bit_width:\n\t- 4\n",
        "bit_width: 017\n",
        "num_threads: 12:30\n",
        "fail_fast: on\n",
        "min_accuracy: .nan\n",
        "min_accuracy: 1e400\n",
        "bit_width: 2020-01-01\n",
        "bit_width: [4]\n",
        "layer_rules: {a: {b: 4}}\n",
        "x: " + "[" * 100_000,
        "? [1, 2]\n: 3\n",
        "bit_width: 4\nbit_widht: 4\n",
    ],
)
def test_the_reader_refuses_what_a_configuration_never_needs(tmp_path: Path, text: str) -> None:
    path = yaml_file(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        DiffusionQuantConfig.from_yaml(path)
    assert "config.yaml" in str(caught.value)


def test_numbers_are_read_by_the_rules_of_yaml_1_2(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "min_accuracy: 1e-2\nnum_threads: +3\n")
    config = DiffusionQuantConfig.from_yaml(path)
    assert (config.min_accuracy, config.num_threads) == (0.01, 3)


def test_unreadable_files_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        DiffusionQuantConfig.from_yaml(tmp_path / "absent.yaml")
    with pytest.raises(ConfigurationError, match="not a regular file"):
        DiffusionQuantConfig.from_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"modality: \xe9\n")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        DiffusionQuantConfig.from_yaml(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigurationError, match="at most"):
        DiffusionQuantConfig.from_yaml(tmp_path / "large.yaml")


def test_copies_and_pickles_keep_values_and_sources() -> None:
    config = DiffusionQuantConfig(bit_width=2, layer_rules={"a": 8})
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config
        assert other.explain() == config.explain()
    assert config != DiffusionQuantConfig()


def test_numpy_integers_are_integers() -> None:
    np = pytest.importorskip("numpy")
    assert DiffusionQuantConfig(bit_width=np.int64(8), min_accuracy=np.float32(0.5)).bit_width == 8


def test_profiles_set_only_fields_that_exist() -> None:
    for values in PROFILES.values():
        assert set(values) <= set(DiffusionQuantConfig.model_fields)


def test_making_a_configuration_warns_about_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DiffusionQuantConfig.from_profile("edge")
