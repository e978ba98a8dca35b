"""The built-in embedder: nothing to download, nothing to configure, fast enough to run while a message is written.

A vector is the sum of two, weighed by the share of letters that each accounts for: the static word-piece vectors of what
is written in Latin script, and the hashed n-grams of what is not. So English is compared by its words, Korean by its
letters, and a mixed text by both. The n-grams are spread over all dimensions, also those of the static vectors: a text has
rarely much of both, what they have in common is chance, and chance shrinks with the number of dimensions.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from memory_service.providers.base import Vectors
from memory_service.providers.embeddings.ngrams import NGRAM_DIMENSIONS, ngrams
from memory_service.providers.embeddings.static import StaticVectors

# How many texts are worked on at a time: bounds memory, and does not change a vector.
_BATCH = 256
# From here on a batch is long enough to keep others waiting.
_INLINE_CHARACTERS = 4_000

Floats = npt.NDArray[np.float64]


class BuiltinEmbedder:
    """An `Embedder`. Loading takes about 50 ms and 20 MB, at first use."""

    # The number changes whenever the vectors do.
    name = "builtin:1"
    dimensions = NGRAM_DIMENSIONS
    inline = True

    def __init__(self) -> None:
        # A message that is written is most often what is asked for next.
        self._newest: tuple[str | None, Vectors] = (None, np.zeros(0, dtype=np.float32))

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        if sum(map(len, texts)) > _INLINE_CHARACTERS:
            return await asyncio.to_thread(self.embed, texts)
        rows = self.embed(texts)
        if len(texts) == 1:
            self._newest = (texts[0], rows[0])
        return rows

    async def embed_query(self, text: str) -> Vectors:
        embedded, vector = self._newest
        if embedded != text:
            vector = (await self.embed_passages([text]))[0]
        return vector

    async def close(self) -> None:
        return None

    def load(self) -> None:
        """Load the vectors now instead of at first use."""
        self.embed(["load"])

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row for each text. The same text gives the same row, whatever stands beside it."""
        rows = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for start in range(0, len(texts), _BATCH):
            batch = [unicodedata.normalize("NFKC", text).lower() for text in texts[start : start + _BATCH]]
            rows[start : start + len(batch)] = self._embed_batch(batch)
        return rows

    def _embed_batch(self, texts: Sequence[str]) -> Floats:
        static = self._static.sums(texts)
        rows = np.zeros((len(texts), self.dimensions))
        rows[:, : static.shape[1]] = _unit(static.astype(np.float64))
        # ASCII has nothing to take n-grams of, and is most of what there is.
        mixed = [number for number, text in enumerate(texts) if not text.isascii()]
        if mixed:
            sums, latin, other = ngrams([texts[number] for number in mixed])
            rows[mixed] = rows[mixed] * np.sqrt(latin)[:, None] + _unit(sums) * np.sqrt(other)[:, None]
        return _unit(rows)

    @cached_property
    def _static(self) -> StaticVectors:
        return StaticVectors()


def _unit(rows: Floats) -> Floats:
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return rows / np.where(lengths > 0, lengths, 1)
