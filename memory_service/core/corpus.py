"""The index of some threads, decoded: all of ranking that does not depend on the query."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

HEADER = 3
PASSAGE_BITS = 24
_PASSAGE_MASK = (1 << PASSAGE_BITS) - 1
# Neighbours on each side that a passage is seen with, and the number of terms over which their weight falls to 1/e.
REACH = 4
_FADE_TERMS = 40

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
AnyInts = npt.NDArray[np.int64] | npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Passages, in the order of the index.

    `numbers` is the index itself, in which passages begin at `starts`. `lengths` are in terms, `near_lengths` those of a
    passage together with those near it, `nearness` is as `_nearness` gives it. `chance`: the greatest of n draws lies
    sqrt(2 ln n) above the mean, about; so much is chance in the best of a message's n passages. `places` in `numbers` are
    in the order of their `low` halves, so that a term is looked up instead of searched for; they may go on behind the end.
    """

    numbers: npt.NDArray[np.int32]
    starts: Ints
    seq: Ints
    passage: Ints
    roles: AnyInts
    lengths: Floats
    near_lengths: Floats
    nearness: Floats
    chance: Floats
    low: npt.NDArray[np.uint16]
    places: npt.NDArray[np.int32]

    @classmethod
    def of(cls, index: bytes) -> Corpus:
        numbers = np.frombuffer(index, dtype="<i4")
        starts = np.flatnonzero(numbers == 0)
        seq, packed = (numbers[starts + 1], numbers[starts + 2]) if len(starts) else (starts, starts)
        passage = packed & _PASSAGE_MASK
        lengths = (np.diff(np.append(starts, len(numbers))) - HEADER).astype(np.float64)
        nearness = _nearness(seq, passage, lengths)
        message = np.cumsum(begins(seq, passage)) - 1
        chance = np.sqrt(2 * np.log(np.bincount(message)[message])) if len(starts) else lengths
        low = numbers.astype(np.uint16)
        places = np.argsort(low, kind="stable")  # by radix: sorting whole numbers takes ten times as long
        return cls(
            numbers,
            starts,
            seq,
            passage,
            packed >> PASSAGE_BITS,
            lengths,
            spread(lengths, nearness),
            nearness,
            chance,
            low[places],
            places.astype(np.int32),
        )

    def __len__(self) -> int:
        return len(self.seq)

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def occurrences(self, terms: npt.NDArray[np.int32]) -> tuple[Ints, Ints]:
        """Where terms occur, as (index of the term, document), in this order; one entry for each occurrence."""
        low = terms.astype(np.uint16)
        first, last = np.searchsorted(self.low, low, "left"), np.searchsorted(self.low, low, "right")
        term = np.repeat(np.arange(len(terms)), counts := last - first)
        # The places of all terms, one after the other: where each begins, less how many came before, and on.
        place = self.places[np.arange(len(term)) + np.repeat(first - (np.cumsum(counts) - counts), counts)]
        if len(self.places) > len(self.numbers):
            there = place < len(self.numbers)
            term, place = term[there], place[there]
        found = self.numbers[place] == terms[term]
        return term[found], np.searchsorted(self.starts, place[found], side="right") - 1

    def before(self, seq: int) -> Corpus:
        """The corpus of one thread up to a message."""
        end = int(np.searchsorted(self.seq, seq))
        if end == len(self):
            return self
        nearness = self.nearness[: max(0, end - 1), :end]
        return Corpus(
            self.numbers[: self.starts[end]],
            self.starts[:end],
            self.seq[:end],
            self.passage[:end],
            self.roles[:end],
            self.lengths[:end],
            spread(self.lengths[:end], nearness),
            nearness,
            self.chance[:end],
            self.low,
            self.places,
        )


def count_documents(index: bytes) -> int:
    """How many passages an index holds."""
    return int(np.count_nonzero(np.frombuffer(index, dtype="<i4") == 0))


def begins(seq: Ints, passage: Ints) -> Bools:
    """Where a message begins: two threads of one message each have the same `seq` side by side."""
    begin: Bools = (np.diff(seq, prepend=0) != 0) | (passage == 1)
    return begin


def _nearness(seq: Ints, passage: Ints, lengths: Floats) -> Floats:
    """How much a passage and the one 1, 2, … places further on count for each other, a row for each distance. What
    stands where there is none so far on counts for nothing.

    Half as much with each place, and no more than fades with the terms between their middles: the turns of a chat are
    seen together, pages of prose are not. Nor are two threads, at whose border `seq` falls or stays for a new message.
    """
    middle = np.cumsum(lengths) - lengths / 2
    rise = np.diff(seq, prepend=0)
    thread = np.cumsum((rise < 0) | ((rise == 0) & (passage == 1)))
    nearness = np.zeros((min(REACH, max(0, len(lengths) - 1)), len(lengths)))
    for places, weight in enumerate(nearness, start=1):
        weight[:-places] = np.minimum(0.5**places, np.exp((middle[:-places] - middle[places:]) / _FADE_TERMS))
        weight[:-places] *= thread[places:] == thread[:-places]
    return nearness


def spread(values: Floats, nearness: Floats) -> Floats:
    """Each value with those near it, weighed by how near they are."""
    summed, part = values.copy(), np.empty(len(values))
    for places, weight in enumerate(nearness, start=1):
        summed[places:] += np.multiply(weight[:-places], values[:-places], out=part[places:])
        summed[:-places] += np.multiply(weight[:-places], values[places:], out=part[places:])
    return summed
