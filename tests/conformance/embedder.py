"""What holds for every embedder. A subclass names one by its fixture `spec`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np
import pytest

from memory_service.providers.base import Embedder, Vectors
from memory_service.providers.embeddings.registry import EmbedderAccess, EmbedderSpec, open_embedder, probe

T = TypeVar("T")
# A query waits as long as a busy machine takes.
PATIENT = EmbedderAccess(query_timeout_seconds=60)
TEXTS = [
    "The ferry to the island leaves at nine from pier five.",
    "Miso is our cat; she sleeps on the radiator.",
    "5번 선착장에서 배가 떠나요.",
    "x",
    "🙂 \x01 \t newline\n",
]


def run(
    spec: EmbedderSpec,
    body: Callable[[Embedder], Awaitable[T]],
    access: EmbedderAccess = PATIENT,
    dimensions: int | None = None,
) -> T:
    """Open it, use it, close it."""

    async def opened() -> T:
        embedder = await open_embedder(spec, access, dimensions=dimensions)
        try:
            return await body(embedder)
        finally:
            await embedder.close()

    return asyncio.run(opened())


def passages(spec: EmbedderSpec, texts: list[str]) -> Vectors:
    return run(spec, lambda embedder: embedder.embed_passages(texts))


def assert_same(one: Vectors, other: Vectors) -> None:
    """Up to what a batch of another size changes in the last digits."""
    assert one.shape == other.shape
    assert np.abs(one - other).max(initial=0.0) < 1e-3


class EmbedderConformance:
    def test_it_is_called_what_its_spec_is_called(self, spec: EmbedderSpec) -> None:
        async def look(embedder: Embedder) -> tuple[str, int, bool]:
            return embedder.name, embedder.dimensions, embedder.inline

        name, dimensions, inline = run(spec, look)
        assert name == spec.name
        assert dimensions > 0
        assert inline == (spec.provider == "builtin")

    def test_a_row_of_length_one_for_each_text(self, spec: EmbedderSpec) -> None:
        async def embed(embedder: Embedder) -> tuple[Vectors, int]:
            return await embedder.embed_passages(TEXTS), embedder.dimensions

        rows, dimensions = run(spec, embed)
        assert rows.dtype == np.float32
        assert rows.shape == (len(TEXTS), dimensions)
        assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-4)

    def test_rows_are_in_the_order_of_the_texts(self, spec: EmbedderSpec) -> None:
        rows = passages(spec, TEXTS)
        assert_same(passages(spec, TEXTS[::-1]), rows[::-1])
        assert np.abs(rows[0] - rows[1]).max() > 1e-3

    def test_the_same_text_has_the_same_vector_alone_and_among_others(self, spec: EmbedderSpec) -> None:
        many = [f"{number} {TEXTS[number % 3]}" for number in range(70)]
        rows = passages(spec, many)
        for at in (0, 31, 32, 69):
            assert_same(passages(spec, [many[at]]), rows[at : at + 1])

    def test_no_texts_no_rows(self, spec: EmbedderSpec) -> None:
        async def embed(embedder: Embedder) -> None:
            assert (await embedder.embed_passages([])).shape == (0, embedder.dimensions)

        run(spec, embed)

    def test_a_blank_text_is_zeros(self, spec: EmbedderSpec) -> None:
        async def embed(embedder: Embedder) -> None:
            rows = await embedder.embed_passages(["", TEXTS[0], " \n\t "])
            assert not rows[[0, 2]].any()
            assert_same(rows[1:2], await embedder.embed_passages(TEXTS[:1]))
            assert not (await embedder.embed_query("  ")).any()

        run(spec, embed)

    def test_a_very_long_text_is_cut_not_refused(self, spec: EmbedderSpec) -> None:
        rows = passages(spec, [TEXTS[0], "The ferry leaves at nine. " * 4_000, TEXTS[1]])
        assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(3), abs=1e-4)
        assert_same(rows[[0, 2]], passages(spec, TEXTS[:2]))

    def test_a_query_lies_among_the_passages(self, spec: EmbedderSpec) -> None:
        async def embed(embedder: Embedder) -> None:
            rows = await embedder.embed_passages(TEXTS)
            for at in range(3):
                query = await embedder.embed_query(TEXTS[at])
                assert query.shape == (embedder.dimensions,)
                assert int(np.argmax(rows @ query)) == at

        run(spec, embed)

    def test_queries_and_passages_at_the_same_time(self, spec: EmbedderSpec) -> None:
        async def embed(embedder: Embedder) -> None:
            expected = await embedder.embed_query(TEXTS[0])
            rows, *queries = await asyncio.gather(
                embedder.embed_passages(TEXTS * 10), *(embedder.embed_query(TEXTS[0]) for _ in range(5))
            )
            assert len(rows) == 10 * len(TEXTS)
            assert_same(np.array(queries), np.array([expected] * 5))

        run(spec, embed)

    def test_it_can_be_probed_and_closed_twice(self, spec: EmbedderSpec) -> None:
        async def use(embedder: Embedder) -> None:
            assert await probe(embedder) > 0
            await embedder.close()

        run(spec, use)
        run(spec, use)
