"""Checklist items 5 and 8: results are mappings with the keys of the contract, made to be read."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest

from arrow_quant_v2 import (
    ArrowQuantV2,
    DiffusionQuantConfig,
    QuantizationResult,
    ValidationResult,
)

CONTRACT = {
    "quantized_path",
    "compression_ratio",
    "cosine_similarity",
    "model_size_mb",
    "modality",
    "bit_width",
    "quantization_time_s",
}
BEYOND = {
    "bits_per_weight",
    "cosine_kind",
    "min_cosine_similarity",
    "worst_layer",
    "output_nmse",
    "meets_min_accuracy",
    "attempts",
    "calibration",
    "modality_reason",
    "strategy",
    "components",
    "total_size_mb",
}
RENAMED = {
    "path": "quantized_path",
    "compression": "compression_ratio",
    "accuracy": "cosine_similarity",
    "size": "model_size_mb",
}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("result") / "out"


@pytest.fixture(scope="module")
def result(unet: Path, output: Path) -> QuantizationResult:
    """A run that missed its accuracy at INT2 and went on to INT4."""
    config = DiffusionQuantConfig(bit_width=2, min_accuracy=0.99, calibration_samples=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = ArrowQuantV2().quantize_diffusion_model(unet, output, config)
    assert str(caught[-1].message) == "INT4 was used instead of INT2"
    return made


@pytest.fixture(scope="module")
def validation(result: QuantizationResult, unet: Path, output: Path) -> ValidationResult:
    return ArrowQuantV2().validate_quality(unet, output)


def test_item_8_a_result_has_the_keys_of_the_contract_and_more(
    result: QuantizationResult, output: Path
) -> None:
    assert set(result) >= CONTRACT | BEYOND
    files = [path.stat().st_size for path in output.rglob("*") if path.is_file()]
    weights = (output / "unet" / "weights.parquet").stat().st_size
    assert result["model_size_mb"] == weights / 1e6
    assert result["total_size_mb"] == sum(files) / 1e6
    assert result["bit_width"] == 4
    assert [attempt["bit_width"] for attempt in result["attempts"]] == [2, 4]
    assert result["attempts"][0]["cosine_similarity"] < 0.99 <= result["cosine_similarity"]
    worst = min(
        (t for t in result.tensors if t.bit_width is not None), key=lambda tensor: tensor.cosine
    )
    assert result["worst_layer"] == worst.name
    assert result["min_cosine_similarity"] == worst.cosine
    assert json.loads(result.json())["attempts"][0]["bit_width"] == 2


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_item_8_a_v1_key_is_a_key_error_that_names_the_v2_key(
    result: QuantizationResult, old: str, new: str
) -> None:
    with pytest.raises(KeyError, match=f"'{old}' is a V1 key; V2 calls it '{new}'"):
        result[old]
    assert old not in result
    with pytest.warns(UserWarning, match=new) as caught:
        assert result.get(old, 7) == 7
    assert caught[0].filename == __file__


def test_a_misspelt_key_gets_the_nearest_one(result: QuantizationResult) -> None:
    with pytest.raises(KeyError, match="did you mean 'cosine_similarity'"):
        result["cosine_similarty"]
    with pytest.raises(KeyError, match="the keys are: quantized_path, "):
        result["zzz"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert result.get("zzz") is None
        assert result.get("bit_width") == 4


def test_results_are_read_only_and_travel(result: QuantizationResult) -> None:
    with pytest.raises(TypeError):
        result["bit_width"] = 2  # type: ignore[index]
    for other in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert dict(other) == dict(result)
        assert other.tensors == result.tensors


def test_the_repr_fits_80_columns_and_tells_the_story(
    result: QuantizationResult, validation: ValidationResult, output: Path
) -> None:
    text = repr(result).replace(str(output), "out")
    assert max(map(len, text.splitlines())) <= 80
    first = text.splitlines()[0]
    ratio = f"{result['compression_ratio']:.2f}"
    assert first.startswith(f"QuantizationResult: INT4, {ratio} times smaller, ")
    assert "(weights)" in first
    assert f"min_cosine_similarity  {result['min_cosine_similarity']:.4f}" in text
    assert f"worst_layer            {result['worst_layer']}" in text
    assert "calibration            none" in text
    first_attempt = result["attempts"][0]["cosine_similarity"]
    assert f"attempts               INT2 {first_attempt:.4f}" in text
    assert "INT4 was used instead of INT2" in text
    assert repr(validation).startswith("ValidationResult: passed (weights)\n")


class Outline(HTMLParser):
    """Checks that tags close in order and collects the text of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_html_is_well_formed_and_shows_the_worst_tensors(
    result: QuantizationResult, validation: ValidationResult
) -> None:
    outline = Outline()
    outline.feed(result._repr_html_())
    assert not outline.open
    assert "min_cosine_similarity" in outline.texts
    assert any("The 10 worst of" in text for text in outline.texts)
    assert f"unet/{result['worst_layer']}" in outline.texts
    validation_html = validation._repr_html_()
    assert "ValidationResult: passed" in validation_html
    assert "<details>" not in validation_html


def test_html_escapes_what_a_file_name_could_smuggle_in() -> None:
    values = {"passed": False, "problems": ["<script>alert(1)</script>"]}
    values |= dict.fromkeys(ValidationResult._shown[1:], "<b>")
    values |= {"level": "outputs", "outputs": []}
    text = ValidationResult(values)._repr_html_()
    assert "<script>" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text
