"""Runs, and the events of each. Whoever changes a run holds its thread's row, so that a run, its thread and the messages
always agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from memory_service.core.canonical import dumps
from memory_service.core.runs import ACTIVE, ENDED
from memory_service.errors import NotFound
from memory_service.store.db import Database, Session
from memory_service.store.messages import MessageRecord
from memory_service.store.pages import Page, PageQuery, fetch_page
from memory_service.store.session import InBinary, spelled, text

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
_EVENTS_AT_ONCE, _BYTES_AT_ONCE = 200, 200_000
_WORKED_ON = "status IN ('in_progress', 'cancelling')"
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
# The runs are held, so that none of them is deleted or ended meanwhile.
_HELD = "SELECT pk, project_id FROM runs WHERE pk = ANY (:pks)"
_INSERT_HELD = (
    " INSERT INTO run_events (run_pk, seq, project_id, type, content)"
    " SELECT run_pk, seq, held.project_id, type, content FROM unnest(CAST(:run_pk AS bigint[]), CAST(:seq AS int[]),"
    " CAST(:type AS text[]), CAST(:content AS text[])) AS new (run_pk, seq, type, content)"
    " JOIN held ON held.pk = run_pk ON CONFLICT DO NOTHING"
)
_INSERT_EVENTS = text(f"WITH held AS ({_HELD} ORDER BY pk FOR KEY SHARE){_INSERT_HELD}")
_WRITE_EVENTS = text(
    f"WITH held AS ({_HELD} AND owner = :server AND {_WORKED_ON} ORDER BY pk FOR SHARE), new AS ({_INSERT_HELD})"
    " SELECT pk FROM held"
)
# Whoever reads slowly holds what was found for them: not much at once.
_READ_EVENTS = text(
    "SELECT nth, found.run_pk, seq, type, content FROM unnest(CAST(:run_pk AS bigint[]), CAST(:after AS int[]))"
    " WITH ORDINALITY AS wanted (run_pk, after, nth)"
    " CROSS JOIN LATERAL (SELECT e.*, sum(octet_length(content)) OVER (ORDER BY seq) - octet_length(content) AS before"
    "  FROM (SELECT run_pk, seq, type, content FROM run_events WHERE run_pk = wanted.run_pk AND seq > wanted.after"
    f"  ORDER BY seq LIMIT {_EVENTS_AT_ONCE}) AS e) AS found WHERE before < {_BYTES_AT_ONCE} ORDER BY nth, seq"
)
# From run to run by the primary key: there is no index of when runs ended, and most have no events any more.
_DELETE_OLD = text(
    "WITH RECURSIVE found AS ((SELECT run_pk FROM run_events WHERE run_pk > :after_pk ORDER BY run_pk LIMIT 1) UNION ALL"
    "  SELECT (SELECT e.run_pk FROM run_events e WHERE e.run_pk > found.run_pk ORDER BY e.run_pk LIMIT 1) FROM found"
    "  WHERE found.run_pk IS NOT NULL),"
    " page AS MATERIALIZED (SELECT run_pk FROM found WHERE run_pk IS NOT NULL LIMIT :limit),"
    " old AS MATERIALIZED (SELECT pk FROM page JOIN runs ON pk = run_pk WHERE ended_at <= :until),"
    " deleted AS (DELETE FROM run_events WHERE run_pk = ANY (ARRAY(SELECT pk FROM old)) RETURNING 1)"
    " SELECT (SELECT count(*) FROM deleted), (SELECT max(run_pk) FROM page)"
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
class RunEvent:
    """`seq` counts from 1 in its run; `content` is JSON. `run` and `message` are what it tells of, as far as that is known
    because it was written in this process."""

    run_pk: int
    seq: int
    type: str
    content: str
    run: RunRecord | None = None
    message: MessageRecord | None = None


#: The pk of a run, and a `seq` in it.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Stray:
    """A run that nobody works on, and whose it is."""

    project_id: int
    thread_id: str
    run_id: str


def run_of(row: Any) -> RunRecord:
    found = {**row._mapping}
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
    values = {**row._mapping}
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


async def add_events(session: Session, events: Sequence[RunEvent]) -> None:
    """Those of runs that still exist."""
    await session.post(_INSERT_EVENTS, _columns(events))


async def write_events(db: Database, server: UUID, events: Sequence[RunEvent]) -> set[int]:
    """Those of runs that this server still works on, whose pks it returns: one that was frozen, and taken for dead, has no
    say any more."""
    held = await db.rows(spelled(_WRITE_EVENTS.text), {**_columns(events), "server": server})
    return {pk for (pk,) in held}


def _columns(events: Sequence[RunEvent]) -> dict[str, Any]:
    return {
        "pks": sorted({event.run_pk for event in events}),
        "run_pk": [event.run_pk for event in events],
        "seq": [event.seq for event in events],
        "type": [event.type for event in events],
        "content": InBinary(event.content for event in events),
    }


async def events_after(session: Session, places: Sequence[Place]) -> dict[Place, list[RunEvent]]:
    """The events behind each place, where there are any, in order: the next ones, if they are many or large."""
    run_pks, afters = [run_pk for run_pk, _ in places], [after for _, after in places]
    found: dict[Place, list[RunEvent]] = {}
    for nth, *event in await session.execute(_READ_EVENTS, {"run_pk": run_pks, "after": afters}):
        found.setdefault(places[nth - 1], []).append(RunEvent(*event))
    return found


async def last_event_seq(session: Session, run_pk: int) -> int:
    found = await session.scalar(text("SELECT max(seq) FROM run_events WHERE run_pk = :pk"), {"pk": run_pk})
    return int(found or 0)


async def unfinished_text(session: Session, run_pk: int) -> list[str]:
    """What a model has said since the run was last asked something, by content block, as far as it is written."""
    found = await session.execute(
        text(
            "SELECT content::json ->> 'index' AS block, string_agg(content::json ->> 'text', '' ORDER BY seq) AS said"
            " FROM run_events WHERE run_pk = :pk AND type = 'message.delta' AND content::json ->> 'type' = 'text'"
            " AND seq > coalesce((SELECT max(seq) FROM run_events WHERE run_pk = :pk AND type LIKE 'run.%'), 0)"
            " GROUP BY 1 ORDER BY min(seq)"
        ),
        {"pk": run_pk},
    )
    return [row.said for row in found]


async def erase_events(session: Session, thread_pk: int, message_id: str) -> None:
    """Of the runs that wrote a message which was edited or deleted: their streams repeat its text."""
    await session.execute(
        text(
            "DELETE FROM run_events WHERE run_pk IN"
            " (SELECT pk FROM runs WHERE thread_pk = :thread_pk AND :message_id = ANY (message_ids))"
        ),
        {"thread_pk": thread_pk, "message_id": message_id},
    )


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
            f"UPDATE runs SET owner = NULL WHERE pk IN (SELECT pk FROM runs r WHERE {_WORKED_ON} AND owner IS NOT NULL"
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
            f" WHERE ({_WORKED_ON} AND owner IS NULL) OR (status = 'requires_action' AND expires_at < now())"
            " OR (status = 'queued' AND t.active_run_id IS NULL) ORDER BY r.pk LIMIT :limit"
        ),
        {"limit": limit},
    )
    return [Stray(*row) for row in found]


async def has_expired(session: Session, run: RunRecord) -> bool:
    """By the clock of the database, as whoever waits was told."""
    return bool(await session.scalar(text("SELECT expires_at < now() FROM runs WHERE pk = :pk"), {"pk": run.pk}))


async def delete_old_events(session: Session, after_pk: int, until: datetime, limit: int) -> tuple[int, int | None]:
    """Look at the next `limit` runs that have events, and delete those of runs that ended before. How many, and the last
    run that was looked at; None when there are no more."""
    found = await session.execute(_DELETE_OLD, {"after_pk": after_pk, "until": until, "limit": limit})
    deleted, last_pk = found.one()
    return deleted, last_pk


async def forget_servers(session: Session, until: datetime) -> None:
    """Those not seen since."""
    await session.execute(text("DELETE FROM servers WHERE beat_at <= :until"), {"until": until})
