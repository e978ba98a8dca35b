"""Where the lines of an import stand: in which thread, at which place, and whether they may."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from memory_service.core.messages import Tail, extend_tail
from memory_service.core.recall import moved_entry
from memory_service.errors import Conflict, InvalidInput, InvalidMessage, MemoryServiceError
from memory_service.services.lines import PreparedMessage, PreparedPart, ThreadLine, at_line
from memory_service.store import messages as message_store
from memory_service.store import threads as thread_store
from memory_service.store.db import Session
from memory_service.store.ended_runs import EndedRun
from memory_service.store.messages import Placed
from memory_service.store.threads import ThreadRecord


@dataclass(slots=True)
class OpenThread:
    """A thread whose lines are being read: its id in the file and here, and what the file said of it so far. `runs`: their
    ids here, by those in the file."""

    source_id: str
    id: str
    last_seq: int = 0
    tool_use_ids: set[str] = field(default_factory=set)
    runs: dict[str, str] = field(default_factory=dict)

    def check(self, line: PreparedMessage) -> int:
        """The line's seq. Raises InvalidInput unless the line may follow those before."""
        self.check_named(line.thread_id)
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

    def check_named(self, thread_id: str | None) -> None:
        if thread_id not in (None, self.source_id):
            raise InvalidInput(
                f"`thread_id` {thread_id!r} is not the thread of the lines before, {self.source_id!r}.",
                field="thread_id",
            )


@dataclass(frozen=True, slots=True)
class MessageAt:
    number: int
    thread: OpenThread
    seq: int
    line: PreparedMessage


@dataclass(frozen=True, slots=True)
class RunAt:
    number: int
    thread: OpenThread
    run: EndedRun


def without_repeats(part: PreparedPart) -> Iterator[PreparedPart]:
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


def id_taken(kind: str, id_: str) -> Conflict:
    told = f"There is another {kind} with `id` {id_!r} in this project; import into another project."
    return Conflict(told, code="id_taken", field="id")


async def held_threads(
    session: Session, lines: Sequence[RunAt | MessageAt], opened: dict[str, ThreadRecord]
) -> dict[str, ThreadRecord]:
    """Those of the lines that were there before."""
    ids = {line.thread.id for line in lines} - opened.keys()
    held = await thread_store.lock_threads(session, list(ids)) if ids else {}
    for line in lines:
        if line.thread.id not in opened and line.thread.id not in held:
            raise at_line(line.number, Conflict("The thread was deleted while it was imported; import again."))
    return held


async def check_same(session: Session, messages: Sequence[MessageAt], records: dict[str, ThreadRecord]) -> None:
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


def by_thread(messages: Sequence[MessageAt]) -> dict[str, list[MessageAt]]:
    groups: dict[str, list[MessageAt]] = {}
    for message in messages:
        groups.setdefault(message.thread.id, []).append(message)
    return groups


def place(messages: Sequence[MessageAt], tail: Tail) -> tuple[list[Placed], Tail]:
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


def with_id(line: PreparedMessage, id_: str) -> PreparedMessage:
    return replace(line, message=replace(line.message, id=id_))
