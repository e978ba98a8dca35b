"""BM25 of passages, and of passages together with those near them: all terms of a query at once.

Robertson et al.; k1 = 1.2, b = 0.75, idf = ln(1 + (N - df + .5) / (df + .5)). Numbers are added up term by term, in the
order of the terms, so that a score does not depend on how many passages are worked on at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np

from memory_service.core.corpus import REACH, Corpus, Floats, Ints

_K1 = 1.2
_B = 0.75
# Of a longer query only the rarest terms are looked at: each takes a pass over the passages that hold it.
_MAX_QUERY_TERMS = 64
# Of so many passages it is worked out at a time what they say of their neighbours.
_AT_ONCE = 16_384
# A passage and those near it.
_SPAN = 2 * REACH + 1


@dataclass(frozen=True, slots=True)
class Found:
    """Which of a query's terms a passage holds, by term and passage, how often, and how many passages hold each term."""

    term: Ints
    document: Ints
    times: Floats
    holders: Ints

    @classmethod
    def of(cls, term: Ints, document: Ints, terms: int) -> Self:
        """Of occurrences, in the same order."""
        other = np.ones(len(term) + 1, dtype=bool)  # than the one before, and the end
        other[1:-1] = (term[1:] != term[:-1]) | (document[1:] != document[:-1])
        ends = np.flatnonzero(other)
        first, times = ends[:-1], (ends[1:] - ends[:-1]).astype(np.float64)
        return cls(term[first], document[first], times, np.bincount(term[first], minlength=terms))

    def telling(self) -> Found:
        """Of the terms that tell most, those that fewest passages hold."""
        if len(self.holders) <= _MAX_QUERY_TERMS:
            return self
        held = np.flatnonzero(self.holders)
        chosen = np.isin(self.term, held[np.argsort(self.holders[held], kind="stable")][:_MAX_QUERY_TERMS])
        return Found(self.term[chosen], self.document[chosen], self.times[chosen], self.holders)

    def parts(self) -> Iterator[Found]:
        """All of it, in parts of whole terms, none much too long."""
        ends = np.cumsum(np.bincount(self.term))
        borders = ends[np.flatnonzero(np.diff(ends // _AT_ONCE))].tolist()
        for start, end in pairwise([0, *borders, len(self.term)]):
            if start < end:
                yield Found(self.term[start:end], self.document[start:end], self.times[start:end], self.holders)

    def idf(self, count: int) -> Floats:
        """Of each term, in `count` passages."""
        idf: Floats = np.log1p((count - self.holders + 0.5) / (self.holders + 0.5))
        return idf


def own(found: Found, corpus: Corpus) -> Floats:
    """BM25 of each passage itself."""
    saturated = _saturated(found.times, _length_factor(corpus.lengths)[found.document])
    weights = found.idf(len(corpus))[found.term] * saturated
    return _added_up(found.document, weights, len(corpus))


def around(found: Found, corpus: Corpus) -> Floats:
    """BM25 of each passage together with those near it."""
    factor, idf = np.ones(len(corpus) + 2 * REACH), found.idf(len(corpus))
    factor[REACH:-REACH] = _length_factor(corpus.near_lengths)
    documents, weights = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for part in found.parts():
        document, sizes, summed = _spread_few(part, corpus.nearness)
        documents.append(document)
        weights.append(np.repeat(idf[part.term], sizes) * _saturated(summed, factor[document]))
    summed_up = _added_up(np.concatenate(documents), np.concatenate(weights), len(factor))
    return summed_up[REACH : len(factor) - REACH]


def _spread_few(found: Found, nearness: Floats) -> tuple[Ints, Ints, Floats]:
    """As `spread`, for each term how often passages hold it: where that leads to (passages are counted from REACH on, as
    it may lead beyond both ends), how much of it each that holds the term added, and the sums.

    What is reached from passages that stand near each other is one stretch, and stands in one piece.
    """
    apart = found.document + 2 * REACH
    apart[1:] -= found.document[:-1] + 2 * REACH
    sizes = np.minimum(apart, _SPAN)
    sizes[0] = _SPAN
    sizes[1:][found.term[1:] != found.term[:-1]] = _SPAN
    ends = np.cumsum(sizes)
    stretches = np.flatnonzero(sizes == _SPAN)
    document = np.ones(ends[-1], dtype=np.int64)
    document[ends[stretches] - _SPAN] = apart[stretches] - 2 * REACH
    itself = ends - 1 - REACH
    places, values = [itself], [found.times]
    for distance, weight in enumerate(nearness, start=1):
        places += [itself + distance, itself - distance]
        # Where nothing is so far on, any weight will do: it leads beyond an end.
        values += [weight[found.document] * found.times, weight[found.document - distance] * found.times]
    summed = _added_up(np.concatenate(places), np.concatenate(values), len(document))
    return np.cumsum(document), sizes, summed


def _added_up(places: Ints, values: Floats, count: int) -> Floats:
    """What all values at each place are together, added in their order."""
    return np.bincount(places, values, minlength=count).astype(np.float64, copy=False)


def _length_factor(lengths: Floats) -> Floats:
    mean = max(float(lengths.mean()), 1.0) if len(lengths) else 1.0
    return _K1 * (1 - _B + _B * lengths / mean)


def _saturated(frequency: Floats, length_factor: Floats) -> Floats:
    saturated: Floats = frequency * (_K1 + 1)
    saturated /= frequency + length_factor
    return saturated
