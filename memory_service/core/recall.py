"""Ranking of what the window no longer shows.

The index of a thread is one array of 32-bit numbers: for every passage a header (0, seq, and passage number from 1 with the
role above it), then its terms. What answers a question often stands next to the question's words, so a passage is seen
together with those near it, each weighed by how near it is. BM25 counts terms that way (Robertson et al.; k1 = 1.2,
b = 0.75, idf = ln(1 + (N - df + .5) / (df + .5))), and the similarities of vectors are added up so. The two are fused as a
sum of z-scores, and what stands out by itself counts for more. A message of many passages had many chances that one of
them scores high, and must score as much higher; and a question may ask for what one of the two said. A passage that says
nothing of the question itself never ranks before the neighbour that does, and is shown only beside it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import NamedTuple

import numpy as np

from memory_service.core import whose
from memory_service.core.bm25 import Found, around, own
from memory_service.core.corpus import PASSAGE_BITS, REACH, AnyInts, Bools, Corpus, Floats, Ints, begins, spread
from memory_service.core.terms import passages_of, terms_of

# Standard deviations above the mean from which a passage's own score counts by itself.
_OUTSTANDING = 5
# And from which its similarity speaks for it.
_CLEARLY = 1.5
_FEW_TERMS = 5
# Standard deviations between a role that a question asks for and the other.
_LEANING = 1.0
# Distances by which the best of the two is taken, one after another, to have the best of all within REACH.
_DOUBLING = (1, 2, 4, 1)
_ROLES = np.arange(1 << 31 - PASSAGE_BITS)
# Fused scores are sums of standard deviations: the average passage has 0, and is not relevant.
_RELEVANT_SCORE = 1.0


class Hit(NamedTuple):
    """A passage that a query found. `document` counts passages in index order; `passage` is its number in the message.

    `score` is what it is ranked by, `fused` how much it says of the query, both in standard deviations from the average
    passage. `words` is BM25 of the passage itself, `neighbours` of it together with those near it, `vector` how much more
    its vector is like the query's than like the others. `by_neighbours`: nothing but those near it led to it.
    """

    document: int
    seq: int
    passage: int
    score: float
    fused: float = 0.0
    words: float = 0.0
    neighbours: float = 0.0
    vector: float | None = None
    by_neighbours: bool = False

    @property
    def partners(self) -> frozenset[int]:
        """Documents of which one must be shown beside this one: it says nothing of the query itself, only they do."""
        near = range(self.document - REACH, self.document + REACH + 1)
        return frozenset(near) - {self.document} if self.by_neighbours else frozenset()

    @property
    def why(self) -> dict[str, float | None]:
        """What led to it, as it is shown."""
        return {"words": self.words, "neighbours": self.neighbours, "vector": self.vector}


def index_entry(seq: int, role: str, text: str) -> bytes:
    """The index of one message: its passages' headers and terms as little-endian int32."""
    numbers = array("i")
    for number, passage in enumerate(passages_of(text), start=1):
        numbers.extend((0, seq, whose.code_of(role) << PASSAGE_BITS | number))
        numbers.extend(terms_of(passage))
    return np.asarray(numbers, dtype="<i4").tobytes()


def moved_entry(entry: bytes, seq: int) -> bytes:
    """The entry of the same message at another seq, which is all that differs."""
    numbers = np.frombuffer(entry, dtype="<i4").copy()
    numbers[np.flatnonzero(numbers == 0) + 1] = seq
    return numbers.tobytes()


@dataclass(frozen=True)
class Words:
    """What the words of a query say of each passage of a corpus, in its order.

    `own` is BM25 of the passage itself, `around` of it together with those near it; `asked_for` is 1 where the query asks
    for what its role said, -1 where for what the other did, else 0.
    """

    corpus: Corpus
    asked_for: Ints
    own: Floats
    around: Floats

    def __len__(self) -> int:
        return len(self.corpus)

    @cached_property
    def score(self) -> Floats:
        return _z(self.around) + _outstanding(_z(self.own))

    @cached_property
    def standing(self) -> Floats:
        """What a z-score of each passage is worth beyond what it says."""
        standing = _LEANING / 2 * self.asked_for - self.corpus.chance
        centred: Floats = standing - standing.mean()
        return centred


def rank(index: bytes, query: str, limit: int, similarity: Floats | None = None) -> list[Hit]:
    """The best passages for a query, best first; equal scores by position.

    `similarity` is that of each passage's vector to the query's, without what all have in common (core/similarity.py), in
    index order; NaN where there is none yet. Without it
    only what shares words is found.
    """
    return best(weigh_words(Corpus.of(index), query), limit, similarity)


def weigh_words(corpus: Corpus, query: str) -> Words:
    query_terms = np.asarray(sorted({*terms_of(query)}), dtype=np.int32)
    found = Found.of(*corpus.occurrences(query_terms), len(query_terms))
    asked_for = _asked_for(query, corpus.roles, query_terms, found)
    telling = found.telling()
    return Words(corpus, asked_for, own(telling, corpus), around(telling, corpus))


def _asked_for(query: str, roles: AnyInts, terms: AnyInts, found: Found) -> Ints:
    asked = np.zeros(len(_ROLES), dtype=np.int64)
    for role in (whose.asked_for(query), *_bearers(query, roles, terms, found)):
        if role:
            asked += np.where(role == _ROLES, 1, np.where(_ROLES, -1, 0))
    return np.sign(asked)[roles]


def _bearers(query: str, roles: AnyInts, terms: AnyInts, found: Found) -> Iterator[int]:
    for name in sorted(set(whose.names_in(query))):
        callers = np.bincount(roles[found.document[terms[found.term] == name]], minlength=3)
        yield whose.bearer(int(callers[whose.USER]), int(callers[whose.ASSISTANT]))


def best(
    words: Words,
    limit: int,
    similarity: Floats | None = None,
    *,
    one_a_message: bool = False,
    only_relevant: bool = False,
) -> list[Hit]:
    """As `rank`, of words that were weighed; on request only the best passage of each message, or of the best only what is
    worth showing."""
    scored = _score(words, similarity)
    order = _order(words, scored, limit, one_a_message)
    if only_relevant:  # what a hit says is rounded
        order = order[scored.fused[order] > _RELEVANT_SCORE - 0.01]
    hits = _hits(words, scored, similarity, order)
    return relevant(hits) if only_relevant else hits


def best_documents(words: Words, limit: int, similarity: Floats) -> Ints:
    """Which passages are the best, without saying why."""
    return _order(words, _score(words, similarity), limit, False)


@dataclass(frozen=True, slots=True)
class _Scored:
    """Each passage of a corpus: what it is ranked by, how much it says of the query, and whether by itself."""

    score: Floats
    fused: Floats
    speaks: Bools


def _score(words: Words, similarity: Floats | None) -> _Scored:
    if not len(words):
        return _Scored(words.own, words.own, words.own > 0)
    if similarity is not None and np.isnan(similarity).all():
        similarity = None
    fused, speaks = fuse(words, similarity)
    # It was added up of one or two z-scores.
    score = _behind_partners(fused + (1 if similarity is None else 2) * words.standing, speaks)
    return _Scored(score, fused, speaks)


def _order(words: Words, scored: _Scored, limit: int, one_a_message: bool) -> Ints:
    score, speaks = scored.score, scored.speaks
    found = np.flatnonzero(speaks | (words.around > 0))
    if len(found) > limit and not one_a_message:  # sorting all of a long thread would take longest
        least = np.partition(score[found], len(found) - limit)[len(found) - limit]
        found = found[score[found] >= least]
    order = found[np.lexsort((found, ~speaks[found], -score[found]))]
    if one_a_message:
        message = np.cumsum(begins(words.corpus.seq, words.corpus.passage))
        order = order[np.sort(np.unique(message[order], return_index=True)[1])]
    return order[:limit]


def _hits(words: Words, scored: _Scored, similarity: Floats | None, documents: Ints) -> list[Hit]:
    figures = (scored.score, scored.fused, words.own, words.around)
    alike = np.full(len(documents), np.nan) if similarity is None else similarity[documents]
    columns = (
        documents.tolist(),
        words.corpus.seq[documents].tolist(),
        words.corpus.passage[documents].tolist(),
        *(np.round(column[documents], 4).tolist() for column in figures),
        [None if number != number else number for number in np.round(alike, 4).tolist()],  # NaN differs from itself
        (~scored.speaks[documents]).tolist(),
    )
    return [Hit(*row) for row in zip(*columns, strict=True)]


def relevant(hits: Iterable[Hit]) -> list[Hit]:
    """Those that are worth showing, whatever room there is."""
    return [hit for hit in hits if hit.fused >= _RELEVANT_SCORE]


def fuse(words: Words, similarity: Floats | None) -> tuple[Floats, Bools]:
    """One score for each passage, and whether it speaks for itself: by a word, or by being clearly more alike than most."""
    if similarity is None:
        return words.score, words.own > 0
    alike = _believed(similarity, words.corpus.lengths)
    z = _z(alike)
    speaks = (words.own > 0) | (z > _CLEARLY)
    score = _z(spread(alike, words.corpus.nearness))
    score += _outstanding(z)
    score += words.score
    return score, speaks


def _believed(similarity: Floats, lengths: Floats) -> Floats:
    """Similarities as far as they mean something. A missing one says nothing, and to say "ok" is like everything a bit:
    what a passage of few terms has above the average is believed in part."""
    missing = np.isnan(similarity)
    mean = np.nanmean(similarity) if missing.any() else similarity.mean()
    above: Floats = similarity - mean
    above[missing] = 0
    above *= np.where(above > 0, np.minimum(lengths / _FEW_TERMS, 1), 1)
    above += mean
    return above


def _outstanding(z: Floats) -> Floats:
    """By how much a score stands out beyond what is usual: what nearly repeats the query needs no neighbours."""
    above = z - _OUTSTANDING
    return np.maximum(above, 0, out=above)


def _behind_partners(score: Floats, speaks: Bools) -> Floats:
    """What was found by its neighbours alone scores no more than the best of them that speaks for itself."""
    best_near, wider = np.full(len(score) + 2 * REACH, -np.inf), np.empty(len(score) + 2 * REACH)
    np.copyto(best_near[REACH:-REACH], score, where=speaks)
    for distance in _DOUBLING:
        best_near, wider = np.maximum(best_near[:-distance], best_near[distance:], out=wider[:-distance]), best_near
        wider = wider[: len(best_near)]
    return np.where(speaks, score, np.minimum(score, best_near))


# These work on numbers of every passage: in place where they can, as fresh memory costs more than to compute.
def _z(scores: Floats) -> Floats:
    centred: Floats = scores - scores.mean()
    variance = float(np.square(centred).mean())
    if not variance > 0:
        return np.zeros_like(scores)
    centred /= sqrt(variance)
    return centred
