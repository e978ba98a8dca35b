"""What a prompt needs of a thread, held from one prompt to the next.

Of what the window shows, the messages; of all before, what recall needs: the index, decoded, the vectors, and of the
messages those that it looked at.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from sys import getsizeof
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from memory_service.core.corpus import Bools, Corpus, Floats, Ints
from memory_service.core.messages import Message
from memory_service.core.quoting import Quotable
from memory_service.core.similarity import cosines_by_signs, pack_signs, steady


@dataclass(frozen=True, slots=True)
class HeldVectors:
    """By one embedder, in the order of the corpus: `rows` are the vectors, or their signs alone. `there`: which exist.
    `common` is what they have in common, once it is known."""

    embedder_pk: int
    rows: npt.NDArray[Any]
    there: Bools
    are_signs: bool
    common: npt.NDArray[np.float32] | None = None

    @classmethod
    def of(cls, embedder_pk: int, places: Ints, found: Ints, rows: npt.NDArray[Any], *, are_signs: bool) -> Self:
        """Of the passages at `places`, where `rows` are of those at `found`; both in ascending order."""
        if np.array_equal(places, found):
            return cls(embedder_pk, rows, np.ones(len(places), dtype=bool), are_signs)
        there = np.isin(places, found, assume_unique=True)
        aligned = np.zeros((len(places), rows.shape[1]), dtype=rows.dtype)
        aligned[there] = rows[np.isin(found, places, assume_unique=True)]
        return cls(embedder_pk, aligned, there, are_signs)

    def before(self, end: int) -> HeldVectors:
        """Those of the first passages."""
        common = self.common if steady(end) == steady(len(self.there)) else None
        return replace(self, rows=self.rows[:end], there=self.there[:end], common=common)

    @property
    def complete(self) -> int:
        """How many passages from the first on have one."""
        return len(self.there) if self.there.all() else int(np.argmin(self.there))

    def followed_by(self, more: HeldVectors) -> HeldVectors:
        return replace(
            self,
            rows=np.concatenate([self.rows, more.rows]),
            there=np.concatenate([self.there, more.there]),
        )

    def shares_common(self, earlier: HeldVectors | None) -> bool:
        """Whether what an earlier part of the same had in common is what this would be found to have."""
        if earlier is None or earlier.common is None:
            return False
        if (earlier.embedder_pk, earlier.are_signs) != (self.embedder_pk, self.are_signs):
            return False
        return steady(len(self.there)) == steady(len(earlier.there)) <= earlier.complete

    def asked(self, query: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A query without what these have in common."""
        return query if self.common is None else query - self.common

    def similarity(self, query: npt.NDArray[np.float32]) -> Floats:
        """Dot products with a query, or estimates of them by signs; NaN where there is no vector."""
        if self.are_signs:
            found = cosines_by_signs(self.rows, pack_signs(query), len(query))
        else:  # as Postgres compares half-precision numbers, and in one thread
            found = np.vecdot(self.rows, query.astype(np.float16).astype(np.float32)).astype(np.float64)
        found[~self.there] = np.nan
        return found


@dataclass(frozen=True, slots=True)
class Held:
    """What was read of a thread's messages before `before_seq`, all of it at `edited_version` or later."""

    edited_version: int
    before_seq: int
    corpus: Corpus
    vectors: HeldVectors | None = None

    @property
    def nbytes(self) -> int:
        return self.corpus.nbytes + (self.vectors.rows.nbytes + self.vectors.there.nbytes if self.vectors else 0)

    def before(self, seq: int) -> Held:
        """What of it is before another seq."""
        corpus = self.corpus.before(seq)
        return Held(self.edited_version, seq, corpus, self.vectors and self.vectors.before(len(corpus)))


# Of a message, beside its text: the object and all that it remembers. Of a value in its content: the object and its place.
_MESSAGE_BYTES = 1_500
_VALUE_BYTES = 250


@dataclass(frozen=True, slots=True)
class HeldMessages:
    """All messages of a thread from `first_seq` to `last_seq`, as they are at `edited_version` or later; of deleted ones
    there is nothing. `sizes` are about what each takes, in bytes."""

    edited_version: int
    first_seq: int
    last_seq: int
    messages: tuple[Message, ...] = ()
    sizes: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(self.sizes)

    def followed_by(self, messages: Sequence[Message], sizes: Sequence[int], last_seq: int) -> HeldMessages:
        return replace(self, last_seq=last_seq, messages=(*self.messages, *messages), sizes=(*self.sizes, *sizes))

    def preceded_by(self, messages: Sequence[Message], sizes: Sequence[int], first_seq: int) -> HeldMessages:
        return replace(self, first_seq=first_seq, messages=(*messages, *self.messages), sizes=(*sizes, *self.sizes))

    def before(self, seq: int) -> HeldMessages:
        end = bisect_left(self.messages, seq, key=lambda message: message.seq)
        first_seq = min(self.first_seq, seq)
        return replace(
            self, first_seq=first_seq, last_seq=seq - 1, messages=self.messages[:end], sizes=self.sizes[:end]
        )

    def newest(self, count: int, first_seq: int) -> list[Message]:
        """At most so many of them, and none before a seq."""
        start = bisect_left(self.messages, first_seq, key=lambda message: message.seq)
        return list(self.messages[max(start, len(self.messages) - count) :])

    def within(self, nbytes: int) -> HeldMessages:
        """The newest of them that take no more."""
        if self.nbytes <= nbytes:
            return self
        start, left = len(self.sizes), nbytes
        while start and self.sizes[start - 1] <= left:
            start -= 1
            left -= self.sizes[start]
        first_seq = self.messages[start].seq if start < len(self.messages) else self.last_seq + 1
        return replace(self, first_seq=first_seq, messages=self.messages[start:], sizes=self.sizes[start:])


@dataclass(frozen=True, slots=True)
class HeldQuotables:
    """Messages of a thread that recall looked at, by their seqs, as they are at `edited_version` or later."""

    edited_version: int
    messages: Mapping[int, Quotable]
    nbytes: int = 0

    def and_more(self, read: Mapping[int, Quotable], nbytes: int) -> HeldQuotables:
        """With what was read now; or that alone, or nothing, where it would take more than so many bytes."""
        more = sum([one.nbytes for one in read.values()])
        if self.nbytes + more <= nbytes:
            return HeldQuotables(self.edited_version, {**self.messages, **read}, self.nbytes + more)
        return HeldQuotables(self.edited_version, read, more) if more <= nbytes else self


def size_of(content: str) -> int:
    """About the bytes that a message takes whose content is this JSON: parsed, and its blocks as JSON once more."""
    values = content.count(",") + content.count("{") + content.count("[")
    return _MESSAGE_BYTES + 2 * getsizeof(content) + _VALUE_BYTES * values
