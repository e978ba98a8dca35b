"""When a message that answers a question counts as found among what a prompt shows.

The rule stands before any measurement: half of the message is there or, of one above 200 tokens, its passage with the most
words of the answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bench.corpora import Corpus, Question
from memory_service.core.terms import terms_of
from memory_service.providers.tokenizers import O200kCounter

_LONG_TOKENS = 200
#: The passages of all messages: (message from 0, text).
Passages = Sequence[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Gold:
    """A message that answers: its passages and, when it is long, the one that does."""

    own: frozenset[int]
    decisive: int | None

    def is_found(self, passages: Passages, shown: Collection[int]) -> bool:
        """`shown` are places in `passages`."""
        held = sum(len(passages[at][1]) for at in self.own if at in shown)
        whole = sum(len(passages[at][1]) for at in self.own)
        return (self.decisive is not None and self.decisive in shown) or 2 * held >= whole > 0


def gold_of(corpus: Corpus, passages: Passages, question: Question, counter: O200kCounter) -> list[Gold]:
    answer = set(terms_of(question.answer))
    found = []
    for message in sorted(question.gold):
        own = [at for at, (holder, _) in enumerate(passages) if holder == message]
        counts = counter.count(corpus.texts[message])
        is_long = counts.latin + counts.other > _LONG_TOKENS
        best = max(own, key=lambda at: len(answer & set(terms_of(passages[at][1]))), default=None)
        found.append(Gold(frozenset(own), best if is_long else None))
    return found


def share_found(gold: Sequence[Gold], passages: Passages, shown: Collection[int]) -> float:
    return sum(one.is_found(passages, shown) for one in gold) / len(gold)
