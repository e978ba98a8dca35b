"""What recall needs of a thread, held from one prompt to the next: its index, decoded, and its vectors.

Nothing of it is text: what is shown is read from the messages themselves each time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from memory_service.core.corpus import Bools, Corpus, Floats, Ints
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
        return replace(self, rows=self.rows[:end], there=self.there[:end], common=None)

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
        corpus = self.corpus.before(seq)
        return Held(self.edited_version, seq, corpus, self.vectors and self.vectors.before(len(corpus)))
