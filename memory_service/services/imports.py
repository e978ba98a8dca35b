"""Importing what was exported, byte for byte.

One JSON object a line, with a `type`: `assistant`, `thread`, then the thread's `run` lines, and its `message` lines in
the order of `seq`. Lines are taken in parts. While one is written, in a handful of statements however many threads it is
of, the next is prepared beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from memory_service.errors import Conflict, InvalidInput, MemoryServiceError, NotFound
from memory_service.runtime import Runtime, new_id
from memory_service.services.import_places import (
    MessageAt,
    OpenThread,
    RunAt,
    by_thread,
    check_same,
    held_threads,
    id_taken,
    place,
    with_id,
    without_repeats,
)
from memory_service.services.ingest import note_appended, with_vectors
from memory_service.services.lines import (
    AssistantLine,
    Part,
    PreparedMessage,
    PreparedPart,
    ReadLine,
    RunLine,
    ThreadLine,
    at_line,
    parts_of,
    prepare_part,
)
from memory_service.services.run_spec import RunSpec
from memory_service.store import ended_runs
from memory_service.store import messages as message_store
from memory_service.store import threads as thread_store
from memory_service.store.db import Session
from memory_service.store.ended_runs import EndedRun
from memory_service.store.messages import Addition
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
    runs: int = 0
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


class Import:
    """What is known between the parts of an import. It ends with the first error."""

    def __init__(self, now: datetime, ids: Ids) -> None:
        self._now = now
        self._ids = ids
        self._assistants: dict[str, str] = {}
        self._thread: OpenThread | None = None
        self.report = ImportReport()

    async def write(self, session: Session, part: PreparedPart) -> None:
        """Raises InvalidInput naming the line."""
        for piece in without_repeats(part):
            await self._write(session, piece)

    async def _write(self, session: Session, part: PreparedPart) -> None:
        opened: list[tuple[int, ThreadLine, OpenThread]] = []
        runs: list[RunAt] = []
        messages: list[MessageAt] = []
        number = 0
        try:
            for number, line in part:
                match line:
                    case AssistantLine():
                        await self._take_assistant(session, line)
                    case ThreadLine():
                        self._thread = OpenThread(line.id, line.id)
                        opened.append((number, line, self._thread))
                    case RunLine():
                        thread = self._thread_before("run")
                        thread.check_named(line.thread_id)
                        runs.append(RunAt(number, thread, line.run))
                    case PreparedMessage():
                        thread = self._thread_before("message")
                        messages.append(MessageAt(number, thread, thread.check(line), line))
        except MemoryServiceError as error:
            raise at_line(number, error) from error
        records = await self._open_threads(session, opened)
        records |= await held_threads(session, [*runs, *messages], records)
        touched = await self._write_runs(session, runs, records)
        touched |= await self._write_messages(session, messages, records)
        if touched:
            await ended_runs.note_messages(session, [record.pk for record in records.values()], touched)

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

    def _thread_before(self, kind: str) -> OpenThread:
        if self._thread is None:
            raise InvalidInput(f"A {kind} line must come after the line of its thread.", field="type")
        return self._thread

    async def _open_threads(
        self, session: Session, opened: Sequence[tuple[int, ThreadLine, OpenThread]]
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

    async def _write_runs(self, session: Session, runs: Sequence[RunAt], records: dict[str, ThreadRecord]) -> set[str]:
        """The ids of those that are new."""
        taken = await ended_runs.threads_of(session, [one.run.id for one in runs]) if runs else {}
        added: list[tuple[int, EndedRun]] = []
        for one in runs:
            thread_pk, source_id = records[one.thread.id].pk, one.run.id
            is_here = self._ids == "continue" and source_id in taken
            if is_here and taken[source_id] != thread_pk:
                raise at_line(one.number, id_taken("run", source_id))
            prefix = "resp" if source_id.startswith("resp_") else "run"
            id_ = source_id if is_here else self._id(prefix, source_id, taken=source_id in taken)
            one.thread.runs[source_id] = id_
            taken[id_] = thread_pk
            if not is_here:
                added.append((thread_pk, replace(one.run, id=id_, spec=self._spec(one.run.spec))))
        if added:
            await ended_runs.add(session, added, self._now)
            self.report.runs += len(added)
        return {run.id for _, run in added}

    def _spec(self, spec: str) -> str:
        """With the assistant as it is called here."""
        asked = RunSpec.from_json(spec)
        assistant_id = asked.prompt.assistant_id or ""
        if (id_ := self._assistants.get(assistant_id, assistant_id)) == assistant_id:
            return spec
        return replace(asked, prompt=replace(asked.prompt, assistant_id=id_)).to_json()

    async def _write_messages(
        self, session: Session, messages: Sequence[MessageAt], records: dict[str, ThreadRecord]
    ) -> set[str]:
        """The ids of the imported runs that some were written by."""
        additions: list[Addition] = []
        for thread_id, group in by_thread(await self._missing(session, messages, records)).items():
            record = records[thread_id]
            placed, tail = place(group, record.tail)
            additions.append(Addition(record.pk, placed, tail))
        if additions:
            written = await message_store.append(session, additions)
            note_appended(session, written)
            self.report.messages += len(written)
        known = {id_ for message in messages for id_ in message.thread.runs.values()}
        return {new.run_id for addition in additions for _, new, _ in addition.placed if new.run_id} & known

    async def _missing(
        self, session: Session, messages: Sequence[MessageAt], records: dict[str, ThreadRecord]
    ) -> list[MessageAt]:
        """The messages that are not there yet, under the ids they get here."""
        here = [message for message in messages if message.seq <= records[message.thread.id].last_seq]
        if here:
            await check_same(session, here, records)
            self.report.skipped += len(here)
        missing = [message for message in messages if message.seq > records[message.thread.id].last_seq]
        given = [message.line.message.id for message in missing if message.line.has_id]
        taken = await message_store.taken_ids(session, given) if given and self._ids != "fresh" else set()
        return [self._named(message, taken) for message in missing]

    def _named(self, message: MessageAt, taken: set[str]) -> MessageAt:
        line = message.line
        if (run_id := message.thread.runs.get(line.message.run_id or "")) not in (None, line.message.run_id):
            line = replace(line, message=replace(line.message, run_id=run_id))
            message = replace(message, line=line)
        if not line.has_id:
            return message
        if self._ids == "continue" and line.message.id in taken:
            raise at_line(message.number, id_taken("message", line.message.id))
        id_ = self._id("msg", line.message.id, taken=line.message.id in taken)
        taken.add(id_)
        return message if id_ == line.message.id else replace(message, line=with_id(line, id_))

    def _id(self, prefix: str, source: str, *, taken: bool) -> str:
        if self._ids != "fresh" and not taken:
            return source
        id_ = new_id(prefix, self._now)
        self.report.renamed[source] = id_
        return id_


async def _held_assistant(session: Session, id_: str) -> AssistantRecord | None:
    try:
        return await thread_store.get_assistant(session, id_)
    except NotFound:
        return None


def _same_assistant(held: AssistantRecord, line: AssistantLine) -> bool:
    same_fields = all(getattr(held, key) == line.fields.get(key) for key in _ASSISTANT_KEYS)
    return same_fields and held.metadata == line.metadata
