"""Runs that have ended, as exports give and imports take them. What is written here is never executed, waits for nothing
and stands in no ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from memory_service.core.canonical import dumps
from memory_service.store.db import Session
from memory_service.store.runs import RUN_COLUMNS, RunRecord, run_of
from memory_service.store.session import text

_COLUMNS = {
    "id": "text",
    "status": "text",
    "provider": "text",
    "model": "text",
    "spec": "text",
    "spent": "text",
    "last_error": "text",
    "incomplete_reason": "text",
    "metadata": "text",
    "created_at": "timestamptz",
    "started_at": "timestamptz",
    "ended_at": "timestamptz",
}
_ADD = text(
    f"INSERT INTO runs (project_id, thread_pk, {', '.join(_COLUMNS)})"
    " SELECT :project_id, thread_pk, id, status, provider, model, spec, spent, last_error, incomplete_reason,"
    " CAST(metadata AS jsonb), coalesce(created_at, :now), started_at, coalesce(ended_at, started_at, created_at, :now)"
    " FROM unnest(CAST(:thread_pk AS bigint[]), "
    + ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in _COLUMNS.items())
    + f") WITH ORDINALITY AS new (thread_pk, {', '.join(_COLUMNS)}, place) ORDER BY place"
)


@dataclass(frozen=True, slots=True)
class EndedRun:
    """As the columns of `tables.Run`. Times that are not known are taken from each other, and at last from the import."""

    id: str
    status: str
    provider: str
    model: str
    spec: str
    spent: str
    last_error: str | None
    incomplete_reason: str | None
    metadata: Mapping[str, str]
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None


async def add(session: Session, runs: Sequence[tuple[int, EndedRun]], now: datetime) -> None:
    """Runs with the pks of their threads, in their order."""
    columns = {name: [getattr(run, name) for _, run in runs] for name in _COLUMNS}
    await session.execute(
        _ADD,
        {
            **columns,
            "metadata": [dumps(metadata) for metadata in columns["metadata"]],
            "project_id": session.info["project_id"],
            "thread_pk": [thread_pk for thread_pk, _ in runs],
            "now": now,
        },
    )


async def threads_of(session: Session, ids: Collection[str]) -> dict[str, int]:
    """By id of a run, those that exist: the pk of its thread."""
    found = await session.execute(
        text("SELECT id, thread_pk FROM runs WHERE project_id = :project_id AND id = ANY (:ids)"),
        {"project_id": session.info["project_id"], "ids": list(ids)},
    )
    return {row.id: row.thread_pk for row in found}


async def note_messages(session: Session, thread_pks: Collection[int], ids: Collection[str]) -> None:
    """Let runs of these threads know what they wrote, as their messages tell it."""
    await session.execute(
        text(
            "UPDATE runs r SET message_ids = written.ids FROM (SELECT thread_pk, run_id, array_agg(id ORDER BY seq) AS ids"
            " FROM messages WHERE thread_pk = ANY (:thread_pks) AND run_id = ANY (:ids) AND role = 'assistant'"
            " AND deleted_at IS NULL GROUP BY thread_pk, run_id) AS written"
            " WHERE r.project_id = :project_id AND r.id = written.run_id AND r.thread_pk = written.thread_pk"
        ),
        {"project_id": session.info["project_id"], "thread_pks": list(thread_pks), "ids": list(ids)},
    )


async def ended_after(session: Session, thread_pk: int, pk: int, limit: int) -> list[RunRecord]:
    """In the order in which they were made, behind a pk."""
    found = await session.execute(
        text(
            f"SELECT {RUN_COLUMNS} FROM runs WHERE thread_pk = :thread_pk AND pk > :pk AND ended_at IS NOT NULL"
            " ORDER BY thread_pk, pk LIMIT :limit"
        ),
        {"thread_pk": thread_pk, "pk": pk, "limit": limit},
    )
    return [run_of(row) for row in found]
