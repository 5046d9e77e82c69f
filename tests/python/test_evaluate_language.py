"""The zoo's text and code models, and what the evaluation says of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support import ZOO_CODE, ZOO_TEXT
from typer.testing import CliRunner

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig
from zoo.corpora import load_held_out_text

transformers = pytest.importorskip("transformers")

from zoo.evaluate.__main__ import app  # noqa: E402
from zoo.evaluate.language import LanguageSubject, parses, token_entropy  # noqa: E402
from zoo.evaluate.loader import load  # noqa: E402
from zoo.evaluate.masking import unmasking_task  # noqa: E402
from zoo.evaluate.measure import Measurement, measure, report  # noqa: E402
from zoo.evaluate.subject import Effort, Setting  # noqa: E402

MODELS = {"text": ZOO_TEXT, "code": ZOO_CODE}
CORPORA = {"text": "english", "code": "python"}
#: Enough items for the loss; samples are not what is asked.
LOSS_ONLY = Setting(Effort(items=40, samples=1, steps=1))
FEW_SAMPLES = Setting(Effort(items=10, samples=10, steps=16))

modalities = pytest.mark.parametrize("modality", ["text", "code"])
Quantized = Callable[[str, int], Path]


def silent(_: str) -> None:
    """Show no progress."""


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    folder = tmp_path_factory.mktemp("language")

    def quantize(modality: str, bits: int) -> Path:
        out = folder / f"{modality}-int{bits}"
        if not out.exists():
            config = DiffusionQuantConfig(
                bit_width=bits, group_size=128, method="rtn", min_accuracy=0, calibration_samples=0
            )
            ArrowQuantV2().quantize_diffusion_model(MODELS[modality], out, config)
        return out

    return quantize


@cache
def reference(modality: str) -> Measurement:
    return measure(load(MODELS[modality]), LOSS_ONLY, silent)


@modalities
def test_the_loss_lies_far_below_the_unigram_entropy_and_is_that_of_the_card(modality: str) -> None:
    card = json.loads((MODELS[modality] / "held_out.json").read_text())
    loss = reference(modality).loss
    assert loss.bin_labels[1] == "30% masked"
    assert card["unigram_entropy"] - card["held_out"][1] > 1.5
    assert min(card["untrained"]) > math.log(2048) - 0.2
    np.testing.assert_allclose(loss.per_bin(), card["held_out"], rtol=0.3)
    assert (np.diff(card["held_out"]) > 0).all()  # the more is hidden, the harder


@modalities
def test_int2_is_measurably_worse(modality: str, quantized: Quantized) -> None:
    int2 = load(quantized(modality, 2))
    found = report(measure(int2, LOSS_ONLY, silent), reference(modality), silent)
    assert found.modality == modality
    assert found.verdict == "worse"
    assert found.difference is not None
    assert found.difference.low > 0.02
    assert found.distances["KL (nats)"] > 0.02
    assert found.distances["top-1 agreement"] < 0.95


@modalities
def test_int8_is_statistically_equal(modality: str, quantized: Quantized) -> None:
    int8 = load(quantized(modality, 8))
    found = report(measure(int8, LOSS_ONLY, silent), reference(modality), silent)
    assert found.verdict == "equal"
    assert found.relative_difference is not None
    assert abs(found.relative_difference.estimate) < 0.002
    assert 0 < found.distances["KL (nats)"] < 0.002
    assert found.distances["top-1 agreement"] > 0.97


@modalities
def test_a_quantized_model_is_called_what_it_is(modality: str, quantized: Quantized) -> None:
    manifest = json.loads((quantized(modality, 2) / "manifest.json").read_text())
    assert manifest["modality"] == modality


@modalities
def test_samples_are_better_than_those_of_int2(
    modality: str, quantized: Quantized, tmp_path: Path
) -> None:
    own, int2 = reference(modality).candidate.subject, load(quantized(modality, 2)).subject
    samples, worse = (subject.generate(FEW_SAMPLES) for subject in (own, int2))
    assert all("[MASK]" not in text for text in samples.texts)
    name = "n-gram perplexity per character"
    found, of_int2 = (own.scores(s, FEW_SAMPLES) for s in (samples, worse))
    assert found[name] < of_int2[name]
    assert found["token entropy (nats)"] > 3
    assert 0 < own.compare_samples(samples, worse)["equal tokens"] < 1
    assert own.compare_samples(samples, samples) == {"equal tokens": 1}
    own.picture(samples, tmp_path / "samples.png")
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")


@modalities
def test_the_tokenizer_keeps_every_character(modality: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS[modality])
    for item in load_held_out_text(CORPORA[modality]).items[:100]:
        ids = tokenizer(item)["input_ids"]
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert tokenizer.decode(ids[1:-1]) == item


def test_every_item_is_masked_in_one_bin_at_its_ratio() -> None:
    subject = LanguageSubject.load(ZOO_TEXT)
    items = subject.items(LOSS_ONLY)
    task = unmasking_task(items, subject.tokenizer, 0)
    assert np.bincount(task.bins).tolist() == [8] * 5
    for rows, batch in task.rounds[2]:
        inner = np.array([len(items[i]) - 2 for i in rows])
        ratios = np.array([0.1, 0.3, 0.5, 0.7, 0.9])[task.bins[rows]]
        assert batch.hidden.sum(dim=1).tolist() == np.ceil(ratios * inner).tolist()
    with pytest.raises(ValueError, match="3 items for 5 mask ratios"):
        unmasking_task(items[:3], subject.tokenizer, 0)


def test_a_model_of_another_vocabulary_is_no_reference() -> None:
    with pytest.raises(ValueError, match="different vocabularies"):
        reference("text").candidate.subject.compare(reference("code").candidate.subject, LOSS_ONLY)


def test_an_image_model_is_no_language_model(tmp_path: Path) -> None:
    config = {"architectures": ["BertForMaskedLM"], "modality": "image"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="modality is 'image'; a language model is measured as"):
        load(tmp_path)


def test_entropy_and_grammar_by_hand() -> None:
    assert token_entropy([[7, 8], [7, 8]]) == pytest.approx(math.log(2))
    assert token_entropy([[7, 7, 7]]) == 0
    assert parses("def f(x):\n    return x")
    assert not parses("def f(x:\n    return x")
    assert not parses("x = '\0'")


def test_the_command_prints_the_same_json_again() -> None:
    printed = CliRunner().invoke(app, [str(ZOO_CODE), "--json", "--smoke"])
    assert printed.exit_code == 0
    again = report(measure(load(ZOO_CODE), Setting(Effort.smoke()), silent))
    assert printed.stdout == again.to_json() + "\n"
    assert again.modality == "code"
    assert set(again.scores) == {
        "n-gram perplexity per character",
        "token entropy (nats)",
        "parsed by ast.parse",
    }
