"""Lines of an import, and all that can be done with them before the database: read, checked, counted, indexed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory_service.errors import InvalidInput, MemoryServiceError
from memory_service.providers.base import TextCounter
from memory_service.services import ingest
from memory_service.services.ingest import Draft
from memory_service.store.ended_runs import EndedRun
from memory_service.store.messages import NewMessage

_PART_LINES = 1_000
_PART_BYTES = 4_000_000


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


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run of the thread whose line came last; `thread_id` as in MessageLine."""

    run: EndedRun
    thread_id: str | None


Line = AssistantLine | ThreadLine | RunLine | MessageLine

ReadLine = Callable[[bytes], Line | None]
Part = Sequence[tuple[int, bytes]]
"""Lines with their numbers in the file."""


@dataclass(frozen=True, slots=True)
class PreparedMessage:
    """`message` is ready to be written, under the id of the line if `has_id`."""

    message: NewMessage
    has_id: bool
    thread_id: str | None
    seq: int | None


PreparedPart = list[tuple[int, AssistantLine | ThreadLine | RunLine | PreparedMessage]]


def parts_of(lines: Iterable[bytes]) -> Iterator[Part]:
    """Lines in parts of a size that suits a transaction; empty ones are left out."""
    part: list[tuple[int, bytes]] = []
    size = 0
    for number, line in enumerate(lines, start=1):
        if stripped := line.strip(b" \t\r\n"):
            part.append((number, stripped))
            size += len(stripped)
        if len(part) >= _PART_LINES or size >= _PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def prepare_part(part: Part, read: ReadLine, counter: TextCounter, now: datetime) -> PreparedPart:
    """Takes a tenth of a second of work, so it does not belong on the event loop. Raises InvalidInput naming the line."""
    prepared: PreparedPart = []
    number = 0
    try:
        for number, text in part:
            line = read(text)
            if line is None:
                continue
            prepared.append((number, _prepare(line, counter, now) if isinstance(line, MessageLine) else line))
    except MemoryServiceError as error:
        raise at_line(number, error) from error
    return prepared


def _prepare(line: MessageLine, counter: TextCounter, now: datetime) -> PreparedMessage:
    message = ingest.prepare_one(counter, line.draft, now)
    return PreparedMessage(message, line.draft.id is not None, line.thread_id, line.seq)


def at_line(number: int, error: MemoryServiceError) -> InvalidInput:
    details = {**error.details, "line": number}
    return InvalidInput(f"Line {number}: {error.message}", code=error.code, **details)
