"""``arrow-quant config``: the settings of a run, and where each value comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import arrow_quant
from test_cli import on_terminal

from arrow_quant_v2 import DiffusionQuantConfig

pytestmark = pytest.mark.default_calibration


def test_explain_says_where_each_value_comes_from(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("bit_width: 4\ngroup_size: 64\ndeployment_profile: cloud\n")
    run = arrow_quant(
        "config",
        *("--explain", "--config", "c.yaml", "--threads", "2", "--set", "enable_spatial=false"),
        env={"ARROW_QUANT_BIT_WIDTH": "2"},
        cwd=tmp_path,
    )
    assert run.code == 0, run.err
    lines = run.out.partition("\n\n")[0].splitlines()[1:]
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines}
    assert rows["bit_width"] == ["2", "environment ARROW_QUANT_BIT_WIDTH"]
    assert rows["group_size"] == ["64", "c.yaml, line 2"]
    assert rows["num_time_groups"] == ["20", "profile 'cloud'"]
    assert rows["num_threads"] == ["2", "argument"]
    assert rows["enable_spatial"] == ["false", "argument"]
    assert rows["fail_fast"] == ["false", "default"]
    assert rows["validation_thresholds"] == ["default"]
    assert rows["int4"] == ["0.9"]
    assert set(DiffusionQuantConfig.model_fields) <= set(rows)


def test_what_config_prints_is_a_configuration_file(tmp_path: Path) -> None:
    run = arrow_quant("config", "--profile", "edge", "--layer-rule", "*.to_q=8")
    (tmp_path / "c.yaml").write_text(run.out)
    wanted = DiffusionQuantConfig(deployment_profile="edge", layer_rules={"*.to_q": 8})
    assert DiffusionQuantConfig.from_yaml(tmp_path / "c.yaml") == wanted
    as_json = arrow_quant("config", "--config", "c.yaml", "--explain", "--json", cwd=tmp_path)
    assert as_json.json["bit_width"] == {"value": 2, "source": "c.yaml, line 1"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--set", "calib_samples=3"], "Did you mean 'calibration_samples'"),
        (["--set", "calibration_samples=many"], "Invalid calibration_samples: 'many'"),
        (["--set", "calibration_samples"], "Must be NAME=VALUE"),
        (["--set", "bit_width=2", "--bit-width", "4"], "its own option and by --set"),
        (["--set", "num_threads=2", "--set", "num_threads=2"], "twice"),
        (["--config", "absent.yaml"], "absent.yaml: the configuration file does not exist"),
        (["--config", "confg.yaml"], "hint: Did you mean 'config.yaml'?"),
        (["--config", "config.yaml"], "Settings have no sections: write what is under 'quant'"),
        (["--config", "tabs.yaml"], "hint: Write spaces instead of tabs."),
        (["--set", "profile=edge"], "Did you mean 'deployment_profile' instead of 'profile'?"),
    ],
)
def test_a_wrong_setting_exits_with_2(arguments: list[str], text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("quant:\n  bit_width: 4\n")
    (tmp_path / "tabs.yaml").write_text("bit_width:\t4\n")
    run = arrow_quant("config", *arguments, cwd=tmp_path)
    assert run.code == 2
    assert text in run.err
    assert run.out == ""


def test_the_explanation_fits_80_columns() -> None:
    code, text = on_terminal("config", "--explain")
    assert code == 0
    assert max(map(len, text.splitlines())) <= 80
    assert "bit_width              4" in text, "a setting, its value and its source in one line"
