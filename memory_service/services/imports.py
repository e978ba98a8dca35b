"""Importing what was exported, byte for byte.

One JSON object a line, with a `type`: `assistant`, `thread`, then the thread's `message` lines in the order of `seq`. Lines
are taken in parts. While one is written, in a handful of statements however many threads it is of, the next is prepared
beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from memory_service.core.messages import Tail, extend_tail
from memory_service.core.recall import moved_entry
from memory_service.errors import Conflict, InvalidInput, InvalidMessage, MemoryServiceError, NotFound
from memory_service.runtime import Runtime, new_id
from memory_service.services.ingest import note_appended, with_vectors
from memory_service.services.lines import (
    AssistantLine,
    Part,
    PreparedMessage,
    PreparedPart,
    ReadLine,
    ThreadLine,
    at_line,
    parts_of,
    prepare_part,
)
from memory_service.store import messages as message_store
from memory_service.store import threads as thread_store
from memory_service.store.db import Session
from memory_service.store.messages import Addition, Placed
from memory_service.store.threads import AssistantRecord, NewThread, ThreadRecord

Ids = Literal["keep", "fresh", "continue"]
"""What becomes of an id that is taken. `keep`: a fresh one instead; `fresh`: everything gets one. `continue`: it is the
same thing, from an import that was interrupted, and what is missing behind it is added."""
Prepare = Callable[[Part], Awaitable[PreparedPart]]
_ASSISTANT_KEYS = ("name", "model", "provider", "instructions", "tools", "documents", "defaults", "openai")


@dataclass(slots=True)
class ImportReport:
    """What an import wrote. `renamed`: ids that were taken, with those given instead. `skipped`: messages that were there
    already."""

    assistants: int = 0
    threads: int = 0
    messages: int = 0
    skipped: int = 0
    renamed: dict[str, str] = field(default_factory=dict)


async def import_lines(
    runtime: Runtime, session: Session, lines: Iterable[bytes], read: ReadLine, now: datetime, *, ids: Ids
) -> ImportReport:
    """Write exported lines in the caller's transaction, so all or none. Raises InvalidInput naming the line."""

    async def prepare(part: Part) -> PreparedPart:
        return await asyncio.to_thread(prepare_part, part, read, runtime.counter, now)

    importing = Import(now, ids)
    async with aclosing(_prepared(lines, _embedding(runtime, prepare), ahead=1)) as parts:
        async for part in parts:
            await importing.write(session, part)
    return importing.report


async def import_in_steps(
    runtime: Runtime,
    project_id: int,
    lines: Iterable[bytes],
    prepare: Prepare,
    now: datetime,
    *,
    ahead: int,
    on_commit: Callable[[ImportReport], None],
) -> ImportReport:
    """Write exported lines, a part a transaction, with up to `ahead` parts being prepared meanwhile.

    Whatever interrupts it, the same lines imported again go on where it ended. Raises InvalidInput naming the line.
    """
    importing = Import(now, "continue")
    async with aclosing(_prepared(lines, _embedding(runtime, prepare), ahead)) as parts:
        async for part in parts:
            async with runtime.db.transaction(project_id) as session:
                await importing.write(session, part)
            on_commit(importing.report)
    return importing.report


def _embedding(runtime: Runtime, prepare: Prepare) -> Prepare:
    """Prepare a part, with the vectors of its messages."""

    async def prepare_and_embed(part: Part) -> PreparedPart:
        prepared = await prepare(part)
        messages = [line.message for _, line in prepared if isinstance(line, PreparedMessage)]
        embedded = iter(await with_vectors(runtime, messages))
        return [
            (number, replace(line, message=next(embedded)) if isinstance(line, PreparedMessage) else line)
            for number, line in prepared
        ]

    return prepare_and_embed


async def _prepared(lines: Iterable[bytes], prepare: Prepare, ahead: int) -> AsyncGenerator[PreparedPart]:
    waiting: deque[asyncio.Future[PreparedPart]] = deque()
    try:
        for part in parts_of(lines):
            waiting.append(asyncio.ensure_future(prepare(part)))
            if len(waiting) > ahead:
                yield await waiting.popleft()
        while waiting:
            yield await waiting.popleft()
    finally:
        for unused in waiting:
            unused.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@dataclass(slots=True)
class _Thread:
    """A thread whose messages are being read: its id in the file and here, and what the file said of it so far."""

    source_id: str
    id: str
    last_seq: int = 0
    tool_use_ids: set[str] = field(default_factory=set)

    def check(self, line: PreparedMessage) -> int:
        """The line's seq. Raises InvalidInput unless the line may follow those before."""
        if line.thread_id not in (None, self.source_id):
            raise InvalidInput(
                f"`thread_id` {line.thread_id!r} is not the thread of the lines before, {self.source_id!r}.",
                field="thread_id",
            )
        seq = line.seq if line.seq is not None else self.last_seq + 1
        if seq <= self.last_seq:
            raise InvalidInput(f"`seq` is {seq}, but the message before has {self.last_seq}.", field="seq")
        for id_ in line.message.tool_use_ids:
            if id_ in self.tool_use_ids:
                raise InvalidMessage(
                    f"`content` has a tool_use block with id {id_!r}, as an earlier message has; give each call an id "
                    "of its own.",
                    code="duplicate_tool_use",
                    field="content",
                )
            self.tool_use_ids.add(id_)
        self.last_seq = seq
        return seq


@dataclass(frozen=True, slots=True)
class _Message:
    number: int
    thread: _Thread
    seq: int
    line: PreparedMessage


class Import:
    """What is known between the parts of an import. It ends with the first error."""

    def __init__(self, now: datetime, ids: Ids) -> None:
        self._now = now
        self._ids = ids
        self._assistants: dict[str, str] = {}
        self._thread: _Thread | None = None
        self.report = ImportReport()

    async def write(self, session: Session, part: PreparedPart) -> None:
        """Raises InvalidInput naming the line."""
        for piece in _without_repeats(part):
            await self._write(session, piece)

    async def _write(self, session: Session, part: PreparedPart) -> None:
        opened: list[tuple[int, ThreadLine, _Thread]] = []
        messages: list[_Message] = []
        number = 0
        try:
            for number, line in part:
                match line:
                    case AssistantLine():
                        await self._take_assistant(session, line)
                    case ThreadLine():
                        self._thread = _Thread(line.id, line.id)
                        opened.append((number, line, self._thread))
                    case PreparedMessage():
                        messages.append(self._take_message(number, line))
        except MemoryServiceError as error:
            raise at_line(number, error) from error
        records = await self._open_threads(session, opened)
        await self._write_messages(session, messages, records)

    async def _take_assistant(self, session: Session, line: AssistantLine) -> None:
        held = await _held_assistant(session, line.id)
        if held and (self._ids == "continue" or (self._ids == "keep" and _same_assistant(held, line))):
            self._assistants[line.id] = line.id
            return
        id_ = self._id("asst", line.id, taken=held is not None)
        await thread_store.create_assistant(
            session, id=id_, now=line.created_at or self._now, metadata=line.metadata, fields=line.fields
        )
        self._assistants[line.id] = id_
        self.report.assistants += 1

    def _take_message(self, number: int, line: PreparedMessage) -> _Message:
        if self._thread is None:
            raise InvalidInput("A message line must come after the line of its thread.", field="type")
        return _Message(number, self._thread, self._thread.check(line), line)

    async def _open_threads(
        self, session: Session, opened: Sequence[tuple[int, ThreadLine, _Thread]]
    ) -> dict[str, ThreadRecord]:
        """By their ids here, the threads of these lines that are new."""
        taken = set(await thread_store.lock_threads(session, [line.id for _, line, _ in opened])) if opened else set()
        assistants: set[str] = set()
        new: list[NewThread] = []
        for number, line, thread in opened:
            if self._ids == "continue" and line.id in taken:
                continue
            try:
                fields = await self._thread_fields(session, line, assistants)
            except MemoryServiceError as error:
                raise at_line(number, error) from error
            thread.id = self._id("thread", line.id, taken=line.id in taken)
            taken.add(thread.id)
            new.append(NewThread(thread.id, line.created_at or self._now, line.metadata, fields))
        created = {record.id: record for record in await thread_store.create_threads(session, new)} if new else {}
        if len(created) < len(new) and self._ids != "continue":
            raise Conflict("A thread with an id of this import was created meanwhile; import again.", code="id_taken")
        self.report.threads += len(created)
        return created

    async def _thread_fields(self, session: Session, line: ThreadLine, known: set[str]) -> dict[str, object]:
        """The line's fields; its assistant, found here and kept from being deleted, is then among the `known`."""
        fields = dict(line.fields)
        if (assistant_id := fields.get("assistant_id")) is not None:
            fields["assistant_id"] = id_ = self._assistants.get(assistant_id, assistant_id)
            if id_ not in known:
                await thread_store.get_assistant(session, id_, lock="FOR KEY SHARE")
                known.add(id_)
        return fields

    async def _write_messages(
        self, session: Session, messages: Sequence[_Message], records: dict[str, ThreadRecord]
    ) -> None:
        if held := {message.thread.id for message in messages} - records.keys():
            records = records | await thread_store.lock_threads(session, list(held))
        additions: list[Addition] = []
        for thread_id, group in _by_thread(await self._missing(session, messages, records)).items():
            record = records[thread_id]
            placed, tail = _place(group, record.tail)
            additions.append(Addition(record.pk, placed, tail))
        if additions:
            written = await message_store.append(session, additions)
            note_appended(session, written)
            self.report.messages += len(written)

    async def _missing(
        self, session: Session, messages: Sequence[_Message], records: dict[str, ThreadRecord]
    ) -> list[_Message]:
        """The messages that are not there yet, under the ids they get here."""
        for message in messages:
            if message.thread.id not in records:
                raise at_line(message.number, Conflict("The thread was deleted while it was imported; import again."))
        here = [message for message in messages if message.seq <= records[message.thread.id].last_seq]
        if here:
            await _check_same(session, here, records)
            self.report.skipped += len(here)
        missing = [message for message in messages if message.seq > records[message.thread.id].last_seq]
        given = [message.line.message.id for message in missing if message.line.has_id]
        taken = await message_store.taken_ids(session, given) if given and self._ids != "fresh" else set()
        return [self._named(message, taken) for message in missing]

    def _named(self, message: _Message, taken: set[str]) -> _Message:
        line = message.line
        if not line.has_id:
            return message
        if self._ids == "continue" and line.message.id in taken:
            error = Conflict(
                f"There is another message with `id` {line.message.id!r} in this project; import into another project.",
                code="id_taken",
                field="id",
            )
            raise at_line(message.number, error)
        id_ = self._id("msg", line.message.id, taken=line.message.id in taken)
        taken.add(id_)
        return message if id_ == line.message.id else replace(message, line=_with_id(line, id_))

    def _id(self, prefix: str, source: str, *, taken: bool) -> str:
        if self._ids != "fresh" and not taken:
            return source
        id_ = new_id(prefix, self._now)
        self.report.renamed[source] = id_
        return id_


def _without_repeats(part: PreparedPart) -> Iterator[PreparedPart]:
    """The part, cut where a thread comes again: what it got before must be written by then."""
    seen: set[str] = set()
    start = 0
    for at, (_, line) in enumerate(part):
        if isinstance(line, ThreadLine):
            if line.id in seen:
                yield part[start:at]
                seen.clear()
                start = at
            seen.add(line.id)
    yield part[start:]


async def _held_assistant(session: Session, id_: str) -> AssistantRecord | None:
    try:
        return await thread_store.get_assistant(session, id_)
    except NotFound:
        return None


def _same_assistant(held: AssistantRecord, line: AssistantLine) -> bool:
    same_fields = all(getattr(held, key) == line.fields.get(key) for key in _ASSISTANT_KEYS)
    return same_fields and held.metadata == line.metadata


async def _check_same(session: Session, messages: Sequence[_Message], records: dict[str, ThreadRecord]) -> None:
    """Raise InvalidInput unless the messages are those that are at their places here."""
    pks = [records[message.thread.id].pk for message in messages]
    held = await message_store.held_at(session, pks, [message.seq for message in messages])
    for pk, message in zip(pks, messages, strict=True):
        id_, content = held.get((pk, message.seq), ("", ""))
        new = message.line.message
        # One that was edited or deleted here since stays as it is.
        if not (id_ == new.id if message.line.has_id else content in (None, new.content)):
            error = Conflict(
                f"Thread {message.thread.id!r} has another message at `seq` {message.seq} here: it went on in two ways. "
                "Import into another project.",
                code="thread_diverged",
                field="seq",
            )
            raise at_line(message.number, error)


def _by_thread(messages: Sequence[_Message]) -> dict[str, list[_Message]]:
    groups: dict[str, list[_Message]] = {}
    for message in messages:
        groups.setdefault(message.thread.id, []).append(message)
    return groups


def _place(messages: Sequence[_Message], tail: Tail) -> tuple[list[Placed], Tail]:
    """What is to be written, and how the thread then ends."""
    placed: list[Placed] = []
    for message in messages:
        new = message.line.message
        try:
            tail = extend_tail(tail, new.role, new.outline, "content")
        except MemoryServiceError as error:
            raise at_line(message.number, error) from error
        placed.append((message.seq, new, moved_entry(new.entry, message.seq)))
    return placed, tail


def _with_id(line: PreparedMessage, id_: str) -> PreparedMessage:
    return replace(line, message=replace(line.message, id=id_))
