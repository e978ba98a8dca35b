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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from memory_service.core import whose
from memory_service.core.corpus import PASSAGE_BITS, REACH, AnyInts, Bools, Corpus, Floats, Ints, begins, spread
from memory_service.core.terms import passages_of, terms_of

_K1 = 1.2
_B = 0.75
# Of a longer query only the rarest terms are looked at: each takes a pass over the thread.
_MAX_QUERY_TERMS = 64
# Standard deviations above the mean from which a passage's own score counts by itself.
_OUTSTANDING = 5
# And from which its similarity speaks for it.
_CLEARLY = 1.5
_FEW_TERMS = 5
# Standard deviations between a role that a question asks for and the other.
_LEANING = 1.0
# Fused scores are sums of standard deviations: the average passage has 0, and is not relevant.
_RELEVANT_SCORE = 1.0


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that a query found. `document` counts passages in index order; `passage` is its number in the message.

    `score` is what it is ranked by, `fused` how much it says of the query, both in standard deviations from the average
    passage. `words` is BM25 of the passage itself, `neighbours` of it together with those near it,
    `vector` the cosine of its vector and the query's. `by_neighbours`: nothing but those near it led to it.
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


def pick(passages: Sequence[str], number: int) -> tuple[str, bool]:
    """A passage of a message (from 1), and whether it is only a part of it."""
    # The message may have been edited since it was ranked; then its end is as good as any part.
    return (passages[min(number, len(passages)) - 1] if passages else ""), len(passages) > 1


@dataclass(frozen=True, slots=True)
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


def rank(index: bytes, query: str, limit: int, similarity: Floats | None = None) -> list[Hit]:
    """The best passages for a query, best first; equal scores by position.

    `similarity` is that of each passage's vector to the query's, in index order; NaN where there is none yet. Without it
    only what shares words is found.
    """
    return best(weigh_words(Corpus.of(index), query), limit, similarity)


def weigh_words(corpus: Corpus, query: str) -> Words:
    query_terms = np.unique(np.asarray(terms_of(query), dtype=np.int32))
    term, document = corpus.occurrences(query_terms)
    asked_for = _asked_for(query, corpus.roles, query_terms[term], document)
    return Words(corpus, asked_for, *_bm25(term, document, corpus))


def _asked_for(query: str, roles: AnyInts, term: AnyInts, document: Ints) -> Ints:
    asked = np.zeros(len(roles), dtype=np.int64)
    for role in (whose.asked_for(query), *_bearers(query, roles, term, document)):
        if role:
            asked += np.where(roles == role, 1, np.where(roles, -1, 0))
    return np.sign(asked)


def _bearers(query: str, roles: AnyInts, term: AnyInts, document: Ints) -> Iterator[int]:
    for name in sorted(set(whose.names_in(query))):
        callers = np.bincount(roles[np.unique(document[term == name])], minlength=3)
        yield whose.bearer(int(callers[whose.USER]), int(callers[whose.ASSISTANT]))


def best(words: Words, limit: int, similarity: Floats | None = None, *, one_a_message: bool = False) -> list[Hit]:
    """As `rank`, of words that were weighed; on request only the best passage of each message."""
    scored = _score(words, similarity)
    return [_hit(words, scored, similarity, int(d)) for d in _order(words, scored, limit, one_a_message)]


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
    score = _behind_partners(fused + (1 if similarity is None else 2) * _standing(words), speaks)
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


def _hit(words: Words, scored: _Scored, similarity: Floats | None, document: int) -> Hit:
    alike = None if similarity is None or np.isnan(similarity[document]) else round(float(similarity[document]), 4)
    return Hit(
        document=document,
        seq=int(words.corpus.seq[document]),
        passage=int(words.corpus.passage[document]),
        score=round(float(scored.score[document]), 4),
        fused=round(float(scored.fused[document]), 4),
        words=round(float(words.own[document]), 4),
        neighbours=round(float(words.around[document]), 4),
        vector=alike,
        by_neighbours=not scored.speaks[document],
    )


def relevant(hits: Iterable[Hit]) -> list[Hit]:
    """Those that are worth showing, whatever room there is."""
    return [hit for hit in hits if hit.fused >= _RELEVANT_SCORE]


def fuse(words: Words, similarity: Floats | None) -> tuple[Floats, Bools]:
    """One score for each passage, and whether it speaks for itself: by a word, or by being clearly more alike than most."""
    score = _z(words.around) + _outstanding(words.own)
    speaks = words.own > 0
    if similarity is not None:
        alike = _believed(similarity, words.corpus.lengths)
        score += _z(spread(alike, words.corpus.nearness)) + _outstanding(alike)
        speaks = speaks | (_z(alike) > _CLEARLY)
    return score, speaks


def _standing(words: Words) -> Floats:
    """What a z-score of each passage is worth beyond what it says."""
    standing = _LEANING / 2 * words.asked_for - words.corpus.chance
    centred: Floats = standing - standing.mean()
    return centred


def _believed(similarity: Floats, lengths: Floats) -> Floats:
    """Similarities as far as they mean something. A missing one says nothing, and to say "ok" is like everything a bit:
    what a passage of few terms has above the average is believed in part."""
    mean = np.nanmean(similarity)
    above = np.where(np.isnan(similarity), 0, similarity - mean)
    believed: Floats = mean + np.where(above > 0, above * np.minimum(lengths / _FEW_TERMS, 1), above)
    return believed


def _outstanding(scores: Floats) -> Floats:
    """By how much a score stands out beyond what is usual: what nearly repeats the query needs no neighbours."""
    return np.maximum(_z(scores) - _OUTSTANDING, 0)


def _behind_partners(score: Floats, speaks: Bools) -> Floats:
    """What was found by its neighbours alone scores no more than the best of them that speaks for itself."""
    speakers = np.where(speaks, score, -np.inf)
    best_near = speakers.copy()
    for distance in range(1, min(REACH, len(score) - 1) + 1):
        np.maximum(best_near[distance:], speakers[:-distance], out=best_near[distance:])
        np.maximum(best_near[:-distance], speakers[distance:], out=best_near[:-distance])
    return np.where(speaks, score, np.minimum(score, best_near))


def _bm25(term: Ints, document: Ints, corpus: Corpus) -> tuple[Floats, Floats]:
    """BM25 of each passage itself, and of it together with those near it."""
    count = len(corpus)
    own, around = np.zeros(count), np.zeros(count)
    own_factor, around_factor = _length_factor(corpus.lengths), _length_factor(corpus.near_lengths)
    sums = np.zeros(count)
    for number, holders in _telling(term, document, count):
        places, times = np.unique(document[term == number], return_counts=True)
        idf = np.log1p((count - holders + 0.5) / (holders + 0.5))
        own[places] += idf * _saturated(times.astype(np.float64), own_factor[places])
        near = _spread_few(sums, places, times.astype(np.float64), corpus.nearness)
        around[near] += idf * _saturated(sums[near], around_factor[near])
        sums[near] = 0
    return own, around


def _telling(term: Ints, document: Ints, count: int) -> list[tuple[int, int]]:
    """The terms that tell most, those which fewest passages hold, with the number of passages that do."""
    holders = np.bincount(np.unique(term * count + document) // count) if len(term) else term
    held = np.flatnonzero(holders)
    rarest = held[np.argsort(holders[held], kind="stable")][:_MAX_QUERY_TERMS]
    return [(int(number), int(holders[number])) for number in np.sort(rarest)]


def _length_factor(lengths: Floats) -> Floats:
    mean = max(float(lengths.mean()), 1.0) if len(lengths) else 1.0
    return _K1 * (1 - _B + _B * lengths / mean)


def _saturated(frequency: Floats, length_factor: Floats) -> Floats:
    return frequency * (_K1 + 1) / (frequency + length_factor)


def _spread_few(zeros: Floats, places: Ints, values: Floats, nearness: Sequence[Floats]) -> Ints:
    """As `_spread`, of values that are nought but at a few places, written into zeros; returns where it is not nought."""
    zeros[places] = values
    for distance, weight in enumerate(nearness, start=1):
        has_next, has_before = places < len(zeros) - distance, places >= distance
        behind, before = places[has_next], places[has_before] - distance
        zeros[behind + distance] += weight[behind] * values[has_next]
        zeros[before] += weight[before] * values[has_before]
    return np.flatnonzero(zeros != 0)  # to look for true is six times as fast as to look for numbers


def _z(scores: Floats) -> Floats:
    spread = float(scores.std())
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores)
