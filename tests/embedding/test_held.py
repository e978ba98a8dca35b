"""What is held of a thread between two prompts is never seen: recall finds what it finds when everything is read anew."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from memory_service.core.corpus import Corpus
from memory_service.core.held import Held
from memory_service.core.recall import index_entry
from memory_service.runtime import HeldThreads, Runtime, now_utc
from memory_service.services import holding
from memory_service.services.embedding import EmbeddingLoop
from memory_service.services.recall import Question, Ranking, rank_thread
from memory_service.store import session as store_session
from memory_service.store.driver import Statement
from memory_service.store.threads import ThreadRecord, get_thread
from tests.embedding.conftest import Home
from tests.embedding.hashing import HashingEmbedder
from tests.embedding.test_queue import TEXTS, delete, edit

QUERY = " ".join(TEXTS)


@pytest.fixture(params=[24 << 20, 0], ids=["vectors", "signs"])
def held_as(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "_VECTOR_BYTES", request.param)


async def ranked(home: Home, runtime: Runtime, thread: ThreadRecord, before_seq: int | None = None) -> Ranking:
    active = await runtime.embedders.active()
    assert active.embedder
    question = Question(QUERY, active.record, await active.embedder.embed_query(QUERY))
    async with runtime.db.read_only(home.project_id) as session:
        thread = await get_thread(session, thread.id)
        return await rank_thread(runtime, session, thread, question, 50, before_seq or thread.last_seq + 1)


async def agree(home: Home, runtime: Runtime, thread: ThreadRecord, *before: int | None) -> list[int]:
    """The seqs that are found with what is held, which are those that are found without."""
    for before_seq in before or (None,):
        found = await ranked(home, runtime, thread, before_seq)
        anew = await ranked(home, replace(runtime, held=HeldThreads()), thread, before_seq)
        assert found.explanation == anew.explanation
        assert [(h.seq, h.passage, h.score) for h in found.hits] == [(h.seq, h.passage, h.score) for h in anew.hits]
    return sorted({hit.seq for hit in found.hits})


@pytest.mark.usefixtures("held_as")
def test_appended_edited_and_deleted_messages(home: Home) -> None:
    async def use(runtime: Runtime) -> None:
        other = home.runtime(HashingEmbedder(inline=True))  # another replica's
        try:
            thread = await home.write(runtime, *TEXTS[:4])
            assert await agree(home, runtime, thread) == [1, 2, 3, 4]
            for writer in (runtime, other):
                await home.write(writer, "lantern " * 400, *TEXTS[4:6], thread=thread)
                await agree(home, runtime, thread)
                await edit(home, writer, thread, 2, "Another text. " * 100)
                await agree(home, runtime, thread, None, 4, 6, 3, None)
            await delete(home, other, thread, 3)
            assert 3 not in await agree(home, runtime, thread, 5, None, 6, None)
        finally:
            await other.close()

    home.run(use, HashingEmbedder(inline=True))


@pytest.mark.usefixtures("held_as")
def test_vectors_that_come_later(home: Home) -> None:
    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS[:3])
        first = await ranked(home, runtime, thread)
        assert (first.mode, first.pending) == ("words", 3)
        await EmbeddingLoop(runtime, lambda: now_utc() + timedelta(hours=1)).round()
        await home.write(runtime, *TEXTS[3:5], thread=thread)
        await agree(home, runtime, thread)
        second = await ranked(home, runtime, thread)
        assert (second.mode, second.pending) == ("hybrid", 2)
        await EmbeddingLoop(runtime, lambda: now_utc() + timedelta(hours=1)).round()
        await agree(home, runtime, thread, 3, None)
        assert (await ranked(home, runtime, thread)).pending == 0

    home.run(use, HashingEmbedder(inline=False))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    statements: list[str] = []
    send = store_session.send

    async def note(connection: Any, *sent: Statement) -> Any:
        statements.extend(statement.sql for statement in sent)
        return await send(connection, *sent)

    monkeypatch.setattr(store_session, "send", note)
    return statements


def test_what_is_held_is_not_read_again(home: Home, sent: list[str]) -> None:
    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS)
        await ranked(home, runtime, thread, 4)
        sent.clear()
        await home.write(runtime, "One more.", thread=thread)
        await ranked(home, runtime, thread, 4)
        assert not [sql for sql in sent if sql.startswith("SELECT") and ("message_terms" in sql or "vectors" in sql)]

    home.run(use, HashingEmbedder(inline=True))


def test_what_vectors_have_in_common_is_not_read_again(
    home: Home, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "_VECTOR_BYTES", 0)

    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS[:8])
        for texts, reads in (((), 1), (TEXTS[8:9], 0), (TEXTS[:8], 1)):  # of nine it is the same, of seventeen not
            if texts:
                await home.write(runtime, *texts, thread=thread)
            sent.clear()
            await ranked(home, runtime, thread)
            assert len([sql for sql in sent if "avg(" in sql]) == reads

    home.run(use, HashingEmbedder(inline=True))


def test_as_much_is_held_as_there_is_room_for() -> None:
    held = Held(0, 2, Corpus.of(index_entry(1, "user", "A lantern.")))
    threads = HeldThreads(limit_bytes=3 * held.nbytes)
    for pk in (1, 2, 3, 1, 4):
        threads.keep(pk, held)
    assert [pk for pk in range(1, 5) if threads.find(Held, pk, 0)] == [1, 3, 4]
    assert threads.nbytes == 3 * held.nbytes
    assert threads.find(Held, 1, 1) is None
    assert threads.nbytes == 2 * held.nbytes
    threads.keep(5, replace(held, corpus=Corpus.of(np.tile(held.corpus.numbers, 100).tobytes())))
    assert threads.find(Held, 5, 0) is None
    assert threads.nbytes == 2 * held.nbytes
