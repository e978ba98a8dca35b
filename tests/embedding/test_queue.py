"""The queue of messages that wait for vectors: nothing is lost, nothing is embedded twice, whatever ends in the middle."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import text

from memory_service.errors import EmbedderUnavailable
from memory_service.runtime import Runtime, now_utc
from memory_service.services import ingest
from memory_service.services.embedding import CLAIM_SECONDS, MAX_BATCH, EmbeddingLoop
from memory_service.services.search import search_thread
from memory_service.store import embedding as store
from memory_service.store import messages as message_store
from memory_service.store.threads import ThreadRecord, delete_thread, get_thread
from tests.embedding.conftest import Home, drafts
from tests.embedding.hashing import HashingEmbedder, likeness

TEXTS = [f"The lantern number {n} stands in harbour {n * 7}." for n in range(20)]


class Clock:
    def __init__(self, ahead_seconds: float = 3_600) -> None:
        self.now = now_utc() + timedelta(seconds=ahead_seconds)  # so that all that is written is due

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


async def drain(loop: EmbeddingLoop) -> int:
    rounds = 0
    while await loop.round():
        rounds += 1
    return rounds


def stored(home: Home, table: str = "vectors_1") -> list[tuple[int, int, list[float]]]:
    rows = home.rows(f"SELECT seq, passage, embedding::real[] FROM {table} ORDER BY thread_pk, seq, passage")
    return [(seq, passage, embedding) for seq, passage, embedding in rows]


def test_an_inline_embedder_writes_vectors_with_the_message(home: Home) -> None:
    embedder = HashingEmbedder(inline=True)
    long = "A lighthouse. " * 150
    home.run(lambda runtime: home.write(runtime, "A lantern.", long, "!?"), embedder)
    assert home.count("pending_embeddings") == 0
    found = stored(home)
    assert [(seq, passage) for seq, passage, _ in found] == [(1, 1), (2, 1), (2, 2), (2, 3), (3, 1)]
    assert np.allclose([row for *_, row in found], embedder.rows(embedder.embedded), atol=1e-3)


def test_another_embedder_gets_its_messages_from_the_queue(home: Home) -> None:
    embedder = HashingEmbedder()

    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS)
        assert (home.count("pending_embeddings"), home.count("vectors_1"), embedder.asked) == (20, 0, 0)
        before = await search_thread(runtime, home.project_id, thread.id, "lantern 3", 5)
        assert before.ranking.explanation == {"mode": "words", "reason": "pending", "pending": 20}
        assert before.hits[0].hit.vector is None
        assert await drain(EmbeddingLoop(runtime, Clock())) == 1
        after = await search_thread(runtime, home.project_id, thread.id, "lantern 3", 5)
        assert after.ranking.explanation == {"mode": "hybrid", "reason": None, "pending": 0}
        assert after.hits[0].hit.vector == pytest.approx(likeness(embedder, "lantern 3", TEXTS, 3), abs=1e-3)
        await home.write(runtime, "A lantern again.", thread=thread)
        part = await search_thread(runtime, home.project_id, thread.id, "lantern 3", 21)
        assert part.ranking.explanation == {"mode": "hybrid", "reason": "pending", "pending": 1}
        assert [hit.message.seq for hit in part.hits if hit.hit.vector is None] == [21], "it is found by its words"

    home.run(use, embedder)
    assert embedder.embedded == TEXTS
    assert np.allclose([row for *_, row in stored(home)], embedder.rows(TEXTS), atol=1e-3)


def test_an_outage_of_an_hour(home: Home) -> None:
    clock = Clock()
    begun, asked = clock.now, [0]
    ends = begun + timedelta(hours=1)

    async def away(texts: Sequence[str]) -> None:
        asked[0] += 1
        if clock.now < ends:
            raise EmbedderUnavailable("The embedder cannot be reached.")

    embedder = HashingEmbedder(before=away)

    async def use(runtime: Runtime) -> None:
        await home.write(runtime, *TEXTS)
        loop = EmbeddingLoop(runtime, clock)
        while clock.now < ends:
            await loop.round()
            assert home.count("pending_embeddings") == len(TEXTS)
            runtime.embedders._refused.clear()  # its own clock is not this one
            clock.forward(20)
        assert 40 <= asked[0] <= 120, "it is asked ever more slowly, but not so slowly that it is not found again"
        clock.forward(60)
        await loop.round()

    home.run(use, embedder)
    assert sorted(embedder.embedded) == sorted(TEXTS)
    assert (home.count("pending_embeddings"), home.count("vectors_1")) == (0, len(TEXTS))


def test_it_waits_as_long_as_the_embedder_says(home: Home) -> None:
    clock = Clock()
    busy = [True]

    async def limited(texts: Sequence[str]) -> None:
        if busy[0]:
            raise EmbedderUnavailable("Too many requests.", retry_after_seconds=1_000)

    embedder = HashingEmbedder(before=limited)

    async def use(runtime: Runtime) -> None:
        await home.write(runtime, *TEXTS)
        loop = EmbeddingLoop(runtime, clock)
        await loop.round()
        busy[0] = False
        for seconds, rows in ((999, 0), (2, 20)):
            clock.forward(seconds)
            await loop.round()
            assert home.count("vectors_1") == rows
        assert embedder.asked == 2

    home.run(use, embedder)


def test_one_message_that_is_refused_does_not_hold_up_the_others(home: Home) -> None:
    clock = Clock()

    async def picky(texts: Sequence[str]) -> None:
        if TEXTS[7] in texts:
            raise EmbedderUnavailable("The text is not accepted.", is_retryable=False)

    embedder = HashingEmbedder(before=picky)

    async def use(runtime: Runtime) -> None:
        await home.write(runtime, *TEXTS)
        loop = EmbeddingLoop(runtime, clock)
        for _ in range(200):
            if home.count("vectors_1") == 19:
                break
            await loop.round()
            clock.forward(30)

    home.run(use, embedder)
    assert home.rows("SELECT seq, last_error, attempts < 30 FROM pending_embeddings") == [
        (8, "The text is not accepted.", True)
    ]


def test_two_workers_embed_nothing_twice(home: Home) -> None:
    both = asyncio.Barrier(2)

    async def together(texts: Sequence[str]) -> None:
        await both.wait()  # each has claimed a batch while the other holds one

    embedder = HashingEmbedder(before=together)

    async def use(runtime: Runtime) -> None:
        embedder.before = None
        for at in range(2):
            await home.write(runtime, *(f"{text} {at} {n}" for n in range(MAX_BATCH // 20) for text in TEXTS))
        embedder.before = together
        clock = Clock()
        workers = [EmbeddingLoop(runtime, clock) for _ in range(2)]
        assert await asyncio.gather(*(worker.round() for worker in workers)) == [True, True]

    home.run(use, embedder)
    assert len(embedder.embedded) == len(set(embedder.embedded)) == 2 * (MAX_BATCH // 20) * 20
    assert (home.count("pending_embeddings"), home.count("vectors_1")) == (0, len(embedder.embedded))


def test_nobody_waits_for_another_who_claims(home: Home) -> None:
    async def use(runtime: Runtime) -> None:
        await home.write(runtime, *TEXTS)
        now = Clock().now
        later = now + timedelta(minutes=5)
        worker = runtime.worker_db
        async with worker.transaction(None) as one, worker.transaction(None) as other:
            await one.execute(text("SET LOCAL lock_timeout = '2s'"))
            await other.execute(text("SET LOCAL lock_timeout = '2s'"))
            claimed = [await store.claim(session, 1, uuid4(), now, later, 8) for session in (one, other)]
        assert [message.seq for part in claimed for message in part] == list(range(1, 17))

    home.run(use, HashingEmbedder())


def test_a_worker_that_is_killed_in_the_middle(home: Home) -> None:
    embedder = HashingEmbedder()
    home.run(lambda runtime: home.write(runtime, *TEXTS), embedder)
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.embedding.worker", home.url], stdout=subprocess.PIPE, text=True
    )
    with worker:
        assert worker.stdout
        first = worker.stdout.readline()
        worker.kill()
    assert first == "embedding 20\n"
    assert worker.returncode == -9

    async def use(runtime: Runtime) -> None:
        clock = Clock(0)
        loop = EmbeddingLoop(runtime, clock)
        assert not await loop.round(), "the killed one's claim is still good"
        clock.forward(CLAIM_SECONDS + 60)
        assert await loop.round()

    home.run(use, embedder)
    assert embedder.embedded == TEXTS
    assert (home.count("pending_embeddings"), home.count("vectors_1")) == (0, 20)


def test_a_worker_that_is_stopped_gives_back_what_it_claimed(home: Home) -> None:
    at_work = asyncio.Event()

    async def hang(texts: Sequence[str]) -> None:
        at_work.set()
        await asyncio.Event().wait()

    embedder = HashingEmbedder(before=hang)

    async def use(runtime: Runtime) -> None:
        await home.write(runtime, *TEXTS)
        clock = Clock()
        running = asyncio.create_task(EmbeddingLoop(runtime, clock).run())
        await at_work.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        embedder.before = None
        assert await EmbeddingLoop(runtime, clock).round()

    home.run(use, embedder)
    assert home.count("vectors_1") == 20


async def edit(home: Home, runtime: Runtime, thread: ThreadRecord, seq: int, text: str) -> None:
    new = await ingest.prepare(runtime, drafts([text]), now_utc())
    async with runtime.db.transaction(home.project_id) as session:
        held = await get_thread(session, thread.id, lock=True)
        (message,) = await message_store.range_of(session, held.pk, first_seq=seq, last_seq=seq)
        await ingest.edit(session, held, message, new[0], {})


async def delete(home: Home, runtime: Runtime, thread: ThreadRecord, seq: int) -> None:
    async with runtime.db.transaction(home.project_id) as session:
        held = await get_thread(session, thread.id, lock=True)
        (message,) = await message_store.range_of(session, held.pk, first_seq=seq, last_seq=seq)
        await ingest.delete(session, held, message, now_utc())


def test_what_changes_while_it_is_embedded_gets_no_vector_of_what_it_was(home: Home) -> None:
    embedder = HashingEmbedder()

    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS[:4])
        other = await home.write(runtime, "This thread goes.")
        clock = Clock()

        async def meanwhile(texts: Sequence[str]) -> None:
            embedder.before = None
            await edit(home, runtime, thread, 2, "Another text.")
            await delete(home, runtime, thread, 3)
            async with runtime.db.transaction(home.project_id) as session:
                await delete_thread(session, other.id)

        embedder.before = meanwhile
        loop = EmbeddingLoop(runtime, clock)
        await loop.round()
        assert [seq for seq, *_ in stored(home)] == [1, 4]
        clock.forward(1)
        await loop.round()

    home.run(use, embedder)
    assert home.count("pending_embeddings") == 0
    expected = embedder.rows([TEXTS[0], "Another text.", TEXTS[3]])
    assert [seq for seq, *_ in stored(home)] == [1, 2, 4]
    assert np.allclose([row for *_, row in stored(home)], expected, atol=1e-3)


def test_what_was_there_before_vectors_were_is_queued(home: Home) -> None:
    """As the migration finds it; which rows it queues is tested with the migrations."""
    embedder = HashingEmbedder(inline=True)

    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS)
        home.rows(
            "WITH gone AS (DELETE FROM vectors_1 RETURNING thread_pk, seq, project_id) INSERT INTO pending_embeddings"
            " (thread_pk, seq, embedder_pk, project_id) SELECT thread_pk, seq, 1, project_id FROM gone RETURNING 1"
        )
        assert await EmbeddingLoop(runtime, Clock()).round()
        found = await search_thread(runtime, home.project_id, thread.id, "lantern 3", 5)
        assert found.ranking.mode == "hybrid"

    home.run(use, embedder)
