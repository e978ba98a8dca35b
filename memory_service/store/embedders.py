"""The embedders: which is active, which is being built, which was retired. They are not any project's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from memory_service.errors import DatabaseNotReady
from memory_service.store.db import Session, connection_options, sqlalchemy_url, why_unusable

_EMBEDDER = "pk, name, spec, dimensions, status, created_at, 'halfvec'::regtype::oid::bigint AS element_oid"

_LOCK_NOT_AVAILABLE = "55P03"
_GIVE_UP_BUILDING = text("UPDATE embedders SET status = 'retired', retired_at = :now WHERE status = 'building'")


@dataclass(frozen=True, slots=True)
class EmbedderRecord:
    """`element_oid` is Postgres's number for the type of its vectors, which a binary parameter must name."""

    pk: int
    name: str
    spec: str
    dimensions: int
    status: str
    created_at: datetime
    element_oid: int

    @property
    def table(self) -> str:
        return f"vectors_{self.pk:d}"


async def list_embedders(session: Session) -> list[EmbedderRecord]:
    """All, oldest first."""
    rows = await session.execute(text(f"SELECT {_EMBEDDER} FROM embedders ORDER BY pk"))
    return [EmbedderRecord(*row) for row in rows]


def add_building(url: str, *, name: str, spec: str, dimensions: int, now: datetime) -> int | None:
    """Begin to build an embedder, with an empty table for its vectors; its pk. A build that was begun before ends.

    None when transactions that write messages run too long: the table's foreign key must wait for them, and all who write
    would wait behind it. Connects as the role of the URL, which owns the tables. Raises DatabaseNotReady.
    """
    engine = create_engine(
        sqlalchemy_url(url), connect_args={"options": connection_options(url, None), "connect_timeout": 10}
    )
    try:
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '500ms'"))
            connection.execute(_GIVE_UP_BUILDING, {"now": now})
            pk = connection.scalar(
                text(
                    "INSERT INTO embedders (name, spec, dimensions, status, created_at)"
                    " VALUES (:name, :spec, :dimensions, 'building', :now) RETURNING pk"
                ),
                {"name": name, "spec": spec, "dimensions": dimensions, "now": now},
            )
            connection.execute(text("SELECT create_vectors(:pk, :dimensions)"), {"pk": pk, "dimensions": dimensions})
    except SQLAlchemyError as error:
        if getattr(getattr(error, "orig", None), "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            return None
        raise DatabaseNotReady(why_unusable(error)) from error
    finally:
        engine.dispose()
    assert pk is not None
    return int(pk)


async def give_up_building(session: Session, now: datetime) -> None:
    await session.execute(_GIVE_UP_BUILDING, {"now": now})


async def transaction_number(session: Session) -> int:
    """A number that every transaction begun later exceeds."""
    return int(await session.scalar(text("SELECT pg_current_xact_id()::text::bigint")))


async def older_transactions_run(session: Session, number: int) -> bool:
    """Whether a transaction with a number up to this one has not ended yet."""
    oldest = await session.scalar(text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"))
    return int(oldest) <= number


async def enqueue_after(
    session: Session, embedder: EmbedderRecord, place: tuple[int, int], limit: int
) -> tuple[int, int] | None:
    """Queue messages that have no vector, the next `limit` after a (thread_pk, seq); the last of them, None at the end.

    For the worker's role. The threads' locks come first, as for everybody who changes a message.
    """
    rows = await session.execute(
        text(
            "SELECT thread_pk, seq FROM message_terms WHERE (thread_pk, seq) > (:thread_pk, :seq)"
            " ORDER BY thread_pk, seq LIMIT :limit"
        ),
        {"thread_pk": place[0], "seq": place[1], "limit": limit},
    )
    found = [(row.thread_pk, row.seq) for row in rows]
    if not found:
        return None
    await session.execute(
        text("SELECT FROM threads WHERE pk = ANY (:pks) ORDER BY pk FOR KEY SHARE"),
        {"pks": sorted({thread_pk for thread_pk, _ in found})},
    )
    await session.execute(
        text(
            "INSERT INTO pending_embeddings (thread_pk, seq, embedder_pk, project_id)"
            " SELECT m.thread_pk, m.seq, :embedder_pk, m.project_id"
            " FROM unnest(CAST(:thread_pks AS bigint[]), CAST(:seqs AS int[])) AS found (thread_pk, seq)"
            " JOIN message_terms m ON m.thread_pk = found.thread_pk AND m.seq = found.seq"
            f" WHERE NOT EXISTS (SELECT FROM {embedder.table} v WHERE v.thread_pk = m.thread_pk AND v.seq = m.seq)"
            " ON CONFLICT DO NOTHING"
        ),
        {"embedder_pk": embedder.pk, "thread_pks": [f[0] for f in found], "seqs": [f[1] for f in found]},
    )
    return found[-1]


async def activate(session: Session, pk: int, now: datetime) -> bool:
    """Let searches use the embedder that was built; the one before is retired. False when it is not being built."""
    found = await session.scalar(
        text("SELECT pk FROM embedders WHERE pk = :pk AND status = 'building' FOR UPDATE"), {"pk": pk}
    )
    if found is None:
        return False
    await session.execute(
        text("UPDATE embedders SET status = 'retired', retired_at = :now WHERE status = 'active'"), {"now": now}
    )
    await session.execute(text("UPDATE embedders SET status = 'active' WHERE pk = :pk"), {"pk": pk})
    return True


async def empty_retired(session: Session, before: datetime) -> list[str]:
    """Delete the vectors of embedders that were retired before a time, when no service uses them any more.

    Returns the names of those that had any. For the worker's role.
    """
    emptied = []
    rows = await session.execute(
        text("SELECT pk, name FROM embedders WHERE status = 'retired' AND retired_at < :before"), {"before": before}
    )
    for pk, name in rows:
        await session.execute(text("DELETE FROM pending_embeddings WHERE embedder_pk = :pk"), {"pk": pk})
        if await session.scalar(text(f"SELECT EXISTS (SELECT FROM vectors_{pk:d})")):
            await session.execute(text(f"TRUNCATE vectors_{pk:d}"))
            emptied.append(name)
    return emptied
