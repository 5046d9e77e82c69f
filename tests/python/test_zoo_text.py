"""The corpora, the masks, the judge and the sampler of the language models."""

from __future__ import annotations

import ast
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from zoo.corpora import LONGEST, load_corpus, load_held_out_text  # noqa: E402
from zoo.masking import IGNORED, mask_items  # noqa: E402
from zoo.ngram import NgramJudge, load_ngram_judge  # noqa: E402
from zoo.unmasking import save_panel, unmask  # noqa: E402

TOKENIZER = SimpleNamespace(
    pad_token_id=0, mask_token_id=1, bos_token_id=2, eos_token_id=3, all_special_ids=[0, 1, 2, 3]
)


def test_a_corpus_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no corpus 'latin'; there are"):
        load_held_out_text("latin")


def test_held_out_functions_are_python() -> None:
    text = load_held_out_text("python")
    assert len(text.items) == 600
    for source in text.items + text.judge:
        assert isinstance(ast.parse(source).body[0], ast.FunctionDef | ast.AsyncFunctionDef)
        assert len(source) <= LONGEST["python"]


def test_held_out_verse_is_english_and_the_judge_reads_other_verses() -> None:
    text = load_held_out_text("english")
    assert len(text.items) == 600
    assert not set(text.items) & set(text.judge)
    words = " ".join(text.items).lower().split()
    assert 0.05 < words.count("the") / len(words) < 0.12


@pytest.mark.skipif(shutil.which("bible") is None, reason="bible-kjv is not installed")
def test_no_held_out_verse_was_trained_on() -> None:
    corpus, stored = load_corpus("english"), load_held_out_text("english")
    assert (corpus.held_out, corpus.judge) == (stored.items, stored.judge)
    trained = "\n".join(corpus.train).split("\n")
    held_out = "\n".join(stored.items).split("\n")
    # The Bible repeats itself here and there, from one chapter to another.
    assert len(set(trained) & set(held_out)) / len(set(held_out)) < 0.02


def test_masks_hide_the_ratio_and_spare_the_boundaries() -> None:
    items = [[2, *range(10, 30), 3], [2, 10, 11, 12, 3]]
    batch = mask_items(items, np.array([0.3, 0.1]), TOKENIZER, np.random.default_rng(0))
    assert batch.hidden.sum(dim=1).tolist() == [6, 1]
    assert (batch.tokens[:, 0] == 2).all()
    assert batch.tokens[1, 4:6].tolist() == [3, 0]
    assert batch.present.sum(dim=1).tolist() == [22, 5]
    whole = torch.where(batch.hidden, batch.targets, batch.tokens)
    assert whole[0].tolist() == items[0]
    assert (batch.targets[batch.tokens != 1] == IGNORED).all()


def test_the_judge_agrees_with_witten_and_bell_by_hand() -> None:
    judge = NgramJudge(["ab"], order=2)
    # After "a" came one "b": (1 + 1 * p(b)) / (1 + 1); p(b) = (1 + 3 / 256) / (3 + 3).
    assert judge.probability("b", "a") == pytest.approx((1 + (1 + 3 / 256) / 6) / 2)
    assert judge.probability("z", "z") == pytest.approx((3 / 256) / 6)
    events = [judge.probability(*e) for e in (("a", "\x02"), ("b", "a"), ("\x03", "b"))]
    assert judge.perplexity(["ab"]) == pytest.approx(math.prod(events) ** (-1 / 3))
    alphabet = [chr(i) for i in range(256)]
    assert sum(judge.probability(c, "a") for c in alphabet) == pytest.approx(1)
    with pytest.raises(ValueError, match="no text to judge"):
        judge.perplexity([])


@pytest.mark.parametrize("corpus", ["english", "python"])
def test_the_judge_tells_real_text_from_shuffled_words(corpus: str) -> None:
    judge, items = load_ngram_judge(corpus), load_held_out_text(corpus).items[:60]
    rng = np.random.default_rng(0)
    shuffled = [" ".join(rng.permutation(item.split())) for item in items]
    letters = ["".join(rng.permutation(list(item))) for item in items]
    found = [judge.perplexity(texts) for texts in (items, shuffled, letters)]
    assert found[0] < 9
    assert found[0] * 1.3 < found[1]
    assert found[1] * 1.5 < found[2]


class KnowsTheAnswer:
    """Stands for a network whose answer is known: token 4 + position."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.seen: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        self.seen.append(input_ids)
        rows, width = input_ids.shape
        logits = torch.zeros(rows, width, self.vocabulary)
        position = torch.arange(width)
        logits[:, position, 4 + position] = 30.0
        return SimpleNamespace(logits=logits)


def test_unmasking_reveals_evenly_between_the_boundaries_and_ends_with_no_mask() -> None:
    model = KnowsTheAnswer(40)
    found = unmask(model, TOKENIZER, [6, 3], steps=3, seed=0)
    assert found == [[5, 6, 7, 8, 9, 10], [5, 6, 7]]
    left = [(tokens == 1).sum(dim=1).tolist() for tokens in model.seen]
    assert left == [[3, 6], [2, 4], [1, 2]]  # the shorter one first
    assert model.seen[0].tolist() == [[2, 1, 1, 1, 3, 0, 0, 0], [2, 1, 1, 1, 1, 1, 1, 3]]


def test_more_steps_than_tokens_are_no_harm() -> None:
    assert unmask(KnowsTheAnswer(40), TOKENIZER, [2], steps=9, seed=0) == [[5, 6]]


def test_tokens_are_drawn_by_their_probabilities_and_never_are_special_ones() -> None:
    class KnowsOdds:
        def __call__(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor
        ) -> SimpleNamespace:
            odds = torch.tensor([1e9, 1e9, 1e9, 1e9, 1.0, 3.0])
            return SimpleNamespace(logits=odds.log().repeat(*input_ids.shape, 1))

    found = np.array(unmask(KnowsOdds(), TOKENIZER, [100] * 40, steps=1, seed=0, temperature=1))
    assert set(found.flat) == {4, 5}
    assert (found == 5).mean() == pytest.approx(0.75, abs=0.02)
    again = np.array(unmask(KnowsOdds(), TOKENIZER, [100] * 40, steps=1, seed=1, temperature=1))
    assert (found != again).any()


def test_a_panel_shows_every_sample(tmp_path: Path) -> None:
    from PIL import Image

    save_panel(
        ["one line", "def f():\n    return '" + "x" * 300 + "'", "\u2026"], tmp_path / "a.png"
    )
    save_panel(["one line"], tmp_path / "b.png")
    tall, flat = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert tall.shape[0] > 2 * flat.shape[0]
    assert tall.shape[1] == flat.shape[1]
    assert (tall < 128).sum() > 5 * (flat < 128).sum()
