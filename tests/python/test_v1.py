"""Checklist items 1 (V1 beside V2), 15 and 19: the vocabulary of V1, with the V2 spelling in every
warning.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from support import gaussian

from arrow_quant_v2 import ConfigurationError, open_quantized
from arrow_quant_v2 import QuantizationError as V2QuantizationError
from arrow_quant_v2.v1 import ArrowQuant, QuantizationError


@pytest.fixture
def quantizer() -> ArrowQuant:
    with pytest.warns(DeprecationWarning, match=r"V2: ArrowQuantV2\(mode='diffusion'\)"):
        return ArrowQuant()


def test_no_module_called_arrow_quant_is_installed() -> None:
    files = importlib.metadata.files("arrow-quant-v2") or []
    assert not [file for file in files if file.parts[0].split(".")[0] == "arrow_quant"]
    assert importlib.util.find_spec("arrow_quant") is None


def test_a_v1_call_runs_and_shows_its_v2_spelling(
    quantizer: ArrowQuant, unet: Path, tmp_path: Path
) -> None:
    with pytest.warns(DeprecationWarning, match="is V1") as caught:
        quantizer.quantize(
            model_path=unet,
            output_path=tmp_path / "out",
            config={"bits": 2, "samples": 0, "group_size": 64, "min_acc": 0.5, "threads": 1},
        )
    assert [warning.filename for warning in caught] == [__file__]
    assert str(caught[0].message).endswith(
        "V2: quantize_diffusion_model("
        f"{str(unet)!r}, {str(tmp_path / 'out')!r}, DiffusionQuantConfig(bit_width=2, "
        "calibration_samples=0, group_size=64, min_accuracy=0.5, num_threads=1))"
    )
    config = open_quantized(tmp_path / "out").manifest["config"]
    assert (config["bit_width"], config["group_size"], config["min_accuracy"]) == (2, 64, 0.5)
    assert not config["enable_time_aware"]
    assert config["fail_fast"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("path", "quantized_path"),
        ("compression", "compression_ratio"),
        ("accuracy", "cosine_similarity"),
        ("size", "model_size_mb"),
    ],
)
def test_v1_keys_give_v2_values_and_warn(
    quantizer: ArrowQuant, model: Path, tmp_path: Path, old: str, new: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = quantizer.quantize(model, tmp_path / "out", bits=4)
    with pytest.warns(DeprecationWarning, match=rf"result\['{old}'\] is V1. V2: result\['{new}'\]"):
        value = result[old]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert result[new] == value == result.v2[new]
    assert list(result) == ["path", "compression", "accuracy", "size"]
    assert repr(value) in repr(result)
    with pytest.raises(KeyError, match="the keys are"):
        result["zzz"]


def test_v1_does_not_fall_back_by_itself(
    quantizer: ArrowQuant, model: Path, tmp_path: Path
) -> None:
    assert QuantizationError is V2QuantizationError
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(QuantizationError, match="INT2 reached a cosine"):
            quantizer.quantize(model, tmp_path / "out", {"bits": 2, "min_acc": 0.99})
        assert not (tmp_path / "out").exists()
        result = quantizer.quantize(model, tmp_path / "out", {"bits": 4, "min_acc": 0.99})
    assert result["bit_width"] == 4


@pytest.mark.parametrize("strategy", ["r2q", "gptq"])
def test_item_15_a_v1_strategy_forces_the_method(
    quantizer: ArrowQuant, model: Path, tmp_path: Path, strategy: str
) -> None:
    with pytest.warns(DeprecationWarning, match=f"method='{strategy}'"):
        result = quantizer.quantize(model, tmp_path / "out", strategy=strategy, samples=0)
    assert open_quantized(tmp_path / "out").manifest["config"]["method"] == strategy
    assert any(f"method '{strategy}' needs calibration" in text for text in result["warnings"])


def test_arrays_are_quantized_as_in_base_mode(quantizer: ArrowQuant) -> None:
    weights = gaussian(8, 64)
    with pytest.warns(DeprecationWarning, match=r"\.quantize\(weights, bit_width=8\)"):
        tensor = quantizer.quantize(weights, bits=8)
    assert np.abs(tensor.dequantize() - weights).max() < 0.05


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"bits": 3}, "Invalid bit_width: 3. Must be 2, 4, or 8."),
        ({"bits": 4, "bit_width": 4}, "given twice"),
        ({"strategy": "awq"}, "Must be 'r2q' or 'gptq'"),
        ({"smaples": 4}, "Did you mean 'calibration_samples'"),
        ("config.yaml", "expected a dict as in V1, found str"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrong_settings_are_configuration_errors(
    quantizer: ArrowQuant, model: Path, tmp_path: Path, config: object, text: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        quantizer.quantize(model, tmp_path / "out", config)  # type: ignore[arg-type]
    assert text in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_script_shows_the_warnings_without_asking(model: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "from arrow_quant_v2.v1 import ArrowQuant\n"
        "result = ArrowQuant().quantize('model', 'out', {'bits': 4})\n"
        "print(result['size'])\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "script.py:2: DeprecationWarning: ArrowQuant() is V1" in done.stderr
    assert "script.py:3: DeprecationWarning: result['size'] is V1" in done.stderr
