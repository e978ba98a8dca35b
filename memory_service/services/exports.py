"""Threads as NDJSON, byte for byte; `imports` takes it in again.

One JSON object a line, with a `type`: `assistant`, `thread`, then a `run` line for each of the thread's runs that has
ended, and its `message` lines in the order of `seq`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Any

from memory_service.core.canonical import Raw, dumps
from memory_service.runtime import Runtime
from memory_service.services.run_spec import RunSpec
from memory_service.store import ended_runs
from memory_service.store import messages as message_store
from memory_service.store import threads as thread_store
from memory_service.store.messages import MessageRecord
from memory_service.store.runs import RunRecord
from memory_service.store.threads import AssistantRecord, ThreadRecord

_BATCH = 500
_JSON_FIELDS = frozenset({"tools", "documents", "truncation_strategy", "defaults"})
_THREAD_KEYS = ("user_id", "assistant_id", "instructions", "tools", "documents", "truncation_strategy")
_ASSISTANT_KEYS = ("name", "model", "provider", "instructions", "tools", "documents", "defaults")


async def export_thread(runtime: Runtime, project_id: int, thread_id: str) -> AsyncIterator[bytes]:
    """The lines of a thread and of its assistant. Raises NotFound before the first line."""
    async with runtime.db.read_only(project_id) as session:
        thread = await thread_store.get_thread(session, thread_id)
    return lines_of(runtime, project_id, thread, set())


async def count_messages(runtime: Runtime, project_id: int, thread_ids: Sequence[str], user_id: str | None) -> int:
    """In what `export` would give. Raises NotFound."""
    async with runtime.db.read_only(project_id) as session:
        if thread_ids:
            return sum([(await thread_store.get_thread(session, id_)).message_count for id_ in thread_ids])
        return await thread_store.count_messages(session, user_id)


async def export(
    runtime: Runtime, project_id: int, thread_ids: Sequence[str], user_id: str | None
) -> AsyncIterator[bytes]:
    """The lines of some threads, of a user's, or of all, the oldest first, and of their assistants, or of all."""
    known: set[str] = set()
    if not thread_ids and user_id is None:
        async for assistant in _assistants(runtime, project_id):
            known.add(assistant.id)
            yield _line("assistant", assistant, _ASSISTANT_KEYS)
    async for thread in threads_of(runtime, project_id, thread_ids, user_id):
        async for line in lines_of(runtime, project_id, thread, known):
            yield line


async def _assistants(runtime: Runtime, project_id: int) -> AsyncIterator[AssistantRecord]:
    last = None
    while True:
        async with runtime.db.read_only(project_id) as session:
            page = await thread_store.assistants_after(session, last, limit=_BATCH)
        for assistant in page:
            yield assistant
        if not page:
            return
        last = page[-1]


async def threads_of(
    runtime: Runtime, project_id: int, thread_ids: Sequence[str], user_id: str | None
) -> AsyncIterator[ThreadRecord]:
    for thread_id in thread_ids:
        async with runtime.db.read_only(project_id) as session:
            thread = await thread_store.get_thread(session, thread_id)
        yield thread
    last = None
    while not thread_ids:
        async with runtime.db.read_only(project_id) as session:
            page = await thread_store.threads_after(session, last, user_id=user_id, limit=_BATCH)
        for thread in page:
            yield thread
        if not page:
            return
        last = page[-1]


async def lines_of(runtime: Runtime, project_id: int, thread: ThreadRecord, known: set[str]) -> AsyncIterator[bytes]:
    """A thread, behind its assistant unless that is `known`."""
    if thread.assistant_id and thread.assistant_id not in known:
        async with runtime.db.read_only(project_id) as session:
            assistant = await thread_store.get_assistant(session, thread.assistant_id)
        known.add(assistant.id)
        yield _line("assistant", assistant, _ASSISTANT_KEYS)
    yield _line("thread", thread, _THREAD_KEYS)
    async for run in _ended_runs(runtime, project_id, thread):
        yield run_line(thread.id, run)
    first_seq = 1
    # A page a transaction: a slow reader holds no connection, and what came after the export began is left out.
    while first_seq <= thread.last_seq:
        last_seq = min(first_seq + _BATCH - 1, thread.last_seq)
        async with runtime.db.read_only(project_id) as session:
            records = await message_store.range_of(session, thread.pk, first_seq=first_seq, last_seq=last_seq)
        for record in records:
            message = {
                "type": "message",
                "id": record.id,
                "thread_id": thread.id,
                "seq": record.seq,
                "role": record.role,
                "content": Raw(record.content),
                "status": record.status,
                "run_id": record.run_id,
                "metadata": dict(record.metadata or {}),
                "created_at": time_of(record.created_at),
                **_openai(record),
            }
            yield (dumps(message) + "\n").encode()
        first_seq = last_seq + 1


async def _ended_runs(runtime: Runtime, project_id: int, thread: ThreadRecord) -> AsyncIterator[RunRecord]:
    last_pk = 0
    while True:
        async with runtime.db.read_only(project_id) as session:
            page = await ended_runs.ended_after(session, thread.pk, last_pk, _BATCH)
        for run in page:
            yield run
        if len(page) < _BATCH:
            return
        last_pk = page[-1].pk


def run_line(thread_id: str, run: RunRecord) -> bytes:
    """What can be seen of a run that has ended; its prompts stay where they were built."""
    asked = RunSpec.from_json(run.spec)
    line = {
        "type": "run",
        "id": run.id,
        "thread_id": thread_id,
        "status": run.status,
        "provider": run.provider,
        "model": run.model,
        "assistant_id": asked.prompt.assistant_id,
        "usage": Raw(run.spent),
        "last_error": Raw(run.last_error) if run.last_error else None,
        "incomplete_reason": run.incomplete_reason,
        "metadata": dict(run.metadata),
        "created_at": time_of(run.created_at),
        "started_at": run.started_at and time_of(run.started_at),
        "ended_at": run.ended_at and time_of(run.ended_at),
        **({"openai": asked.openai} if asked.openai else {}),
    }
    return (dumps(line) + "\n").encode()


def _line(kind: str, record: ThreadRecord | AssistantRecord, keys: Iterable[str]) -> bytes:
    values: dict[str, Any] = {"type": kind, "id": record.id}
    for key in keys:
        value = getattr(record, key)
        values[key] = Raw(value) if key in _JSON_FIELDS and value is not None else value
    values |= {"metadata": dict(record.metadata), "created_at": time_of(record.created_at), **_openai(record)}
    return (dumps(values) + "\n").encode()


def _openai(record: ThreadRecord | AssistantRecord | MessageRecord) -> dict[str, Any]:
    """What only OpenAI's objects have; most lines are without."""
    return {"openai": Raw(record.openai)} if record.openai else {}


def time_of(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
