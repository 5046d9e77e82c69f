"""Text and code: masked diffusion language models that ``AutoModelForMaskedLM`` loads."""

from __future__ import annotations

import ast
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.corpora import load_held_out_text
from zoo.evaluate.masking import UnmaskingTask, unmasking_task
from zoo.evaluate.subject import HeldOutLoss, Setting, Subject
from zoo.ngram import load_ngram_judge
from zoo.unmasking import save_panel, unmask

#: What a model is measured on, by its ``modality`` in config.json.
CORPORA = {"text": "english", "code": "python"}
SHOWN = 12


@dataclass(frozen=True)
class Texts:
    """Samples: their tokens, and what these spell."""

    tokens: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]


class LanguageSubject(Subject):
    """A masked language model with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, modality: str) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.modality = modality

    @classmethod
    def load(cls, directory: Path) -> LanguageSubject:
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        config = json.loads((directory / "config.json").read_bytes())
        modality = config.get("modality", "text")
        if modality not in CORPORA:
            raise ValueError(
                f"{directory / 'config.json'}: modality is {modality!r}; a language model is "
                f"measured as one of {sorted(CORPORA)}"
            )
        place = {"pretrained_model_name_or_path": str(directory), "local_files_only": True}
        tokenizer: Any = AutoTokenizer.from_pretrained(**place)
        # Eager attention: on sequences this short far faster than sdpa on a CPU.
        model: Any = AutoModelForMaskedLM.from_pretrained(**place, attn_implementation="eager")
        return cls(model.float().eval(), tokenizer, modality)

    def items(self, setting: Setting) -> list[list[int]]:
        """Held-out items with their boundaries, of a length that the model takes."""
        texts = load_held_out_text(CORPORA[self.modality]).items
        tokens = self.tokenizer(list(texts), verbose=False)["input_ids"]
        longest = self.model.config.max_position_embeddings
        return [item for item in tokens if len(item) <= longest][: setting.effort.items]

    def task(self, setting: Setting) -> UnmaskingTask:
        """Held-out items with fixed masks."""
        return unmasking_task(self.items(setting), self.tokenizer, setting.seed)

    def loss(self, setting: Setting) -> HeldOutLoss:
        return self.task(setting).loss(self.model)

    def generate(self, setting: Setting) -> Texts:
        """Items as long as held-out items are."""
        items = self.items(setting)
        lengths = [len(items[i % len(items)]) - 2 for i in range(setting.effort.samples)]
        found = unmask(
            self.model, self.tokenizer, lengths, steps=setting.effort.steps, seed=setting.seed
        )
        texts = self.tokenizer.batch_decode(found)
        return Texts(tuple(map(tuple, found)), tuple(texts))

    def scores(self, samples: Texts, setting: Setting) -> dict[str, float]:
        judge = load_ngram_judge(CORPORA[self.modality])
        found = {
            "n-gram perplexity per character": judge.perplexity(samples.texts),
            "token entropy (nats)": token_entropy(samples.tokens),
        }
        if self.modality == "code":
            found["parsed by ast.parse"] = float(np.mean([parses(s) for s in samples.texts]))
        return found

    def compare(self, reference: Any, setting: Setting) -> dict[str, float]:
        if self.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
            raise ValueError(
                "the model and its reference have different vocabularies, so their losses per "
                "token cannot be compared. Pass the model that it was made from."
            )
        return self.task(setting).distances(self.model, reference.model)

    def compare_samples(self, samples: Texts, reference_samples: Texts) -> dict[str, float]:
        pairs = zip(samples.tokens, reference_samples.tokens, strict=True)
        same = [a == b for own, other in pairs for a, b in zip(own, other, strict=True)]
        return {"equal tokens": float(np.mean(same))}

    def picture(self, samples: Texts, path: Path) -> None:
        save_panel(samples.texts[:SHOWN], path)


def token_entropy(items: Sequence[Sequence[int]]) -> float:
    """Entropy in nats of the frequencies of tokens: low if the same ones come again and again."""
    counts = np.array(list(Counter(t for item in items for t in item).values()), float)
    frequencies = counts / counts.sum()
    return float(-(frequencies * np.log(frequencies)).sum())


def parses(source: str) -> bool:
    """Whether Python's grammar takes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes and comparisons that look wrong
        try:
            ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True
