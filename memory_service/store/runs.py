"""Runs. Whoever changes one holds its thread's row, so that a run, its thread and the messages always agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from memory_service.core.canonical import dumps
from memory_service.core.runs import ACTIVE, ENDED
from memory_service.errors import NotFound
from memory_service.store.db import Session
from memory_service.store.pages import Page, PageQuery, fetch_page
from memory_service.store.session import text

RUN_COLUMNS = (
    "pk, thread_pk, id, status, provider, model, spec, waiting_message, owner, spent, prompt_ids, message_ids,"
    " required_action, last_error, incomplete_reason, provider_reply_id, metadata, created_at, started_at, expires_at,"
    " ended_at"
)
# Columns that `update` may set.
_SET = frozenset(
    {
        "status", "provider", "model", "waiting_message", "owner", "spent", "required_action", "last_error",
        "incomplete_reason", "provider_reply_id", "started_at", "ended_at",
    }
)  # fmt: skip
WORKED_ON = "status IN ('in_progress', 'cancelling')"
_INSERT_RUN = text(
    "WITH thread AS (UPDATE threads SET active_run_id = :id WHERE pk = :thread_pk AND :is_active)"
    " INSERT INTO runs (project_id, thread_pk, id, status, provider, model, spec, waiting_message, owner, metadata,"
    " created_at, started_at, provider_reply_id) VALUES (:project_id, :thread_pk, :id, :status, :provider, :model, :spec,"
    " :waiting_message, :owner, CAST(:metadata AS jsonb), :created_at, :started_at, (SELECT provider_reply_id FROM runs"
    " WHERE thread_pk = :thread_pk AND provider = :provider AND model = :model AND provider_reply_id IS NOT NULL"
    f" ORDER BY thread_pk DESC, pk DESC LIMIT 1)) RETURNING {RUN_COLUMNS}"
)
_GET_RUN = text(
    f"SELECT {RUN_COLUMNS} FROM runs WHERE project_id = :project_id AND thread_pk = :thread_pk AND id = :id"
)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """`provider_reply_id` is the provider's name of the newest reply of this model in the thread."""

    pk: int
    thread_pk: int
    id: str
    status: str
    provider: str
    model: str
    spec: str
    waiting_message: str | None
    owner: UUID | None
    spent: str
    prompt_ids: tuple[str, ...]
    message_ids: tuple[str, ...]
    required_action: str | None
    last_error: str | None
    incomplete_reason: str | None
    provider_reply_id: str | None
    metadata: Mapping[str, str]
    created_at: datetime
    started_at: datetime | None
    expires_at: datetime | None
    ended_at: datetime | None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class Stray:
    """A run that nobody works on, and whose it is."""

    project_id: int
    thread_id: str
    run_id: str


def run_of(row: Any) -> RunRecord:
    found = row._asdict()
    return RunRecord(**{**found, "prompt_ids": tuple(row.prompt_ids), "message_ids": tuple(row.message_ids)})


async def add_run(
    session: Session,
    thread_pk: int,
    *,
    id: str,
    status: str,
    provider: str,
    model: str,
    spec: str,
    waiting_message: str | None,
    owner: UUID | None,
    metadata: Mapping[str, str],
    now: datetime,
) -> RunRecord:
    added = await session.execute(
        _INSERT_RUN,
        {
            "project_id": session.info["project_id"],
            "thread_pk": thread_pk,
            "id": id,
            "status": status,
            "provider": provider,
            "model": model,
            "spec": spec,
            "waiting_message": waiting_message,
            "owner": owner,
            "metadata": dumps(metadata),
            "created_at": now,
            "started_at": now if status in ACTIVE else None,
            "is_active": status in ACTIVE,
        },
    )
    return run_of(added.one())


async def get_run(session: Session, thread_pk: int, id: str) -> RunRecord:
    """Raises NotFound."""
    found = await session.execute(
        _GET_RUN, {"project_id": session.info["project_id"], "thread_pk": thread_pk, "id": id}
    )
    row = found.first()
    if row is None:
        raise NotFound(f"There is no run {id[:64]!r} in this thread.", field="run_id")
    return run_of(row)


async def expect_worked_on(session: Session, run: RunRecord, server: UUID) -> None:
    """Hold a run's row if this server still works on it, and nobody wants it to stop; otherwise the transaction raises
    ThreadMoved."""
    await session.post(
        text(
            "SELECT expect((SELECT true FROM runs WHERE pk = :pk AND owner = :server AND status = 'in_progress'"
            " FOR NO KEY UPDATE))"
        ),
        {"pk": run.pk, "server": server},
    )


async def find_run(session: Session, id: str) -> tuple[str, RunRecord]:
    """A run and the id of its thread. Raises NotFound."""
    columns = ", ".join(f"r.{column.strip()}" for column in RUN_COLUMNS.split(","))
    found = await session.execute(
        text(
            f"SELECT {columns}, t.id AS thread_id FROM runs r JOIN threads t ON t.pk = r.thread_pk"
            " WHERE r.project_id = :project_id AND r.id = :id"
        ),
        {"project_id": session.info["project_id"], "id": id},
    )
    row = found.first()
    if row is None:
        raise NotFound(f"There is no run {id[:64]!r} in this project.", field="run_id")
    values = row._asdict()
    thread_id = values.pop("thread_id")
    ids = {name: tuple(values[name]) for name in ("prompt_ids", "message_ids")}
    return thread_id, RunRecord(**{**values, **ids})


async def count_runs(session: Session, thread_pk: int) -> int:
    counted = await session.scalar(text("SELECT count(*) FROM runs WHERE thread_pk = :pk"), {"pk": thread_pk})
    return int(counted or 0)


async def delete_run(session: Session, run: RunRecord) -> None:
    """With its events; the messages it wrote stay in the thread."""
    await session.execute(text("DELETE FROM runs WHERE pk = :pk"), {"pk": run.pk})


async def list_runs(session: Session, thread_pk: int, query: PageQuery) -> Page[RunRecord]:
    rows, has_more = await fetch_page(
        session,
        query,
        columns=RUN_COLUMNS,
        table="runs",
        key=("pk",),
        where="project_id = :project_id AND thread_pk = :thread_pk",
        parameters={"project_id": session.info["project_id"], "thread_pk": thread_pk},
    )
    return Page(tuple(run_of(row) for row in rows), has_more)


async def with_ids(session: Session, thread_pk: int, ids: Collection[str]) -> dict[str, RunRecord]:
    """By id, those of a thread that exist."""
    found = await session.execute(
        text(
            f"SELECT {RUN_COLUMNS} FROM runs WHERE project_id = :project_id AND thread_pk = :thread_pk AND id = ANY (:ids)"
        ),
        {"project_id": session.info["project_id"], "thread_pk": thread_pk, "ids": list(ids)},
    )
    return {row.id: run_of(row) for row in found}


async def set_metadata(session: Session, run: RunRecord, metadata: Mapping[str, str]) -> RunRecord:
    updated = await session.execute(
        text(f"UPDATE runs SET metadata = CAST(:metadata AS jsonb) WHERE pk = :pk RETURNING {RUN_COLUMNS}"),
        {"metadata": dumps(metadata), "pk": run.pk},
    )
    return run_of(updated.one())


async def update(
    session: Session,
    run: RunRecord,
    *,
    prompt_ids: Sequence[str] = (),
    message_ids: Sequence[str] = (),
    expires_in_seconds: float | None = None,
    **values: Any,
) -> RunRecord:
    """Set columns and append ids. The thread knows by its row whether a run is active. The caller holds that row."""
    assert values.keys() <= _SET
    sets = [f"{name} = :{name}" for name in values]
    # By the clock of the database, by which it is looked for.
    sets += ["expires_at = now() + make_interval(secs => CAST(:expires_in AS float))"]
    sets += ["prompt_ids = prompt_ids || CAST(:prompt_ids AS text[])"] if prompt_ids else []
    sets += ["message_ids = message_ids || CAST(:message_ids AS text[])"] if message_ids else []
    is_active = values.get("status", run.status) in ACTIVE
    thread = (
        "WITH thread AS (UPDATE threads SET active_run_id = :active_id WHERE pk = :thread_pk) "
        if (run.status in ACTIVE) != is_active
        else ""
    )
    updated = await session.execute(
        text(f"{thread}UPDATE runs SET {', '.join(sets)} WHERE pk = :pk RETURNING {RUN_COLUMNS}"),
        {
            **values,
            "expires_in": expires_in_seconds,
            "prompt_ids": list(prompt_ids),
            "message_ids": list(message_ids),
            "pk": run.pk,
            "thread_pk": run.thread_pk,
            "active_id": run.id if is_active else None,
        },
    )
    return run_of(updated.one())


async def next_queued(session: Session, thread_pk: int) -> RunRecord | None:
    found = await session.execute(
        text(
            f"SELECT {RUN_COLUMNS} FROM runs WHERE thread_pk = :thread_pk AND status = 'queued'"
            " ORDER BY thread_pk, pk LIMIT 1"
        ),
        {"thread_pk": thread_pk},
    )
    row = found.first()
    return run_of(row) if row else None


async def count_queued(session: Session, thread_id: str) -> int:
    counted = await session.scalar(
        text(
            "SELECT count(*) FROM runs r JOIN threads t ON t.pk = r.thread_pk"
            " WHERE t.project_id = :project_id AND t.id = :id AND r.status = 'queued'"
        ),
        {"project_id": session.info["project_id"], "id": thread_id},
    )
    return int(counted or 0)


async def beat(session: Session, server: UUID) -> float:
    """How many seconds after the one before. For a transaction of the worker's, like all that follows."""
    paused = await session.scalar(
        text(
            "WITH before AS (SELECT beat_at FROM servers WHERE id = :id) INSERT INTO servers (id) VALUES (:id)"
            " ON CONFLICT (id) DO UPDATE SET beat_at = now()"
            " RETURNING extract(epoch FROM now() - (SELECT beat_at FROM before))"
        ),
        {"id": server},
    )
    return float(paused or 0)


async def leave(session: Session, server: UUID) -> None:
    await session.execute(text("DELETE FROM servers WHERE id = :id"), {"id": server})


async def owned(session: Session, server: UUID) -> dict[int, str]:
    """The status of each run that this server works on."""
    found = await session.execute(
        text("SELECT pk, status FROM runs WHERE status IN ('in_progress', 'cancelling') AND owner = :id"),
        {"id": server},
    )
    return {row.pk: row.status for row in found}


async def disown(session: Session, server: UUID, run_pks: Collection[int]) -> None:
    """Leave runs of this server to whoever finds them."""
    if run_pks:
        await session.execute(
            text("UPDATE runs SET owner = NULL WHERE pk = ANY (:pks) AND owner = :id"),
            {"pks": list(run_pks), "id": server},
        )


async def take_from_dead(session: Session, dead_after_seconds: float) -> None:
    """The runs of servers that wrote no beat for so long are nobody's from now on: what those still write is refused.

    A row that is locked is being written to, and is seen to the next time.
    """
    await session.execute(
        text(
            f"UPDATE runs SET owner = NULL WHERE pk IN (SELECT pk FROM runs r WHERE {WORKED_ON} AND owner IS NOT NULL"
            " AND NOT EXISTS (SELECT FROM servers s WHERE s.id = r.owner"
            "  AND s.beat_at > now() - make_interval(secs => :dead_after_seconds)) FOR NO KEY UPDATE SKIP LOCKED)"
        ),
        {"dead_after_seconds": dead_after_seconds},
    )


async def strays(session: Session, limit: int = 100) -> list[Stray]:
    """Runs that no server has, that nobody answers in time, or that wait for a thread which is free."""
    found = await session.execute(
        text(
            "SELECT r.project_id, t.id AS thread_id, r.id AS run_id FROM runs r JOIN threads t ON t.pk = r.thread_pk"
            f" WHERE ({WORKED_ON} AND owner IS NULL) OR (status = 'requires_action' AND expires_at < now())"
            " OR (status = 'queued' AND t.active_run_id IS NULL) ORDER BY r.pk LIMIT :limit"
        ),
        {"limit": limit},
    )
    return [Stray(*row) for row in found]


async def has_expired(session: Session, run: RunRecord) -> bool:
    """By the clock of the database, as whoever waits was told."""
    return bool(await session.scalar(text("SELECT expires_at < now() FROM runs WHERE pk = :pk"), {"pk": run.pk}))


async def forget_servers(session: Session, until: datetime) -> None:
    """Those not seen since."""
    await session.execute(text("DELETE FROM servers WHERE beat_at <= :until"), {"until": until})
