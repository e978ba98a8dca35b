"""Answers to POSTs, kept so that a retry gets the first answer instead of a second effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from memory_service.core.canonical import dumps
from memory_service.errors import Conflict, IdempotencyConflict, IdempotencyInProgress
from memory_service.store.db import Session
from memory_service.store.session import text

KEPT = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class IdempotentCall:
    """A POST that carries an Idempotency-Key."""

    method: str
    path: str
    key: str
    body: bytes

    @property
    def body_hash(self) -> bytes:
        return sha256(self.body).digest()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str


async def claim(session: Session, call: IdempotentCall, now: datetime) -> Answer | None:
    """The answer given before, or None if the call is this transaction's to make.

    Raises IdempotencyConflict when the key came with another body, IdempotencyInProgress while another transaction holds
    it.
    """
    scope = f"{session.info['project_id']}\n{call.method}\n{call.path}\n{call.key}"
    lock = int.from_bytes(sha256(scope.encode()).digest()[:8], signed=True)
    claimed = await session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": lock})
    earlier = await find(session, call, now)
    if earlier is None and not claimed:  # else it is another repetition that holds it
        raise IdempotencyInProgress(
            "The first request with this Idempotency-Key is still running; send it again in a moment."
        )
    return earlier


async def find(session: Session, call: IdempotentCall, now: datetime) -> Answer | None:
    """The answer given before.

    Raises IdempotencyConflict when the key came with another body, Conflict when the answer was erased.
    """
    found = await session.execute(
        text(
            "SELECT body_hash, status, answer FROM idempotency_records"
            " WHERE project_id = :project_id AND method = :method AND path = :path AND key = :key"
            " AND created_at > :since"
        ),
        {
            "project_id": session.info["project_id"],
            "method": call.method,
            "path": call.path,
            "key": call.key,
            "since": now - KEPT,
        },
    )
    row = found.first()
    if row is None:
        return None
    if bytes(row.body_hash) != call.body_hash:
        raise IdempotencyConflict("This Idempotency-Key was used with another body; use a new key for a new request.")
    if not row.answer:
        raise Conflict(
            "What the first request with this Idempotency-Key wrote was deleted since, and its answer with it; use a new "
            "key for a new request.",
            code="idempotency_answer_erased",
        )
    return Answer(row.status, row.answer)


async def erase_answers(session: Session, object_id: str) -> None:
    """Erase the answers that show this object. The keys stay, so that no retry brings back what was deleted."""
    await session.execute(
        text("UPDATE idempotency_records SET answer = '' WHERE project_id = :project_id AND object_id = :object_id"),
        {"project_id": session.info["project_id"], "object_id": object_id},
    )


async def erase_message(session: Session, thread_id: str, message_id: str) -> None:
    """The same for a message, which stands somewhere in answers of its thread."""
    await session.execute(
        text(
            "UPDATE idempotency_records SET answer = ''"
            " WHERE project_id = :project_id AND thread_id = :thread_id AND strpos(answer, :opening) > 0"
        ),
        {
            "project_id": session.info["project_id"],
            "thread_id": thread_id,
            "opening": f'{{"id":{dumps(message_id)},',
        },
    )


async def forget_threads(session: Session, thread_ids: Sequence[str]) -> None:
    """Delete what was answered to calls of threads, and erase the answers that show the threads themselves."""
    values = {"project_id": session.info["project_id"], "ids": list(thread_ids)}
    for statement in (
        "DELETE FROM idempotency_records WHERE project_id = :project_id AND thread_id = ANY (:ids)",
        "UPDATE idempotency_records SET answer = '' WHERE project_id = :project_id AND object_id = ANY (:ids)",
    ):
        await session.execute(text(statement), values)


async def record(session: Session, call: IdempotentCall, answer: Answer, now: datetime) -> None:
    await session.post(
        text(
            "INSERT INTO idempotency_records (project_id, method, path, key, body_hash, status, answer, created_at)"
            " VALUES (:project_id, :method, :path, :key, :body_hash, :status, :answer, :now)"
            " ON CONFLICT (project_id, method, path, key) DO UPDATE SET"
            " body_hash = excluded.body_hash, status = excluded.status, answer = excluded.answer,"
            " created_at = excluded.created_at"
        ),
        {
            "project_id": session.info["project_id"],
            "method": call.method,
            "path": call.path,
            "key": call.key,
            "body_hash": call.body_hash,
            "status": answer.status,
            "answer": answer.body,
            "now": now,
        },
    )


async def delete_expired(session: Session, now: datetime, limit: int = 1_000) -> int:
    """Delete records that no retry can meet any more; for a transaction of the worker's."""
    deleted = await session.execute(
        text(
            "DELETE FROM idempotency_records WHERE (project_id, method, path, key) IN"
            " (SELECT project_id, method, path, key FROM idempotency_records WHERE created_at <= :until LIMIT :limit"
            " FOR UPDATE SKIP LOCKED) RETURNING 1"
        ),
        {"until": now - KEPT, "limit": limit},
    )
    return len(deleted)
