"""How Postgres runs the hot queries when there is much to run over: by index, and touching few pages.

The statements are caught on their way to Postgres, and explained as the application's role with the project set, once
for their values and once as the generic plan that a prepared statement gets.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from sqlalchemy import text

from memory_service.core.canonical import dumps
from memory_service.core.lane import MAX_LANES, Lane
from memory_service.core.messages import Tail
from memory_service.core.tokens import TokenCounts, TokenEstimate
from memory_service.store import (
    edits,
    embedding,
    idempotency,
    messages,
    projects,
    prompts,
    recall,
    retention,
    threads,
    users,
    vectors,
)
from memory_service.store.db import Database, Session
from memory_service.store.driver import Statement
from memory_service.store.embedded import EmbeddedPostgres
from memory_service.store.embedders import EmbedderRecord
from memory_service.store.idempotency import Answer, IdempotentCall
from memory_service.store.messages import NewMessage
from memory_service.store.migrate import migrate
from memory_service.store.pages import PageQuery
from memory_service.store.projects import AuthenticatedKey
from memory_service.store.session import send
from tests.store.conftest import database

NOW = datetime(2026, 11, 1, tzinfo=UTC)
LONG = 100_000
OTHERS = 20_000
KEY = "msk_key_500"
#: Project 1 has the long thread and half of the others. The rest belongs to many, so Postgres takes a project for small.
PROJECTS = 2_000
ESTIMATE = dumps(TokenEstimate.prior(1.0).to_json())
STATE = dumps(Lane(1, 0, 0, "digest"))
FILL = f"""
SET session_replication_role = replica; -- the rows are consistent: foreign keys need no checking
SET synchronous_commit = off;
INSERT INTO projects (name, created_at) SELECT 'p' || n, now() FROM generate_series(1, {PROJECTS}) n;
INSERT INTO api_keys (id, project_id, name, hash, hint, created_at)
    SELECT 'key_' || n, 1 + n % {PROJECTS}, '', sha256(convert_to('msk_key_' || n, 'UTF8')), '', now()
    FROM generate_series(1, 5000) n;
INSERT INTO threads (project_id, id, user_id, created_at, version, last_seq, message_count, last_role)
    SELECT CASE WHEN n <= {OTHERS} / 2 THEN 1 ELSE 2 + n % {PROJECTS - 1} END, 'thread_' || n,
        CASE WHEN n % 5 > 0 THEN 'user_' || n % 500 END, timestamptz '2026-10-01Z' + n * interval '1 second', 5, 5, 5,
        'assistant'
    FROM generate_series(0, {OTHERS}) n;
UPDATE threads SET last_seq = {LONG}, message_count = {LONG}, user_id = 'user of the long one' WHERE id = 'thread_0';
INSERT INTO messages (thread_pk, seq, project_id, id, role, content, latin_tokens, created_at)
    SELECT 1, n, 1, 'msg_' || n, CASE WHEN n % 2 = 1 THEN 'user' ELSE 'assistant' END,
        '[{{"type":"text","text":"' || repeat(md5(n::text), 6) || '"}}]', 50, timestamptz '2026-10-01Z'
    FROM generate_series(1, {LONG}) n;
INSERT INTO messages (thread_pk, seq, project_id, id, role, content, latin_tokens, created_at)
    SELECT t.pk, n, t.project_id, 'msg_' || t.pk || '_' || n, CASE WHEN n % 2 = 1 THEN 'user' ELSE 'assistant' END,
        '[{{"type":"text","text":"' || repeat(md5(n::text), 6) || '"}}]', 50, t.created_at
    FROM threads t, generate_series(1, 5) n WHERE t.pk > 1;
INSERT INTO message_terms (thread_pk, seq, project_id, terms)
    SELECT thread_pk, seq, project_id, decode(repeat(md5(id), 8), 'hex') FROM messages;
INSERT INTO vectors_1 (thread_pk, seq, passage, project_id, embedding)
    SELECT thread_pk, seq, 1, project_id, same.embedding FROM messages,
        (SELECT array_fill(0.05::real, ARRAY[384])::halfvec AS embedding) same
    WHERE thread_pk <= 300;
INSERT INTO pending_embeddings (thread_pk, seq, embedder_pk, project_id, not_before)
    SELECT thread_pk, seq, 1, project_id, timestamptz '2026-10-01Z' + seq * interval '1 minute' FROM messages
    WHERE thread_pk = 1 AND seq % 2 = 0;
INSERT INTO message_revisions SELECT thread_pk, seq, 5, project_id, '[]' FROM messages WHERE seq % 20 = 5;
INSERT INTO tool_uses SELECT thread_pk, 'call_' || seq, seq, project_id FROM messages WHERE seq % 4 = 0;
INSERT INTO prompts
    (thread_pk, project_id, id, lane_key, thread_version, stable_digest, plan, built_at, recalled_seqs, status,
    shared_digest, sent_at)
    SELECT 1, 1, 'prompt_' || n, 'lane', n, 'digest', repeat('x', 500), now(), ARRAY[n, n + 1],
        CASE WHEN n < 4990 THEN 'sent' ELSE 'built' END, 'shared', now()
    FROM generate_series(1, 5000) n;
INSERT INTO prompts (thread_pk, project_id, id, lane_key, thread_version, stable_digest, plan, built_at)
    SELECT pk, project_id, 'prompt_of_' || pk, 'lane', 1, 'digest', repeat('x', 500), now() FROM threads WHERE pk > 1;
INSERT INTO stable_texts SELECT pk, 'digest', project_id, '[]' FROM threads;
INSERT INTO lanes SELECT pk, 'lane_' || n, project_id, '{STATE}', now() FROM threads, generate_series(1, 3) n;
INSERT INTO token_estimates
    SELECT 1 + n % {PROJECTS}, 'anthropic', 'model_' || n, '{ESTIMATE}', now() FROM generate_series(1, 5000) n;
INSERT INTO idempotency_records
    SELECT t.project_id, 'POST', '/v1/threads/' || t.id || '/messages', 'key_' || n, '\\x00', 201, repeat('x', 300),
        timestamptz '2026-10-31T12:00Z' + n * interval '1 hour'
    FROM threads t, generate_series(1, 3) n;
INSERT INTO assistants (project_id, id, created_at)
    SELECT CASE WHEN n % 2 = 0 THEN 1 ELSE 1 + n % {PROJECTS} END, 'asst_' || n, now() FROM generate_series(0, 5000) n;
"""


@dataclass(frozen=True)
class Explained:
    statement: str
    nodes: list[dict[str, Any]]
    pages: int
    rows: int


@pytest.fixture(scope="module")
def filled(postgres: EmbeddedPostgres) -> Iterator[str]:
    with database(postgres) as url:
        migrate(url)
        with psycopg.connect(url, autocommit=True, options="-c search_path=memory,public") as owner:
            for statement in FILL.split(";\n"):
                owner.execute(statement.encode())
            owner.execute("VACUUM ANALYZE")
        yield url


Catch = list[Statement]


def explain(
    url: str, project_id: int | None, use: Callable[[Session], Awaitable[Any]], role: Any = None
) -> list[Explained]:
    """Run what uses the store, then once more each statement that it sent, explained. Nothing of it stays."""
    caught: Catch = []

    async def catch(connection: Any, *statements: Statement) -> Any:
        caught.extend(statements)
        return await send(connection, *statements)

    class RollBack(Exception):
        pass

    async def run() -> list[Explained]:
        db = Database(url, pool_size=1, role=role or "memory_app")
        try:
            with suppress(RollBack):
                async with db.transaction(project_id) as session:
                    await session.flush()
                    with pytest.MonkeyPatch.context() as patch:
                        patch.setattr("memory_service.store.session.send", catch)
                        await use(session)
                        await session.flush()
                    raise RollBack
            found: list[Explained] = []
            with suppress(RollBack):
                async with db.transaction(project_id) as session:
                    await session.flush()
                    for statement in caught:
                        found += await explained(session, statement.sql, statement.parameters)
                    raise RollBack
            return found
        finally:
            await db.close()

    return asyncio.run(run())


async def explained(session: Session, statement: str, parameters: Mapping[str, Any]) -> list[Explained]:
    """For its values, and as the generic plan, both run; what the first has written is undone."""
    explain = "EXPLAIN (FORMAT JSON, ANALYZE, BUFFERS, TIMING OFF)"
    names: list[str] = []

    def numbered(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    generic = re.sub(r"%\((\w+)\)s", numbered, statement).replace("%%", "%")
    await _rows(session, "SAVEPOINT before")
    custom = await _rows(session, f"{explain} {statement}", parameters)
    await _rows(session, "ROLLBACK TO before")
    await _rows(session, "SET LOCAL plan_cache_mode = force_generic_plan")
    await session.connection.execute(f"PREPARE generic AS {generic}".encode())
    given = await _given(session, [parameters[name] for name in names])
    plan = await _rows(session, f"{explain} EXECUTE generic {given}")
    await _rows(session, "DEALLOCATE generic")
    return [_read(statement, custom[0][0]), _read(generic, plan[0][0])]


async def _given(session: Session, values: Sequence[Any]) -> str:
    """The values as EXECUTE takes them, which knows no parameters: by way of settings."""
    types = "SELECT unnest(parameter_types)::text FROM pg_prepared_statements WHERE name = 'generic'"
    given = []
    for number, (type_, value) in enumerate(zip([t for (t,) in await _rows(session, types)], values, strict=True)):
        if value is None:
            given.append("NULL")
            continue
        setting = f"explained.value_{number}"
        await _rows(
            session, f"SELECT set_config('{setting}', CAST(%(value)s AS {type_})::text, true)", {"value": value}
        )
        given.append(f"CAST(current_setting('{setting}') AS {type_})")
    return f"({', '.join(given)})" if given else ""


async def _rows(session: Session, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
    (answer,) = await send(session.connection, Statement(sql, parameters or {}))
    return answer.rows


def _read(statement: str, plan: Any) -> Explained:
    top = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    nodes: list[dict[str, Any]] = []

    def walk(node: dict[str, Any]) -> None:
        nodes.append(node)
        for child in node.get("Plans", []):
            walk(child)

    walk(top)
    pages = top["Shared Hit Blocks"] + top["Shared Read Blocks"]
    return Explained(statement, nodes, pages, top["Actual Rows"])


BIG = {
    *("messages", "message_terms", "message_revisions", "tool_uses", "threads", "prompts", "lanes", "stable_texts"),
    *("vectors_1", "pending_embeddings", "idempotency_records", "api_keys", "token_estimates", "assistants"),
}


def by_index(found: Sequence[Explained], *, pages: int, sorted_rows: int = 100) -> None:
    assert found, "no statement was caught"
    for explained in found:
        shown = f"{explained.statement}\n{json.dumps(explained.nodes[0], indent=1)}"
        for node in explained.nodes:
            assert not (node["Node Type"] == "Seq Scan" and node["Relation Name"] in BIG), shown
            if "Sort" in node["Node Type"]:
                assert node["Plan Rows"] <= sorted_rows, shown
        assert explained.pages <= pages, f"{explained.pages} pages\n{shown}"


async def long_thread(session: Session) -> threads.ThreadRecord:
    return await threads.get_thread(session, "thread_0")


def new_message(seq: int) -> NewMessage:
    return NewMessage(
        f"msg_new_{seq}",
        "user",
        '[{"type":"text","text":"hi"}]',
        "hi",
        ({"type": "tool_use", "id": f"new_{seq}"},),
        TokenCounts(1, 1),
        0,
        {},
        NOW,
    )


def test_append(filled: str) -> None:
    call = IdempotentCall("POST", "/v1/threads/thread_0/messages", "a new key", b"{}")

    async def use(session: Session) -> None:
        assert await idempotency.claim(session, call, NOW) is None
        thread = await threads.get_thread(session, "thread_0", lock=True)
        placed = [(thread.last_seq + 1, new_message(1), b"terms")]
        await messages.append(session, [messages.Addition(thread.pk, placed, Tail("user", ()))])
        await idempotency.record(session, call, Answer(201, "{}"), NOW)

    found = explain(filled, 1, use)
    assert len(found) == 2 * 5, "one statement each: claim, find, lock, message with index, tail and tool calls, record"
    by_index(found, pages=30)


def test_a_repeated_append(filled: str) -> None:
    call = IdempotentCall("POST", "/v1/threads/thread_0/messages", "key_3", b"{}")

    async def use(session: Session) -> None:
        with pytest.raises(idempotency.IdempotencyConflict):
            await idempotency.find(session, call, NOW)

    by_index(explain(filled, 1, use), pages=10)


Read = Callable[[Session], Awaitable[Any]]


async def _of(read: Callable[[Session, threads.ThreadRecord], Awaitable[Any]], session: Session) -> Any:
    return await read(session, await long_thread(session))


def of_long_thread(read: Callable[[Session, int], Awaitable[Any]]) -> Read:
    """The long thread is the first row."""
    return lambda session: read(session, 1)


MIDDLE = "msg_50000"
READS: dict[str, tuple[Read, int]] = {
    "thread by id": (long_thread, 10),
    "newest messages": (of_long_thread(lambda s, t: messages.list_messages(s, t, PageQuery(20, "desc"))), 20),
    "oldest messages": (of_long_thread(lambda s, t: messages.list_messages(s, t, PageQuery(20, "asc"))), 20),
    "messages after one": (
        of_long_thread(lambda s, t: messages.list_messages(s, t, PageQuery(20, "asc", after=MIDDLE))),
        25,
    ),
    "messages before one": (
        of_long_thread(lambda s, t: messages.list_messages(s, t, PageQuery(20, "asc", before=MIDDLE))),
        25,
    ),
    "range by seq": (of_long_thread(lambda s, t: messages.range_of(s, t, first_seq=50_000, last_seq=50_099)), 25),
    "newest of a window": (
        of_long_thread(lambda s, t: messages.range_of(s, t, first_seq=40_000, last_seq=LONG, limit=200)),
        40,
    ),
    "message by id": (of_long_thread(lambda s, t: messages.get_message(s, t, MIDDLE)), 10),
    "messages by seq": (of_long_thread(lambda s, t: messages.with_seqs(s, [t] * 64, range(1, 64_001, 1_000))), 400),
    "messages to quote": (of_long_thread(lambda s, t: recall.said_at(s, t, range(1, 64_001, 1_000))), 400),
    "ids that are taken": (lambda s: messages.taken_ids(s, [f"msg_{n}" for n in range(500)]), 2_500),
    "revisions since a version": (of_long_thread(lambda s, t: messages.revisions_at(s, 50, 1)), 20),
    "prompt by id": (of_long_thread(lambda s, t: prompts.get_prompt(s, t, "prompt_2500")), 10),
    "newest prompts": (of_long_thread(lambda s, t: prompts.list_prompts(s, t, PageQuery(20, "desc"))), 20),
    "prompts after one": (
        of_long_thread(lambda s, t: prompts.list_prompts(s, t, PageQuery(20, "desc", after="prompt_2500"))),
        25,
    ),
    "estimate": (lambda s: prompts.get_estimate(s, "anthropic", "unknown"), 10),
    "lane of a prompt": (lambda s: prompts.lane_of(s, "prompt_2500"), 15),
    "estimates": (prompts.list_estimates, 20),
    "shared part": (lambda s: prompts.shared_sent_at(s, "shared"), 10),
    "lanes and estimate": (lambda s: prompts.get_learnt(s, "thread_0", "anthropic", "unknown"), 20),
    "stable text": (of_long_thread(lambda s, t: prompts.get_stable_text(s, t, "digest")), 10),
    "newest threads": (lambda s: threads.list_threads(s, PageQuery(20, "desc"), user_id=None, metadata={}), 30),
    "threads after one": (
        lambda s: threads.list_threads(s, PageQuery(20, "desc", after="thread_5000"), user_id=None, metadata={}),
        35,
    ),
    "threads of a user": (
        lambda s: threads.list_threads(s, PageQuery(10, "desc"), user_id="user_7", metadata={}),
        40,
    ),
    "threads of a user after one": (
        lambda s: threads.list_threads(s, PageQuery(10, "desc", after="thread_5007"), user_id="user_7", metadata={}),
        45,
    ),
    "assistant by id": (lambda s: threads.get_assistant(s, "asst_2500"), 10),
    "newest assistants": (lambda s: threads.list_assistants(s, PageQuery(20, "desc")), 60),
}


@pytest.mark.parametrize("name", READS)
def test_read(filled: str, name: str) -> None:
    read, pages = READS[name]
    by_index(explain(filled, 1, read), pages=pages)


@pytest.mark.parametrize(("before_seq", "rows"), [(None, LONG), (90_000, 89_999), (1_000, 999)])
def test_recall_index_of_the_long_thread(filled: str, before_seq: int | None, rows: int) -> None:
    """All of it is read, in the order of the index: not sorted, and not by scanning what is of other threads."""
    found = explain(filled, 1, lambda session: recall.thread_index(session, 1, before_seq))
    by_index(found, pages=rows // 15 + 100)


def test_recall_index_of_a_short_thread(filled: str) -> None:
    by_index(explain(filled, 1, lambda session: recall.thread_index(session, 77)), pages=10)


def test_recall_index_of_a_user(filled: str) -> None:
    """About twenty threads of five messages."""
    found = explain(filled, 1, lambda session: recall.user_indexes(session, "user_7"))
    by_index(found, pages=400, sorted_rows=500)


#: As `list_embedders` returns the built-in one; the number of its vectors' type matters only to writing.
BUILTIN = EmbedderRecord(1, "builtin:1", "{}", 384, "active", NOW, 0)
QUERY = np.full(384, 0.05, dtype=np.float32)


def test_signs_of_the_long_thread(filled: str) -> None:
    """Read in the index alone, in its order."""
    found = explain(filled, 1, lambda session: vectors.sign_similarities(session, BUILTIN, [1], QUERY))
    by_index(found, pages=LONG // 50 + 100)
    assert {"Index Only Scan"} == {n["Node Type"] for n in found[0].nodes if n.get("Relation Name") == "vectors_1"}


@pytest.mark.parametrize("signs", [True, False])
def test_vectors_that_are_new_in_the_long_thread(filled: str, signs: bool) -> None:
    by_index(explain(filled, 1, lambda s: recall.thread_index(s, 1, LONG, LONG - 20)), pages=20, sorted_rows=20)
    use = lambda s: vectors.thread_vectors(s, BUILTIN, 1, LONG - 20, LONG, signs=signs)  # noqa: E731
    by_index(explain(filled, 1, use), pages=20, sorted_rows=20)


def test_vectors_of_the_long_thread(filled: str) -> None:
    found = explain(filled, 1, lambda s: vectors.thread_vectors(s, BUILTIN, 1, 1, LONG, signs=True))
    by_index(found, pages=LONG // 50 + 100)


@pytest.mark.parametrize("thread_pks", [[77], list(range(100, 130))])
def test_vectors_of_short_threads(filled: str, thread_pks: list[int]) -> None:
    for compare in (vectors.similarities, vectors.sign_similarities):
        found = explain(filled, 1, lambda s, c=compare: c(s, BUILTIN, thread_pks, QUERY))  # type: ignore[misc]
        by_index(found, pages=10 * len(thread_pks) + 10, sorted_rows=1_000)


def test_single_vectors_of_the_long_thread(filled: str) -> None:
    seqs = list(range(1, LONG, 100))
    found = explain(
        filled, 1, lambda s: vectors.similarities_at(s, BUILTIN, QUERY, [1] * len(seqs), seqs, [1] * len(seqs))
    )
    by_index(found, pages=6 * len(seqs))
    found = explain(filled, 1, lambda s: vectors.mean_at(s, BUILTIN, [1] * len(seqs), seqs, [1] * len(seqs)))
    by_index(found, pages=6 * len(seqs))


def test_the_queue(filled: str) -> None:
    """Half of the long thread waits. The oldest are taken by index, and a thread's are counted by index."""
    claimed = uuid4()

    async def take(session: Session) -> None:
        now = datetime(2027, 11, 1, tzinfo=UTC)
        messages = await embedding.claim(session, 1, claimed, now, now + timedelta(minutes=5), 256)
        assert len(messages) == 256
        await embedding.release(session, claimed, messages, [now] * 256, "")

    by_index(explain(filled, None, take, "memory_worker"), pages=20_000, sorted_rows=1_000)
    by_index(explain(filled, 1, lambda session: embedding.count_pending(session, [77, 78])), pages=20)
    by_index(explain(filled, 1, lambda session: vectors.forget(session, 77, 3)), pages=200)


def test_writes_within_a_thread(filled: str) -> None:
    """They find their rows by index; each may sort the few of them."""

    async def use(session: Session) -> None:
        await prompts.add_prompt(
            session,
            id="prompt_new",
            thread_pk=1,
            lane_key="lane",
            stable_digest="another digest",
            stable_text="[]",
            plan="{}",
            volatile="{}",
            shared_digest="shared",
            recalled_seqs=[1],
            now=NOW,
        )
        await prompts.save_lane(session, 1, "lane", Lane(1, 0, 0, "digest"), NOW)
        await prompts.mark_sent(session, await prompts.get_prompt(session, 1, "prompt_2500"), "{}", None, NOW)
        await threads.bump_version(session, 1)
        await threads.update_thread(session, 1, fields={}, metadata={})
        await edits.set_tail(session, 1, Tail(), deleted=0)

    by_index(explain(filled, 1, use), pages=30, sorted_rows=MAX_LANES * 2)


def test_what_a_deletion_erases_of_answers(filled: str) -> None:
    async def use(session: Session) -> None:
        await idempotency.erase_answers(session, "asst_1")
        await idempotency.erase_message(session, "thread_7", "msg_1")
        await idempotency.forget_threads(session, ["thread_7"])

    by_index(explain(filled, 1, use), pages=30)


def test_erasing_a_user(filled: str) -> None:
    """A step of it, for twenty threads of five messages. The last one also reads what was answered to imports that day."""
    found = explain(filled, 1, lambda session: users.erase_some(session, "user_7", 1_000))
    assert len(found) == 2 * 9, "threads, messages, prompts, ledger twice, answers three times, threads"
    by_index([one for one in found if "strpos" not in one.statement], pages=1_500)


def test_what_is_held_of_a_user(filled: str) -> None:
    by_index(explain(filled, 1, lambda session: users.count(session, "user_7")), pages=300)
    by_index(explain(filled, 1, lambda session: users.revisions_after(session, 50, (1, 0), 100)), pages=20)
    by_index(explain(filled, 1, lambda session: prompts.prompts_after(session, 1, 2500, 100)), pages=150)


def test_old_prompts_are_found_by_their_place(filled: str) -> None:
    """A page of the long thread's, of which only the newest is needed."""
    with psycopg.connect(filled, autocommit=True) as owner:
        owner.execute("UPDATE memory.prompts SET built_at = '2026-01-01' WHERE pk <= 5000")

    async def use(session: Session) -> None:
        page = await retention.delete_prompts(session, 100, NOW - timedelta(days=30), 100)
        assert (page.last_pk, page.prompts) == (200, 100)

    found = explain(filled, None, use, "memory_worker")
    assert len(found) == 2 * 5, "page, threads, prompts, stable texts, revisions"
    by_index(found, pages=2_000, sorted_rows=200)


def test_expired_answers_are_found_by_their_age(filled: str) -> None:
    async def use(session: Session) -> None:
        assert await idempotency.delete_expired(session, NOW - timedelta(days=3), limit=100) == 0

    by_index(explain(filled, None, use, "memory_worker"), pages=20, sorted_rows=100)


def test_api_key(filled: str) -> None:
    """The statement inside of the function, with the hash set as the function sets it."""

    async def check() -> list[Explained]:
        db = Database(filled, pool_size=1)
        assert await projects.authenticate(db, KEY) == AuthenticatedKey("key_500", 501)
        async with db.transaction(None) as session:
            source = await session.scalar(text("SELECT prosrc FROM pg_proc WHERE proname = 'find_key'"))
            inner = re.search(r"RETURN \((SELECT .*)\);", source, re.DOTALL)
            assert inner
            digest = projects.hash_key(KEY)
            await session.execute(text(f"SELECT set_config('memory.key_hash', '{digest.hex()}', true)"))
            found = await explained(session, inner[1].replace("sought", "%(sought)s"), {"sought": digest})
            assert found[0].rows == 1
        await db.close()
        return found

    by_index(asyncio.run(check()), pages=10)


def test_the_checks_can_fail(filled: str) -> None:
    async def scan(session: Session) -> None:
        await session.execute(text("SELECT count(*) FROM messages WHERE content LIKE '%a%'"))

    async def sort(session: Session) -> None:
        await session.execute(text("SELECT seq FROM messages WHERE thread_pk = 1 ORDER BY id DESC"))

    with pytest.raises(AssertionError, match="Seq Scan"):
        by_index(explain(filled, 1, scan), pages=1_000_000)
    with pytest.raises(AssertionError, match="Sort"):
        by_index(explain(filled, 1, sort), pages=1_000_000)
    with pytest.raises(AssertionError, match="pages"):
        by_index(explain(filled, 1, long_thread), pages=1)
