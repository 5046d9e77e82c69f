"""A judge of text that shares nothing with the models: an n-gram model of characters.

It reads text that no model of the zoo was trained on. Probabilities of ever longer contexts are
interpolated by the method of Witten and Bell (1991), estimate C, as Chen and Goodman ("An Empirical
Study of Smoothing Techniques for Language Modeling", 1999, equation 13) write it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache

from zoo.corpora import load_held_out_text

ORDER = 6
#: Characters that have an even chance before anything is known: those of Latin-1.
ALPHABET = 256
BEGIN, END = "\x02", "\x03"


class NgramJudge:
    """Probabilities of a character after the ORDER - 1 before it."""

    def __init__(self, items: Iterable[str], order: int = ORDER) -> None:
        self.order = order
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for item in items:
            for context, character in self._events(item):
                for start in range(len(context) + 1):
                    self.counts[context[start:]][character] += 1
        self.totals = {context: counts.total() for context, counts in self.counts.items()}

    def probability(self, character: str, context: str) -> float:
        """Of ``character`` after ``context``, which may be of any length."""
        found = 1 / ALPHABET
        context = context[-(self.order - 1) :]
        for start in range(len(context), -1, -1):
            counts = self.counts.get(context[start:])
            if counts is None:
                break
            kinds = len(counts)
            found = (counts[character] + kinds * found) / (self.totals[context[start:]] + kinds)
        return found

    def perplexity(self, items: Iterable[str]) -> float:
        """Of a character of ``items``, their ends counted: 1 if all of them were foreseen.

        Raises
        ------
        ValueError
            There are no items.
        """
        events = [event for item in items for event in self._events(item)]
        if not events:
            raise ValueError("no text to judge; give at least one item")
        nats = sum(-math.log(self.probability(c, context)) for context, c in events)
        return math.exp(nats / len(events))

    def _events(self, item: str) -> Iterable[tuple[str, str]]:
        """Each character and the end, after what comes before."""
        before = self.order - 1
        text = BEGIN * before + item + END
        return ((text[i - before : i], text[i]) for i in range(before, len(text)))


@cache
def load_ngram_judge(corpus: str) -> NgramJudge:
    """Read the judge's text of a corpus; a second."""
    return NgramJudge(load_held_out_text(corpus).judge)
