"""A small embedder: every word has a direction of its own. It can be slow, far away or out of order, as real ones are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np

from memory_service.core.similarity import common_of
from memory_service.core.terms import terms_of
from memory_service.providers.base import Vectors


@dataclass
class HashingEmbedder:
    """`embedded` is what it was given. `before` runs before a batch is embedded, and may refuse it or wait."""

    name: str = "hashing:1"
    dimensions: int = 384
    inline: bool = False
    before: Callable[[Sequence[str]], Awaitable[None]] | None = None
    embedded: list[str] = field(default_factory=list)
    asked: int = 0

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        self.asked += 1
        if self.before:
            await self.before(texts)
        self.embedded += texts
        return self.rows(texts)

    async def embed_query(self, text: str) -> Vectors:
        if self.before:
            await self.before([text])
        row: Vectors = self.rows([text])[0]
        return row

    async def close(self) -> None:
        await asyncio.sleep(0)

    def rows(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for term in terms_of(text):
                row += self._direction(term)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        unit: Vectors = rows / np.where(lengths > 0, lengths, 1)
        return unit

    def _direction(self, term: int) -> Vectors:
        seed = crc32(f"{self.name} {term}".encode())
        return np.random.default_rng(seed).standard_normal(self.dimensions).astype(np.float32)


def likeness(embedder: HashingEmbedder, query: str, texts: Sequence[str], number: int) -> float:
    """Of one of the texts to a query, beyond what all texts have in common."""
    rows = embedder.rows(texts)
    return float((embedder.rows([query])[0] - common_of(rows)) @ rows[number])
