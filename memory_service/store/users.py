"""What is held of an end user: counted, read, erased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from memory_service.core.canonical import dumps
from memory_service.store import idempotency, usage
from memory_service.store.db import Session
from memory_service.store.session import text

# Threads that one transaction of an erasure locks.
_THREADS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Holdings:
    """`messages` are those with content: of a deleted one only its place is held. `calls` are the ledger's."""

    threads: int
    messages: int
    prompts: int
    first_thread_at: datetime | None
    last_thread_at: datetime | None
    calls: int


@dataclass(frozen=True, slots=True)
class Erased:
    """What one step of an erasure deleted, counted as in `Holdings`. `done`: nothing of the user is left."""

    threads: int
    messages: int
    prompts: int
    done: bool


async def count(session: Session, user_id: str) -> Holdings:
    found = await session.execute(
        text(
            "SELECT count(*), coalesce(sum(message_count), 0),"
            " coalesce(sum((SELECT count(*) FROM prompts p WHERE p.thread_pk = t.pk)), 0), min(created_at),"
            " max(created_at) FROM threads t WHERE project_id = :project_id AND user_id = :user_id"
        ),
        {"project_id": session.info["project_id"], "user_id": user_id},
    )
    threads, messages, prompts, first, last = found.one()
    return Holdings(threads, int(messages), int(prompts), first, last, await usage.count_of_user(session, user_id))


async def revisions_after(
    session: Session, thread_pk: int, last: tuple[int, int], limit: int
) -> list[tuple[tuple[int, int], str, str]]:
    """(place, message id, what it said) before each edit of a thread's messages, behind a place."""
    rows = await session.execute(
        text(
            "SELECT r.seq, r.until_version, m.id, r.content FROM message_revisions r JOIN messages m USING (thread_pk, seq)"
            " WHERE r.thread_pk = :thread_pk AND (r.seq, r.until_version) > (:seq, :version)"
            " ORDER BY r.seq, r.until_version LIMIT :limit"
        ),
        {"thread_pk": thread_pk, "seq": last[0], "version": last[1], "limit": limit},
    )
    return [((row.seq, row.until_version), row.id, row.content) for row in rows]


async def erase_some(session: Session, user_id: str, limit: int) -> Erased:
    """Delete a part of what is held of a user, `limit` messages and prompts at most: locks are held for a moment only.

    Threads go when they are empty, and with them the answers in which something of them stands. The ledger keeps what was
    billed, and forgets for whom.
    """
    project_id = session.info["project_id"]
    threads = await session.execute(
        text(
            "SELECT pk, id FROM threads WHERE project_id = :project_id AND user_id = :user_id ORDER BY created_at, pk"
            " LIMIT :limit FOR UPDATE"
        ),
        {"project_id": project_id, "user_id": user_id, "limit": _THREADS_AT_ONCE},
    )
    pks = {"pks": [row.pk for row in threads]}
    had_content = await _delete(session, "messages", {**pks, "limit": limit}, "deleted_at IS NULL")
    messages, left = sum(had_content), limit - len(had_content)
    prompts = len(await _delete(session, "prompts", {**pks, "limit": left}, "true")) if left else 0
    left -= prompts
    if not left or await usage.forget_user(session, user_id, left) == left:
        return Erased(0, messages, prompts, done=False)
    await usage.forget_threads(session, [row.id for row in threads])
    await idempotency.forget_threads(session, [row.id for row in threads])
    await session.execute(text("DELETE FROM threads WHERE pk = ANY (:pks)"), pks)
    done = len(threads) < _THREADS_AT_ONCE
    if done:
        await _erase_mentions(session, user_id)
    return Erased(len(threads), messages, prompts, done)


async def _delete(session: Session, table: str, values: dict[str, object], told: str) -> Sequence[bool]:
    """What `told` says of each row that was deleted."""
    # By place instead of key: within one statement it is the same row, and nothing has to be looked up or sorted.
    deleted = await session.execute(
        text(
            f"DELETE FROM {table} WHERE ctid = ANY"
            f" (ARRAY(SELECT ctid FROM {table} WHERE thread_pk = ANY (:pks) LIMIT :limit)) RETURNING {told}"
        ),
        values,
    )
    return [row[0] for row in deleted]


async def _erase_mentions(session: Session, user_id: str) -> None:
    """Answers of the last 24 hours that name the user though no thread of theirs does, such as one that was handed over.

    An import's answer lists ids, whoever's they are, unless all were kept.
    """
    await session.execute(
        text(
            "UPDATE idempotency_records SET answer = '' WHERE project_id = :project_id AND thread_id IS NULL"
            " AND (object_id IS NOT NULL AND strpos(answer, :user) > 0"
            " OR path LIKE '%/import' AND strpos(answer, '\"renamed\":{}') = 0)"
        ),
        {"project_id": session.info["project_id"], "user": f'"user_id":{dumps(user_id)},'},
    )
