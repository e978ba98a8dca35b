"""End users: hand over all that is held of one, or erase it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from decimal import Decimal

from memory_service.core.canonical import Raw, dumps
from memory_service.runtime import Runtime
from memory_service.services import exports
from memory_service.store import prompts as prompt_store
from memory_service.store import usage as usage_store
from memory_service.store import users
from memory_service.store.prompts import PromptRecord
from memory_service.store.threads import ThreadRecord
from memory_service.store.usage import Entry
from memory_service.store.users import Erased
from memory_service.telemetry import logger

# About a tenth of a second of a transaction.
_ROWS_AT_ONCE = 2_000
_PAGE = 200


async def export(runtime: Runtime, project_id: int, user_id: str) -> AsyncIterator[bytes]:
    """The user's threads as an import takes them, each followed by what it passes over: `message_revision`, what a message
    said before it was edited, and `prompt`. At the end `usage_entry`, the calls of models that were billed."""
    known: set[str] = set()
    async for thread in exports.threads_of(runtime, project_id, (), user_id):
        for part in (
            exports.lines_of(runtime, project_id, thread, known),
            _revisions(runtime, project_id, thread),
            _prompts(runtime, project_id, thread),
        ):
            async for line in part:
                yield line
    async for line in _usage_entries(runtime, project_id, user_id):
        yield line


async def _revisions(runtime: Runtime, project_id: int, thread: ThreadRecord) -> AsyncIterator[bytes]:
    last = (0, 0)
    while True:
        async with runtime.db.read_only(project_id) as session:
            page = await users.revisions_after(session, thread.pk, last, _PAGE)
        for _, message_id, content in page:
            line = {"type": "message_revision", "message_id": message_id, "content": Raw(content)}
            yield (dumps(line) + "\n").encode()
        if not page:
            return
        last = page[-1][0]


async def _prompts(runtime: Runtime, project_id: int, thread: ThreadRecord) -> AsyncIterator[bytes]:
    pk = 0
    while True:
        async with runtime.db.read_only(project_id) as session:
            page = await prompt_store.prompts_after(session, thread.pk, pk, _PAGE)
        for record in page:
            yield _prompt(thread.id, record)
        if not page:
            return
        pk = page[-1].pk


def _prompt(thread_id: str, record: PromptRecord) -> bytes:
    line = {
        "type": "prompt",
        "id": record.id,
        "thread_id": thread_id,
        "status": record.status,
        "plan": Raw(record.plan),
        "volatile": Raw(record.volatile) if record.volatile else None,
        "usage": Raw(record.usage) if record.usage else None,
        "created_at": exports.time_of(record.built_at),
        "sent_at": exports.time_of(record.sent_at) if record.sent_at else None,
    }
    return (dumps(line) + "\n").encode()


async def _usage_entries(runtime: Runtime, project_id: int, user_id: str) -> AsyncIterator[bytes]:
    last = usage_store.BEGINNING
    while True:
        async with runtime.db.read_only(project_id) as session:
            page = await usage_store.entries_after(session, user_id, last, _PAGE)
        for _, entry in page:
            yield _usage_entry(entry)
        if not page:
            return
        last = page[-1][0]


def _usage_entry(entry: Entry) -> bytes:
    fields = {name: float(value) if isinstance(value, Decimal) else value for name, value in asdict(entry).items()}
    line = {"type": "usage_entry", **fields, "called_at": exports.time_of(entry.called_at)}
    return (dumps(line) + "\n").encode()


async def erase(runtime: Runtime, project_id: int, user_id: str) -> Erased:
    """Delete every thread of a user with all that belongs to it, in short transactions; what was begun is gone on with
    when it is called again. Threads made meanwhile are deleted too."""
    threads = messages = prompts = 0
    done = False
    while not done:
        async with runtime.db.transaction(project_id) as session:
            step = await users.erase_some(session, user_id, _ROWS_AT_ONCE)
        threads, messages, prompts = threads + step.threads, messages + step.messages, prompts + step.prompts
        done = step.done
    fields = {"project": project_id, "threads": threads, "messages": messages, "prompts": prompts}
    logger.info("user erased", extra={"fields": fields})
    return Erased(threads, messages, prompts, done=True)
