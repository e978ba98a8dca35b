"""Threads as NDJSON, out and in again, byte for byte.

One JSON object a line, with a `type`: `assistant`, `thread`, then the thread's `message` lines in the order of `seq`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from memory_service.core.canonical import Raw, dumps
from memory_service.core.content import check_content
from memory_service.core.messages import Tail, extend_tail, tool_use_ids
from memory_service.errors import InvalidInput, InvalidMessage, MemoryServiceError, NotFound
from memory_service.runtime import Runtime, new_id
from memory_service.services import ingest
from memory_service.services.ingest import Draft
from memory_service.store import messages as message_store
from memory_service.store import threads as thread_store
from memory_service.store.db import Session
from memory_service.store.messages import NewMessage
from memory_service.store.threads import AssistantRecord, ThreadRecord

_BATCH = 500
_JSON_FIELDS = frozenset({"tools", "documents", "truncation_strategy", "defaults"})
_THREAD_KEYS = ("user_id", "assistant_id", "instructions", "tools", "documents", "truncation_strategy")
_ASSISTANT_KEYS = ("name", "model", "provider", "instructions", "tools", "documents", "defaults")


@dataclass(frozen=True, slots=True)
class AssistantLine:
    """`fields` are columns, JSON in canonical form."""

    id: str
    fields: Mapping[str, Any]
    metadata: Mapping[str, str]
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class ThreadLine:
    """As AssistantLine."""

    id: str
    fields: Mapping[str, Any]
    metadata: Mapping[str, str]
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class MessageLine:
    """A message of the thread whose line came last; `thread_id`, if given, says so again."""

    draft: Draft
    thread_id: str | None
    seq: int | None


Line = AssistantLine | ThreadLine | MessageLine


@dataclass(slots=True)
class ImportReport:
    """What an import wrote. `renamed`: ids that were taken, with the ones given instead."""

    assistants: int = 0
    threads: int = 0
    messages: int = 0
    renamed: dict[str, str] = field(default_factory=dict)


async def export_thread(runtime: Runtime, project_id: int, thread_id: str) -> AsyncIterator[bytes]:
    """The lines of a thread. Raises NotFound before the first line."""
    async with runtime.db.read_only(project_id) as session:
        thread = await thread_store.get_thread(session, thread_id)
        assistant = None
        if thread.assistant_id:
            assistant = await thread_store.get_assistant(session, thread.assistant_id)
    return _lines(runtime, project_id, thread, assistant)


async def _lines(
    runtime: Runtime, project_id: int, thread: ThreadRecord, assistant: AssistantRecord | None
) -> AsyncIterator[bytes]:
    if assistant:
        yield _line("assistant", assistant, _ASSISTANT_KEYS)
    yield _line("thread", thread, _THREAD_KEYS)
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
                "created_at": _time(record.created_at),
            }
            yield (dumps(message) + "\n").encode()
        first_seq = last_seq + 1


def _line(kind: str, record: ThreadRecord | AssistantRecord, keys: Iterable[str]) -> bytes:
    values: dict[str, Any] = {"type": kind, "id": record.id}
    for key in keys:
        value = getattr(record, key)
        values[key] = Raw(value) if key in _JSON_FIELDS and value is not None else value
    values |= {"metadata": dict(record.metadata), "created_at": _time(record.created_at)}
    return (dumps(values) + "\n").encode()


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


async def import_lines(
    runtime: Runtime,
    session: Session,
    lines: Iterable[bytes],
    read: Callable[[bytes], Line],
    now: datetime,
    *,
    keep_ids: bool,
) -> ImportReport:
    """Write exported lines, all or none; `read` checks one. An id that is taken is replaced by a fresh one, and reported.

    Raises InvalidInput naming the line.
    """
    importing = _Import(runtime, session, now, keep_ids)
    for number, text in enumerate(lines, start=1):
        if text.strip():
            try:
                await importing.take(read(text.rstrip(b"\r\n")))
            except MemoryServiceError as error:
                details = {**error.details, "line": number}
                raise InvalidInput(f"Line {number}: {error.message}", code=error.code, **details) from error
    await importing.flush()
    return importing.report


@dataclass(slots=True)
class _OpenThread:
    """The thread whose messages are being read. `source_id` is its id in the file, the rest is as of the last line."""

    source_id: str
    record: ThreadRecord
    tail: Tail = field(default_factory=Tail)
    last_seq: int = 0
    tool_use_ids: set[str] = field(default_factory=set)

    def check(self, line: MessageLine) -> MessageLine:
        """The line with its content checked, here and not when its batch is written, so that an error names it."""
        if line.thread_id not in (None, self.source_id):
            raise InvalidInput(
                f"`thread_id` {line.thread_id!r} is not the thread of the lines before, {self.source_id!r}.",
                field="thread_id",
            )
        seq = line.seq if line.seq is not None else self.last_seq + 1
        if seq <= self.last_seq:
            raise InvalidInput(f"`seq` is {seq}, but the message before has {self.last_seq}.", field="seq")
        content = check_content(line.draft.role, line.draft.content, "content")
        self.tail = extend_tail(self.tail, line.draft.role, content, "content")
        for id_ in tool_use_ids(content):
            if id_ in self.tool_use_ids:
                raise InvalidMessage(
                    f"`content` has a tool_use block with id {id_!r}, as an earlier message has; give each call an id "
                    "of its own.",
                    code="duplicate_tool_use",
                    field="content",
                )
            self.tool_use_ids.add(id_)
        self.last_seq = seq
        return replace(line, draft=replace(line.draft, content=content), seq=seq)


class _Import:
    def __init__(self, runtime: Runtime, session: Session, now: datetime, keep_ids: bool) -> None:
        self._runtime = runtime
        self._session = session
        self._now = now
        self._keep_ids = keep_ids
        self._assistants: dict[str, str] = {}
        self._thread: _OpenThread | None = None
        self._pending: list[MessageLine] = []
        self.report = ImportReport()

    async def take(self, line: Line) -> None:
        if isinstance(line, MessageLine):
            if self._thread is None:
                raise InvalidInput("A message line must come after the line of its thread.", field="type")
            self._pending.append(self._thread.check(line))
            if len(self._pending) >= _BATCH:
                await self.flush()
            return
        await self.flush()
        await (self._take_assistant(line) if isinstance(line, AssistantLine) else self._take_thread(line))

    async def _take_assistant(self, line: AssistantLine) -> None:
        held = await self._held_assistant(line.id)
        if held and self._keep_ids and _same_assistant(held, line):
            self._assistants[line.id] = line.id
            return
        id_ = self._fresh("asst", line.id, taken=held is not None)
        await thread_store.create_assistant(
            self._session, id=id_, now=line.created_at or self._now, metadata=line.metadata, fields=line.fields
        )
        self._assistants[line.id] = id_
        self.report.assistants += 1

    async def _held_assistant(self, id_: str) -> AssistantRecord | None:
        try:
            return await thread_store.get_assistant(self._session, id_)
        except NotFound:
            return None

    async def _take_thread(self, line: ThreadLine) -> None:
        fields = dict(line.fields)
        if (assistant_id := fields.get("assistant_id")) is not None:
            fields["assistant_id"] = self._assistants.get(assistant_id, assistant_id)
            await thread_store.get_assistant(self._session, fields["assistant_id"], lock="FOR KEY SHARE")
        try:
            await thread_store.get_thread(self._session, line.id)
            taken = True
        except NotFound:
            taken = False
        thread = await thread_store.create_thread(
            self._session,
            id=self._fresh("thread", line.id, taken=taken),
            now=line.created_at or self._now,
            metadata=line.metadata,
            fields=fields,
        )
        self._thread = _OpenThread(line.id, thread)
        self.report.threads += 1

    async def flush(self) -> None:
        """Write the messages that were read."""
        if not self._pending or self._thread is None:
            return
        drafts = [line.draft for line in self._pending]
        messages = await self._with_ids(drafts)
        seqs = [line.seq for line in self._pending]
        await ingest.append(self._session, self._thread.record, messages, [""] * len(messages), seqs=seqs)
        self._thread.record = await thread_store.get_thread(self._session, self._thread.record.id)
        self.report.messages += len(messages)
        self._pending.clear()

    async def _with_ids(self, drafts: Sequence[Draft]) -> list[NewMessage]:
        prepared = await ingest.prepare(self._runtime, drafts, self._now)
        given = [draft.id for draft in drafts if draft.id]
        taken = await message_store.taken_ids(self._session, given) if given else set()
        messages = []
        for message, draft in zip(prepared, drafts, strict=True):
            id_ = self._fresh("msg", draft.id, taken=draft.id in taken) if draft.id else message.id
            taken.add(id_)
            messages.append(ingest.with_id(message, id_))
        return messages

    def _fresh(self, prefix: str, source: str, *, taken: bool) -> str:
        if self._keep_ids and not taken:
            return source
        id_ = new_id(prefix, self._now)
        self.report.renamed[source] = id_
        return id_


def _same_assistant(held: AssistantRecord, line: AssistantLine) -> bool:
    same_fields = all(getattr(held, key) == line.fields.get(key) for key in _ASSISTANT_KEYS)
    return same_fields and held.metadata == line.metadata
