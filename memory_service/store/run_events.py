"""The events of runs: what streams tell, and told, of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from memory_service.core.canonical import dumps
from memory_service.store.db import Database, Session
from memory_service.store.messages import MessageRecord
from memory_service.store.runs import WORKED_ON, RunRecord
from memory_service.store.session import InBinary, spelled, text

_EVENTS_AT_ONCE, _BYTES_AT_ONCE = 200, 200_000
# The runs are held, so that none of them is deleted or ended meanwhile.
_HELD = "SELECT pk, project_id FROM runs WHERE pk = ANY (:pks)"
_INSERT_HELD = (
    " INSERT INTO run_events (run_pk, seq, project_id, type, content)"
    " SELECT run_pk, seq, held.project_id, type, content FROM unnest(CAST(:run_pk AS bigint[]), CAST(:seq AS int[]),"
    " CAST(:type AS text[]), CAST(:content AS text[])) AS new (run_pk, seq, type, content)"
    " JOIN held ON held.pk = run_pk ON CONFLICT DO NOTHING"
)
_INSERT_EVENTS = text(f"WITH held AS ({_HELD} ORDER BY pk FOR KEY SHARE){_INSERT_HELD}")
_CREATED = "run.created"
# By the id, which is known before the run is there.
_INSERT_FIRST = text(
    "INSERT INTO run_events (run_pk, seq, project_id, type, content)"
    " SELECT runs.pk, new.seq, runs.project_id, new.type, new.content FROM runs,"
    " unnest(CAST(:type AS text[]), CAST(:content AS text[])) WITH ORDINALITY AS new (type, content, seq)"
    " WHERE runs.project_id = :project_id AND runs.id = :id"
)
_WRITE_EVENTS = text(
    f"WITH held AS ({_HELD} AND owner = :server AND {WORKED_ON} ORDER BY pk FOR SHARE), new AS ({_INSERT_HELD})"
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


#: What is told by an event: its type and its content.
Told = tuple[str, Mapping[str, Any]]


def first_events(run: RunRecord, told: Sequence[Told] = ()) -> tuple[RunEvent, ...]:
    """What a stream of a run begins with: that it was made, and what is `told` besides."""
    said: list[Told] = [(_CREATED, {}), *told]
    return tuple(RunEvent(run.pk, seq, type_, dumps(content)) for seq, (type_, content) in enumerate(said, 1))


async def add_first_events(session: Session, run_id: str, told: Sequence[Told] = ()) -> None:
    """Of a run that a statement before this one adds, or starts."""
    said: list[Told] = [(_CREATED, {}), *told]
    await session.post(
        _INSERT_FIRST,
        {
            "project_id": session.info["project_id"],
            "id": run_id,
            "type": [type_ for type_, _ in said],
            "content": InBinary(dumps(content) for _, content in said),
        },
    )


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


def fills_page(events: Sequence[RunEvent]) -> bool:
    """Whether `events_after` may have left some for the next time."""
    return len(events) >= _EVENTS_AT_ONCE or sum(len(event.content.encode()) for event in events) >= _BYTES_AT_ONCE


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


async def delete_old_events(session: Session, after_pk: int, until: datetime, limit: int) -> tuple[int, int | None]:
    """Look at the next `limit` runs that have events, and delete those of runs that ended before. How many, and the last
    run that was looked at; None when there are no more."""
    found = await session.execute(_DELETE_OLD, {"after_pk": after_pk, "until": until, "limit": limit})
    deleted, last_pk = found.one()
    return deleted, last_pk
