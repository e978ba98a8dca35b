"""The queue of messages that wait for vectors: claimed in batches, by as many services as there are.

A claim ends by itself at `not_before`, so nobody has to notice that the one who held it was killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from memory_service.store import vectors as vector_store
from memory_service.store.db import Session
from memory_service.store.embedders import EmbedderRecord
from memory_service.store.session import text
from memory_service.store.vectors import PlacedVectors, Vectors


@dataclass(frozen=True, slots=True)
class PendingMessage:
    """`attempts` counts this one. `content` is canonical JSON; None when the message was deleted meanwhile."""

    thread_pk: int
    seq: int
    project_id: int
    attempts: int
    content: str | None


async def claim(
    session: Session, embedder_pk: int, claim: UUID, now: datetime, until: datetime, limit: int
) -> list[PendingMessage]:
    """Take up to `limit` messages whose time has come, and that nobody else is taking."""
    rows = await session.execute(
        text(
            "WITH due AS ("
            " SELECT thread_pk, seq FROM pending_embeddings WHERE embedder_pk = :embedder_pk AND not_before <= :now"
            f" ORDER BY not_before LIMIT {limit:d} FOR UPDATE SKIP LOCKED"  # in the text, so that the plan is for so few
            "), claimed AS ("
            " UPDATE pending_embeddings p SET claim = :claim, not_before = :until, attempts = attempts + 1 FROM due"
            " WHERE p.embedder_pk = :embedder_pk AND p.thread_pk = due.thread_pk AND p.seq = due.seq"
            " RETURNING p.thread_pk, p.seq, p.project_id, p.attempts)"
            " SELECT c.*, m.content FROM claimed c JOIN messages m ON m.thread_pk = c.thread_pk AND m.seq = c.seq"
            " ORDER BY c.thread_pk, c.seq"
        ),
        {"embedder_pk": embedder_pk, "claim": claim, "now": now, "until": until},
    )
    return [PendingMessage(*row) for row in rows]


async def finish(
    session: Session,
    embedder: EmbedderRecord,
    claim: UUID,
    messages: Sequence[PendingMessage],
    vectors: Sequence[Vectors],
) -> int:
    """Write what was made for claimed messages. What was edited, deleted or claimed by another meanwhile is left out.

    Whoever changes a message holds its thread's row. The locks taken here wait for them, and keep them waiting.
    """
    thread_pks = sorted({message.thread_pk for message in messages})
    await session.execute(
        text("SELECT FROM threads WHERE pk = ANY (:pks) ORDER BY pk FOR KEY SHARE"), {"pks": thread_pks}
    )
    rows = await session.execute(
        text(
            "DELETE FROM pending_embeddings p USING unnest(CAST(:thread_pks AS bigint[]), CAST(:seqs AS int[]))"
            " AS done (thread_pk, seq) WHERE p.thread_pk = done.thread_pk AND p.seq = done.seq AND p.claim = :claim"
            " RETURNING p.thread_pk, p.seq"
        ),
        {"claim": claim, "thread_pks": [m.thread_pk for m in messages], "seqs": [m.seq for m in messages]},
    )
    ours = {(row.thread_pk, row.seq) for row in rows}
    made = [(m, v) for m, v in zip(messages, vectors, strict=True) if (m.thread_pk, m.seq) in ours]
    placed = [PlacedVectors(m.thread_pk, m.seq, m.project_id, v) for m, v in made]
    await vector_store.add_many(session, embedder, placed)
    return len(made)


async def release(
    session: Session, claim: UUID, messages: Sequence[PendingMessage], not_before: Sequence[datetime], error: str
) -> None:
    """Give claimed messages back, each to be tried again from its time on."""
    await session.execute(
        text(
            "UPDATE pending_embeddings p SET claim = NULL, not_before = given.not_before, last_error = :error"
            " FROM unnest(CAST(:thread_pks AS bigint[]), CAST(:seqs AS int[]), CAST(:times AS timestamptz[]))"
            " AS given (thread_pk, seq, not_before)"
            " WHERE p.thread_pk = given.thread_pk AND p.seq = given.seq AND p.claim = :claim"
        ),
        {
            "claim": claim,
            "error": error or None,
            "thread_pks": [message.thread_pk for message in messages],
            "seqs": [message.seq for message in messages],
            "times": list(not_before),
        },
    )


async def count_pending(session: Session, thread_pks: Sequence[int]) -> dict[int, int]:
    """How many messages of each thread wait for a vector of the active embedder; threads with none are left out."""
    rows = await session.execute(
        text(
            "SELECT thread_pk, count(*) FROM pending_embeddings WHERE thread_pk = ANY (:pks)"
            " AND embedder_pk = (SELECT pk FROM embedders WHERE status = 'active') GROUP BY thread_pk"
        ),
        {"pks": list(thread_pks)},
    )
    return {row[0]: row[1] for row in rows}


async def count_all_pending(session: Session) -> int:
    """Of all embedders and projects; for a transaction of the worker's."""
    return int(await session.scalar(text("SELECT count(*) FROM pending_embeddings")) or 0)


@dataclass(frozen=True, slots=True)
class QueueState:
    """How many messages wait for an embedder, since when the first of them, and why the last that failed did."""

    waiting: int
    oldest: datetime | None
    last_error: str | None
    now: datetime


async def queue_state(session: Session, embedder_pk: int) -> QueueState:
    row = await session.execute(
        text(
            "SELECT count(*), min(enqueued_at), max(last_error), clock_timestamp() FROM pending_embeddings"
            " WHERE embedder_pk = :embedder_pk"
        ),
        {"embedder_pk": embedder_pk},
    )
    return QueueState(*row.one())
