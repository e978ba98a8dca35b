"""Threads and assistants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from memory_service.core.canonical import dumps
from memory_service.core.messages import Tail
from memory_service.errors import Conflict, NotFound
from memory_service.store import usage
from memory_service.store.db import Session
from memory_service.store.idempotency import erase_answers, forget_threads
from memory_service.store.pages import Page, PageQuery, fetch_page
from memory_service.store.session import text

_THREAD = (
    "pk, id, user_id, assistant_id, instructions, tools, documents, truncation_strategy, metadata, version,"
    " edited_version, last_seq, message_count, last_role, open_tool_use_ids, created_at, active_run_id, openai"
)
_ASSISTANT = "pk, id, name, model, provider, instructions, tools, documents, defaults, metadata, created_at, openai"
# Columns that may be set; the names are those of the API. `openai` is what only OpenAI's objects have.
THREAD_FIELDS = frozenset(
    {"user_id", "assistant_id", "instructions", "tools", "documents", "truncation_strategy", "openai"}
)
_CREATE_THREADS = text(
    f"INSERT INTO threads (project_id, id, created_at, metadata, {', '.join(sorted(THREAD_FIELDS))})"
    " SELECT :project_id, * FROM unnest(CAST(:id AS text[]), CAST(:created_at AS timestamptz[]),"
    " CAST(:metadata AS jsonb[]), "
    + ", ".join(f"CAST(:{name} AS text[])" for name in sorted(THREAD_FIELDS))
    + f") ON CONFLICT (project_id, id) DO NOTHING RETURNING {_THREAD}"
)
ASSISTANT_FIELDS = frozenset({"name", "model", "provider", "instructions", "tools", "documents", "defaults", "openai"})


@dataclass(frozen=True, slots=True)
class NewThread:
    """`fields` are columns, those of a PATCH."""

    id: str
    created_at: datetime
    metadata: Mapping[str, str]
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ThreadRecord:
    """`tools`, `documents`, `truncation_strategy` and `openai` are canonical JSON. `edited_version` is the version at
    which a message was last changed or deleted."""

    pk: int
    id: str
    user_id: str | None
    assistant_id: str | None
    instructions: str | None
    tools: str | None
    documents: str | None
    truncation_strategy: str | None
    metadata: Mapping[str, str]
    version: int
    edited_version: int
    last_seq: int
    message_count: int
    last_role: str | None
    open_tool_use_ids: tuple[str, ...]
    created_at: datetime
    active_run_id: str | None
    openai: str | None

    @property
    def tail(self) -> Tail:
        return Tail(self.last_role, self.open_tool_use_ids)


@dataclass(frozen=True, slots=True)
class AssistantRecord:
    """`tools`, `documents`, `defaults` and `openai` are canonical JSON."""

    pk: int
    id: str
    name: str | None
    model: str | None
    provider: str | None
    instructions: str | None
    tools: str | None
    documents: str | None
    defaults: str | None
    metadata: Mapping[str, str]
    created_at: datetime
    openai: str | None


def _thread(row: Any) -> ThreadRecord:
    return ThreadRecord(**{**row._asdict(), "open_tool_use_ids": tuple(row.open_tool_use_ids)})


async def create_thread(
    session: Session, *, id: str, now: datetime, metadata: Mapping[str, str], fields: Mapping[str, Any]
) -> ThreadRecord:
    """Raises Conflict when the id is taken."""
    created = await create_threads(session, [NewThread(id, now, metadata, fields)])
    if not created:
        raise Conflict(f"A thread with id {id!r} exists already.", code="id_taken")
    return created[0]


async def create_threads(session: Session, threads: Sequence[NewThread]) -> list[ThreadRecord]:
    """In the given order, those whose ids were free."""
    assert all(thread.fields.keys() <= THREAD_FIELDS for thread in threads)
    created = await session.execute(
        _CREATE_THREADS,
        {
            "project_id": session.info["project_id"],
            "id": [thread.id for thread in threads],
            "created_at": [thread.created_at for thread in threads],
            "metadata": [dumps(thread.metadata) for thread in threads],
            **{name: [thread.fields.get(name) for thread in threads] for name in THREAD_FIELDS},
        },
    )
    return [_thread(row) for row in created]


async def lock_threads(session: Session, ids: Sequence[str]) -> dict[str, ThreadRecord]:
    """By id, those that exist; their rows are held until the transaction ends."""
    found = await session.execute(
        text(
            f"SELECT {_THREAD} FROM threads WHERE project_id = :project_id AND id = ANY (:ids) ORDER BY pk FOR UPDATE"
        ),
        {"project_id": session.info["project_id"], "ids": list(ids)},
    )
    return {row.id: _thread(row) for row in found}


async def get_thread(session: Session, id: str, *, lock: bool = False) -> ThreadRecord:
    """`lock` holds the thread's row until the transaction ends, which puts all its writers in a line.

    Raises NotFound.
    """
    found = await session.execute(
        text(
            f"SELECT {_THREAD} FROM threads WHERE project_id = :project_id AND id = :id"
            + (" FOR UPDATE" if lock else "")
        ),
        {"project_id": session.info["project_id"], "id": id},
    )
    row = found.first()
    if row is None:
        raise NotFound(f"There is no thread {id[:64]!r} in this project.", field="thread_id")
    return _thread(row)


async def expect_unchanged(session: Session, thread: ThreadRecord) -> None:
    """Hold a thread's row, as `lock` does, if it is still as it was read; otherwise the transaction raises ThreadMoved."""
    await session.post(
        text("SELECT expect_thread(:pk, :version, :run_id)"),
        {"pk": thread.pk, "version": thread.version, "run_id": thread.active_run_id},
    )


async def list_threads(
    session: Session, query: PageQuery, *, user_id: str | None, metadata: Mapping[str, str]
) -> Page[ThreadRecord]:
    where = "project_id = :project_id"
    parameters: dict[str, Any] = {"project_id": session.info["project_id"]}
    if user_id is not None:
        where += " AND user_id = :user_id"
        parameters["user_id"] = user_id
    if metadata:
        where += " AND metadata @> CAST(:metadata AS jsonb)"
        parameters["metadata"] = dumps(metadata)
    rows, has_more = await fetch_page(
        session,
        query,
        columns=_THREAD,
        table="threads",
        key=("created_at", "pk"),
        where=where,
        parameters=parameters,
    )
    return Page(tuple(map(_thread, rows)), has_more)


async def threads_after(
    session: Session, last: ThreadRecord | None, *, user_id: str | None, limit: int
) -> list[ThreadRecord]:
    """The oldest threads behind `last`, which need not exist any more."""
    where = "project_id = :project_id" + (" AND user_id = :user_id" if user_id is not None else "")
    rows = await _after(session, "threads", _THREAD, where, last, {"user_id": user_id, "limit": limit})
    return [_thread(row) for row in rows]


async def assistants_after(session: Session, last: AssistantRecord | None, *, limit: int) -> list[AssistantRecord]:
    """As `threads_after`."""
    rows = await _after(session, "assistants", _ASSISTANT, "project_id = :project_id", last, {"limit": limit})
    return [AssistantRecord(**row._asdict()) for row in rows]


async def _after(
    session: Session,
    table: str,
    columns: str,
    where: str,
    last: ThreadRecord | AssistantRecord | None,
    parameters: Mapping[str, Any],
) -> Sequence[Any]:
    if last is not None:
        where += " AND (created_at, pk) > (:created_at, :pk)"
        parameters = {**parameters, "created_at": last.created_at, "pk": last.pk}
    return await session.execute(
        text(f"SELECT {columns} FROM {table} WHERE {where} ORDER BY created_at, pk LIMIT :limit"),
        {**parameters, "project_id": session.info["project_id"]},
    )


async def count_messages(session: Session, user_id: str | None) -> int:
    """In all threads, or all of a user's."""
    where = "project_id = :project_id" + (" AND user_id = :user_id" if user_id is not None else "")
    count = await session.scalar(
        text(f"SELECT sum(message_count) FROM threads WHERE {where}"),
        {"project_id": session.info["project_id"], "user_id": user_id},
    )
    return int(count or 0)


async def update_thread(
    session: Session, pk: int, *, fields: Mapping[str, Any], metadata: Mapping[str, str | None]
) -> ThreadRecord:
    """Set `fields`; merge `metadata`, where None removes a key."""
    assert fields.keys() <= THREAD_FIELDS
    merged = {key: value for key, value in metadata.items() if value is not None}
    removed = [key for key, value in metadata.items() if value is None]
    updated = await session.execute(
        text(
            "UPDATE threads SET version = version + 1,"
            " metadata = (metadata - CAST(:removed AS text[])) || CAST(:merged AS jsonb)"
            + "".join(f", {name} = :{name}" for name in fields)
            + f" WHERE pk = :pk RETURNING {_THREAD}"
        ),
        {"pk": pk, "merged": dumps(merged), "removed": removed, **fields},
    )
    return _thread(updated.one())


async def delete_thread(session: Session, id: str) -> None:
    """Delete a thread and all that belongs to it; what it cost stays in the ledger. Raises NotFound."""
    thread = await get_thread(session, id, lock=True)
    await forget_threads(session, [thread.id])
    await usage.forget_threads(session, [thread.id])
    await session.execute(text("DELETE FROM threads WHERE pk = :pk"), {"pk": thread.pk})


async def bump_version(session: Session, pk: int) -> None:
    await session.post(text("UPDATE threads SET version = version + 1 WHERE pk = :pk"), {"pk": pk})


async def create_assistant(
    session: Session, *, id: str, now: datetime, metadata: Mapping[str, str], fields: Mapping[str, Any]
) -> AssistantRecord:
    """Raises Conflict when the id is taken."""
    assert fields.keys() <= ASSISTANT_FIELDS
    created = await session.execute(
        text(
            f"INSERT INTO assistants (project_id, id, created_at, metadata{''.join(f', {n}' for n in fields)})"
            " VALUES (:project_id, :id, :created_at, CAST(:metadata AS jsonb)"
            + "".join(f", :{name}" for name in fields)
            + f") ON CONFLICT (project_id, id) DO NOTHING RETURNING {_ASSISTANT}"
        ),
        {
            "project_id": session.info["project_id"],
            "id": id,
            "created_at": now,
            "metadata": dumps(metadata),
            **fields,
        },
    )
    row = created.first()
    if row is None:
        raise Conflict(f"An assistant with id {id!r} exists already.", code="id_taken")
    return AssistantRecord(**row._asdict())


async def get_assistant(
    session: Session, id: str, *, lock: Literal["FOR KEY SHARE", "FOR UPDATE"] | None = None
) -> AssistantRecord:
    """FOR KEY SHARE keeps the assistant from being deleted until the transaction ends. Raises NotFound."""
    found = await session.execute(
        text(f"SELECT {_ASSISTANT} FROM assistants WHERE project_id = :project_id AND id = :id {lock or ''}"),
        {"project_id": session.info["project_id"], "id": id},
    )
    row = found.first()
    if row is None:
        raise NotFound(f"There is no assistant {id[:64]!r} in this project.", field="assistant_id")
    return AssistantRecord(**row._asdict())


async def list_assistants(session: Session, query: PageQuery) -> Page[AssistantRecord]:
    rows, has_more = await fetch_page(
        session,
        query,
        columns=_ASSISTANT,
        table="assistants",
        key=("created_at", "pk"),
        where="project_id = :project_id",
        parameters={"project_id": session.info["project_id"]},
    )
    return Page(tuple(AssistantRecord(**row._asdict()) for row in rows), has_more)


async def update_assistant(
    session: Session, id: str, *, fields: Mapping[str, Any], metadata: Mapping[str, str | None]
) -> AssistantRecord:
    """As `update_thread`. Raises NotFound."""
    assert fields.keys() <= ASSISTANT_FIELDS
    updated = await session.execute(
        text(
            "UPDATE assistants SET metadata = (metadata - CAST(:removed AS text[])) || CAST(:merged AS jsonb)"
            + "".join(f", {name} = :{name}" for name in fields)
            + f" WHERE project_id = :project_id AND id = :id RETURNING {_ASSISTANT}"
        ),
        {
            "project_id": session.info["project_id"],
            "id": id,
            "merged": dumps({key: value for key, value in metadata.items() if value is not None}),
            "removed": [key for key, value in metadata.items() if value is None],
            **fields,
        },
    )
    row = updated.first()
    if row is None:
        raise NotFound(f"There is no assistant {id[:64]!r} in this project.", field="assistant_id")
    return AssistantRecord(**row._asdict())


async def delete_assistant(session: Session, id: str) -> None:
    """Raises NotFound, and Conflict while threads use the assistant."""
    await get_assistant(session, id, lock="FOR UPDATE")
    used = await session.scalar(
        text("SELECT id FROM threads WHERE project_id = :project_id AND assistant_id = :id LIMIT 1"),
        {"project_id": session.info["project_id"], "id": id},
    )
    if used is not None:
        raise Conflict(
            f"Threads use this assistant ({used!r} for one); give them another assistant_id, or null, first.",
            code="assistant_in_use",
        )
    await erase_answers(session, id)
    await session.execute(
        text("DELETE FROM assistants WHERE project_id = :project_id AND id = :id"),
        {"project_id": session.info["project_id"], "id": id},
    )
