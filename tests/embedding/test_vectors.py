"""Vectors follow their messages, and searches by them find what an exact comparison finds."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pytest

from memory_service.core.recall import index_entry
from memory_service.core.similarity import common_of, typical
from memory_service.core.terms import passages_of
from memory_service.runtime import Runtime, now_utc
from memory_service.services import recall, threads
from memory_service.services.embedding import EmbeddingLoop
from memory_service.services.search import search_user
from memory_service.store import vectors as vector_store
from memory_service.store.embedders import EmbedderRecord, add_building
from memory_service.store.recall import ThreadIndex
from memory_service.store.threads import delete_thread
from memory_service.store.vectors import PlacedVectors, Vectors
from tests.conftest import evaluation_data
from tests.embedding.conftest import NOW, Home
from tests.embedding.hashing import HashingEmbedder
from tests.embedding.test_queue import TEXTS, delete, edit

RNG = np.random.default_rng(7)


def likes_of(embedder: HashingEmbedder) -> tuple[HashingEmbedder, HashingEmbedder]:
    return embedder, HashingEmbedder("hashing:2", 32)


def test_changes_and_deletions_leave_no_vector_behind(home: Home) -> None:
    """Of the active embedder, whose vectors are written at once, and of one that is being built."""
    first, second = likes_of(HashingEmbedder(inline=True))
    building = add_building(home.url, name=second.name, spec="{}", dimensions=32, now=NOW)
    tables = {1: first, building: second}

    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS[:5])
        other = await home.write(runtime, "Another thread.")
        loop = EmbeddingLoop(runtime, lambda: now_utc() + timedelta(hours=1))
        await loop.round()
        await edit(home, runtime, thread, 2, "Another text. " * 100)
        await delete(home, runtime, thread, 3)
        assert home.rows("SELECT embedder_pk, seq FROM pending_embeddings") == [(building, 2)]
        await loop.round()
        texts = {1: TEXTS[:1], 2: passages_of("Another text. " * 100), 4: TEXTS[3:4], 5: TEXTS[4:5]}
        for pk, embedder in tables.items():
            held = home.rows(
                f"SELECT seq, passage, embedding::real[] FROM vectors_{pk} WHERE thread_pk = {thread.pk} ORDER BY 1, 2"
            )
            expected = [(seq, n) for seq, parts in texts.items() for n in range(1, len(parts) + 1)]
            assert [(seq, passage) for seq, passage, _ in held] == expected
            rows = embedder.rows([part for parts in texts.values() for part in parts])
            assert np.allclose([row for *_, row in held], rows, atol=2e-3)
        async with runtime.db.transaction(home.project_id) as session:
            await delete_thread(session, thread.id)
        for pk in tables:
            assert home.rows(f"SELECT DISTINCT thread_pk FROM vectors_{pk}") == [(other.pk,)]
        assert home.count("pending_embeddings") == 0

    home.run(use, first, second)


def test_a_fork_has_the_vectors_of_its_source(home: Home) -> None:
    first, second = likes_of(HashingEmbedder(inline=True))
    building = add_building(home.url, name=second.name, spec="{}", dimensions=32, now=NOW)

    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS[:3])
        await EmbeddingLoop(runtime, lambda: now_utc() + timedelta(hours=1)).round()
        await home.write(runtime, *TEXTS[3:6], thread=thread)
        asked = first.asked
        async with runtime.db.transaction(home.project_id) as session:
            fork = await threads.fork(session, thread.id, 5, {}, None, NOW)
        assert first.asked == asked, "nothing is embedded again"
        for pk, seqs in ((1, [1, 2, 3, 4, 5]), (building, [1, 2, 3])):
            found = [
                home.rows(
                    f"SELECT seq, embedding::text FROM vectors_{pk} WHERE thread_pk = {t.pk} AND seq <= 5 ORDER BY seq"
                )
                for t in (thread, fork)
            ]
            assert found[0] == found[1]
            assert [seq for seq, _ in found[0]] == seqs
        waiting = home.rows(f"SELECT embedder_pk, seq FROM pending_embeddings WHERE thread_pk = {fork.pk} ORDER BY seq")
        assert waiting == [(building, 4), (building, 5)]

    home.run(use, first, second)


def near(centres: Vectors, count: int) -> Vectors:
    """Unit vectors around some centres, as texts lie around their topics."""
    rows = centres[RNG.integers(0, len(centres), count)] + RNG.standard_normal((count, 384)).astype(np.float32)
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


async def fill(home: Home, runtime: Runtime, sizes: list[int], rows: Vectors) -> list[int]:
    """Threads of so many messages, each by a user of its own; the vectors, in their order. Returns the threads' pks."""
    made = home.rows(
        "WITH t AS (INSERT INTO threads (project_id, id, user_id, created_at) SELECT %s, 'made_' || n, 'user_' || n,"
        " now() FROM generate_series(1, %s) n RETURNING pk) SELECT pk FROM t ORDER BY pk",
        home.project_id,
        len(sizes),
    )
    pks = [pk for (pk,) in made]
    home.rows(
        "WITH m AS (INSERT INTO messages (thread_pk, seq, project_id, id, role, content, created_at)"
        " SELECT pk, seq, %s, 'msg_' || pk || '_' || seq, 'user', '[]', now()"
        " FROM unnest(%s::bigint[], %s::int[]) AS thread (pk, size), generate_series(1, size) seq RETURNING 1)"
        " SELECT count(*) FROM m",
        home.project_id,
        pks,
        sizes,
    )
    placed, at = [], 0
    for pk, size in zip(pks, sizes, strict=True):
        placed += [PlacedVectors(pk, n + 1, home.project_id, rows[at + n : at + n + 1]) for n in range(size)]
        at += size
    async with runtime.worker_db.transaction(None) as session:
        for start in range(0, len(placed), 5_000):
            await vector_store.add_many(session, await builtin(runtime), placed[start : start + 5_000])
    return pks


async def builtin(runtime: Runtime) -> EmbedderRecord:
    return (await runtime.embedders.active()).record


def test_user_wide_search_among_400_users(home: Home) -> None:
    centres = 1.5 * RNG.standard_normal((60, 384)).astype(np.float32)
    rows = near(centres, 400 * 50)
    queries = near(centres, 40)

    async def use(runtime: Runtime) -> float:
        pks = await fill(home, runtime, [50] * 400, rows)
        found = []
        for number, query in enumerate(queries):
            user = number * 10
            async with runtime.db.read_only(home.project_id) as session:
                (part,) = await vector_store.similarities(session, await builtin(runtime), pks[user : user + 1], query)
            assert part.seq.tolist() == list(range(1, 51)), "nothing is left out"
            exact = np.argsort(-(rows[user * 50 : user * 50 + 50] @ query))[:10]
            best = np.argsort(-part.similarity)[:10]
            found.append(len({*exact.tolist()} & {*best.tolist()}) / 10)
        return float(np.mean(found))

    assert home.run(use, HashingEmbedder(inline=True)) >= 0.99


def test_two_stages_find_what_an_exact_search_finds(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """By words and vectors together, for real questions about real conversations, put into one thread."""
    conversations = json.loads((evaluation_data() / "locomo" / "locomo_dev6.json").read_text())
    texts = [
        turn["text"]
        for conversation in conversations
        for name, session in conversation["conversation"].items()
        if name.startswith("session_") and isinstance(session, list)
        for turn in session
        if len(passages_of(turn["text"])) == 1
    ]
    questions = [qa["question"] for conversation in conversations for qa in conversation["qa"]][::25]
    embedder = HashingEmbedder(inline=True)
    index = b"".join(index_entry(seq, "user", text) for seq, text in enumerate(texts, start=1))

    async def top(runtime: Runtime, pk: int, text: str, exact_passages: int) -> set[int]:
        monkeypatch.setattr(recall, "_EXACT_PASSAGES", exact_passages)
        question = recall.Question(text, await builtin(runtime), embedder.rows([text])[0])
        async with runtime.db.read_only(home.project_id) as session:
            ranking = await recall.rank_threads(session, [ThreadIndex(pk, "t", index)], question, 10)
        assert (ranking.mode, ranking.pending, len(ranking.hits)) == ("hybrid", 0, 10)
        return {hit.seq for hit in ranking.hits}

    async def use(runtime: Runtime) -> float:
        (pk,) = await fill(home, runtime, [len(texts)], embedder.rows(texts))
        same = [
            len(await top(runtime, pk, question, len(texts)) & await top(runtime, pk, question, len(texts) - 1))
            for question in questions
        ]
        return float(np.mean(same)) / 10

    assert len(texts) > 3_000
    assert home.run(use, embedder) >= 0.99


def test_a_search_across_threads_says_from_which_thread_a_hit_is(home: Home) -> None:
    embedder = HashingEmbedder(inline=True)

    async def use(runtime: Runtime) -> None:
        made = [await home.write(runtime, *TEXTS[at : at + 3]) for at in (0, 3, 6)]
        home.rows(f"DELETE FROM vectors_1 WHERE thread_pk = {made[1].pk} AND seq = 2 RETURNING 1")
        found = await search_user(runtime, home.project_id, "ada", TEXTS[7], 9)
        assert found.hits[0].thread_id == made[2].id
        assert found.hits[0].message.seq == 2
        assert found.ranking.pending == 1
        rows = embedder.rows(TEXTS[:9])
        known = rows[[0, 1, 2, 3, 5, 6, 7]]  # of eight that stand for nine, one has no vector
        likeness = rows @ (rows[7] - known.sum(axis=0) / (len(known) + 30))
        places = {thread.id: 3 * at for at, thread in enumerate(made)}
        for hit in found.hits:
            at = places[hit.thread_id] + hit.message.seq - 1
            expected = None if at == 4 else pytest.approx(float(likeness[at]), abs=1e-3)
            assert hit.hit.vector == expected

    home.run(use, embedder)


def test_what_all_passages_have_in_common_says_nothing() -> None:
    """A query shares the greeting with all; what it shares beyond that decides."""
    rows = HashingEmbedder().rows([*(f"Dear old diary {n}" for n in range(200)), "lantern tulip"])
    query = HashingEmbedder().rows(["Dear old diary, lantern"])[0]
    assert np.argmax(rows @ query) < 200
    assert np.argmax(rows @ (query - common_of(rows))) == 200
    few = typical(5)
    assert np.linalg.norm(common_of(rows[few])) < np.linalg.norm(common_of(rows)) / 4, (
        "a few say little of what is common"
    )


def test_an_embedder_that_is_away_is_said(home: Home) -> None:
    """Messages are written all the same, and found by their words."""
    from memory_service.errors import EmbedderUnavailable

    async def away(_texts: object) -> None:
        raise EmbedderUnavailable("The embedder cannot be reached.")

    async def use(runtime: Runtime) -> None:
        await home.write(runtime, *TEXTS)
        found = await search_user(runtime, home.project_id, "ada", "lantern 3", 5)
        assert found.ranking.explanation == {"mode": "words", "reason": "embedder_unavailable", "pending": 0}
        assert found.hits[0].message.seq == 4

    home.run(use, HashingEmbedder(before=away))
    assert home.count("pending_embeddings") == len(TEXTS)
