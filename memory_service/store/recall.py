"""Reading the recall index, a thread's or all of a user's, and what it leads to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from memory_service.store.db import IN_BINARY, Session
from memory_service.store.session import text


@dataclass(frozen=True, slots=True)
class ThreadIndex:
    """The index entries of one thread, oldest first, as `core.recall.rank` takes them."""

    thread_pk: int
    thread_id: str
    index: bytes


async def thread_index(
    session: Session, thread_pk: int, before_seq: int | None = None, first_seq: int | None = None
) -> bytes:
    """The index of a thread, or of its part between two seqs; empty when there is nothing."""
    index = await session.scalar(
        text(
            "SELECT string_agg(terms, NULL ORDER BY seq) FROM message_terms WHERE thread_pk = :thread_pk"
            + (" AND seq >= :first_seq" if first_seq is not None else "")
            + (" AND seq < :before_seq" if before_seq is not None else "")
        ),
        {"thread_pk": thread_pk, "before_seq": before_seq, "first_seq": first_seq},
        execution_options=IN_BINARY,
    )
    return bytes(index) if index is not None else b""


async def copy_index(session: Session, source_pk: int, target_pk: int, last_seq: int) -> None:
    """Give a fork the index of its source up to a seq."""
    await session.execute(
        text(
            "INSERT INTO message_terms (thread_pk, project_id, seq, terms)"
            " SELECT :target, project_id, seq, terms FROM message_terms WHERE thread_pk = :source AND seq <= :last_seq"
        ),
        {"source": source_pk, "target": target_pk, "last_seq": last_seq},
    )


async def user_indexes(session: Session, user_id: str) -> Sequence[ThreadIndex]:
    rows = await session.execute(
        text(
            "SELECT t.pk, t.id, string_agg(m.terms, NULL ORDER BY m.seq) AS entries FROM threads t"
            " JOIN message_terms m ON m.thread_pk = t.pk"
            " WHERE t.project_id = :project_id AND t.user_id = :user_id GROUP BY t.pk, t.id ORDER BY t.pk"
        ),
        {"project_id": session.info["project_id"], "user_id": user_id},
        execution_options=IN_BINARY,
    )
    return [ThreadIndex(row.pk, row.id, bytes(row.entries)) for row in rows]


class Said(NamedTuple):
    """Of a message what is shown when it is quoted."""

    seq: int
    id: str
    role: str
    content: str
    created_at: datetime


async def said_at(session: Session, thread_pk: int, seqs: Sequence[int]) -> list[Said]:
    """The messages of a thread at these seqs, in no particular order."""
    rows = await session.rows(
        text(
            "SELECT seq, id, role, content, created_at FROM messages"
            " WHERE thread_pk = :thread_pk AND seq = ANY (CAST(:seqs AS int[])) AND deleted_at IS NULL"
        ),
        {"thread_pk": thread_pk, "seqs": f"{{{','.join(map(str, seqs))}}}"},
    )
    return [Said(*row) for row in rows]
