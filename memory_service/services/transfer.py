"""Threads as NDJSON, out and in again, byte for byte.

One JSON object a line, with a `type`: `assistant`, `thread`, then the thread's `message` lines in the order of `seq`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from memory_service.core.canonical import Raw, check_text, dumps, loads
from memory_service.errors import InvalidInput, MemoryServiceError, NotFound
from memory_service.runtime import Runtime, new_id
from memory_service.services import ingest
from memory_service.services.ingest import Draft
from memory_service.store import messages as message_store
from memory_service.store import threads as thread_store
from memory_service.store.db import Session
from memory_service.store.threads import AssistantRecord, ThreadRecord

_BATCH = 500
_JSON_FIELDS = frozenset({"tools", "documents", "truncation_strategy", "defaults"})
_THREAD_KEYS = ("user_id", "assistant_id", "instructions", "tools", "documents", "truncation_strategy")
_ASSISTANT_KEYS = ("name", "model", "provider", "instructions", "tools", "documents", "defaults")


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
    runtime: Runtime, session: Session, lines: Iterable[bytes], now: datetime, *, keep_ids: bool
) -> ImportReport:
    """Write exported lines, all or none. An id that is taken is replaced by a fresh one, and reported.

    Raises InvalidInput naming the line.
    """
    importing = _Import(runtime, session, now, keep_ids)
    number = 0
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                await importing.take(line)
            except MemoryServiceError as error:
                raise InvalidInput(
                    f"Line {number}: {error.message}", code=error.code, **{**error.details, "line": number}
                ) from error
    try:
        await importing.flush()
    except MemoryServiceError as error:
        raise InvalidInput(
            f"Up to line {number}: {error.message}", code=error.code, **{**error.details, "line": number}
        ) from error
    return importing.report


class _Import:
    def __init__(self, runtime: Runtime, session: Session, now: datetime, keep_ids: bool) -> None:
        self._runtime = runtime
        self._session = session
        self._now = now
        self._keep_ids = keep_ids
        self._assistants: dict[str, str] = {}
        self._thread: tuple[str, ThreadRecord] | None = None  # its id in the file, and here
        self._pending: list[tuple[Draft, int | None]] = []
        self.report = ImportReport()

    async def take(self, line: bytes) -> None:
        value = loads(line)
        check_text(value, "line")
        if not isinstance(value, dict) or value.get("type") not in ("assistant", "thread", "message"):
            raise InvalidInput("`type` must be assistant, thread or message.", field="type")
        if value["type"] == "message":
            await self._take_message(value)
            return
        await self.flush()
        await (self._take_assistant(value) if value["type"] == "assistant" else self._take_thread(value))

    async def _take_assistant(self, value: Mapping[str, Any]) -> None:
        source = _text(value, "id")
        fields = _columns(value, _ASSISTANT_KEYS)
        held = await self._held_assistant(source)
        metadata = _metadata(value)
        if held and self._keep_ids and _same_assistant(held, fields, metadata):
            self._assistants[source] = source
            return
        id_ = self._fresh("asst", source, taken=held is not None)
        await thread_store.create_assistant(
            self._session, id=id_, now=_moment(value, self._now), metadata=metadata, fields=fields
        )
        self._assistants[source] = id_
        self.report.assistants += 1

    async def _held_assistant(self, id_: str) -> AssistantRecord | None:
        try:
            return await thread_store.get_assistant(self._session, id_)
        except NotFound:
            return None

    async def _take_thread(self, value: Mapping[str, Any]) -> None:
        source = _text(value, "id")
        fields = _columns(value, _THREAD_KEYS)
        assistant_id = fields.get("assistant_id")
        if assistant_id is not None:
            fields["assistant_id"] = self._assistants.get(assistant_id, assistant_id)
            await thread_store.get_assistant(self._session, fields["assistant_id"])
        try:
            await thread_store.get_thread(self._session, source)
            taken = True
        except NotFound:
            taken = False
        thread = await thread_store.create_thread(
            self._session,
            id=self._fresh("thread", source, taken=taken),
            now=_moment(value, self._now),
            metadata=_metadata(value),
            fields=fields,
        )
        self._thread = (source, thread)
        self.report.threads += 1

    async def _take_message(self, value: Mapping[str, Any]) -> None:
        if self._thread is None:
            raise InvalidInput("A message line must come after the line of its thread.", field="type")
        thread_id = value.get("thread_id", self._thread[0])
        if thread_id != self._thread[0]:
            raise InvalidInput(
                f"`thread_id` {thread_id!r} is not the thread of the lines before, {self._thread[0]!r}.",
                field="thread_id",
            )
        if value.get("role") not in ("user", "assistant"):
            raise InvalidInput("`role` must be user or assistant.", field="role")
        seq = value.get("seq")
        if seq is not None and (isinstance(seq, bool) or not isinstance(seq, int) or seq < 1):
            raise InvalidInput("`seq` must be a positive number.", field="seq")
        status = value.get("status", "completed")
        if status not in ("completed", "incomplete"):
            raise InvalidInput("`status` must be completed or incomplete.", field="status")
        draft = Draft(
            role=value["role"],
            content=value.get("content"),
            field="",
            metadata=_metadata(value),
            id=_text(value, "id") if value.get("id") is not None else None,
            created_at=_moment(value, self._now),
            status=status,
            run_id=_text(value, "run_id") if value.get("run_id") is not None else None,
        )
        self._pending.append((draft, seq))
        if len(self._pending) >= _BATCH:
            await self.flush()

    async def flush(self) -> None:
        """Write the messages that were read."""
        if not self._pending or self._thread is None:
            return
        source, thread = self._thread
        drafts = [draft for draft, _ in self._pending]
        prepared = await ingest.prepare(self._runtime, drafts, self._now)
        given = [draft.id for draft in drafts if draft.id]
        taken = await message_store.taken_ids(self._session, given) if given else set()
        seen: set[str] = set()
        messages = []
        for message, draft in zip(prepared, drafts, strict=True):
            id_ = message.id
            if draft.id:
                id_ = self._fresh("msg", draft.id, taken=draft.id in taken or draft.id in seen)
            seen.add(id_)
            messages.append(ingest.with_id(message, id_))
        seqs = [seq for _, seq in self._pending]
        await ingest.append(self._session, thread, messages, [""] * len(messages), seqs=seqs)
        self._thread = (source, await thread_store.get_thread(self._session, thread.id))
        self.report.messages += len(messages)
        self._pending.clear()

    def _fresh(self, prefix: str, source: str, *, taken: bool) -> str:
        if self._keep_ids and not taken:
            return source
        id_ = new_id(prefix, self._now)
        self.report.renamed[source] = id_
        return id_


def _same_assistant(held: AssistantRecord, fields: Mapping[str, Any], metadata: Mapping[str, str]) -> bool:
    return held.metadata == metadata and all(getattr(held, key) == fields.get(key) for key in _ASSISTANT_KEYS)


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not 1 <= len(text) <= 256:
        raise InvalidInput(f"`{key}` must be a string of 1 to 256 characters.", field=key)
    return text


def _metadata(value: Mapping[str, Any]) -> dict[str, str]:
    metadata = value.get("metadata") or {}
    valid = (
        isinstance(metadata, dict)
        and len(metadata) <= 16
        and all(isinstance(v, str) and 1 <= len(k) <= 64 and len(v) <= 512 for k, v in metadata.items())
    )
    if not valid:
        raise InvalidInput("`metadata` must be at most 16 pairs of strings (64 and 512 characters).", field="metadata")
    return dict(metadata)


def _columns(value: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Scalars as they are, JSON in canonical form; what is null or absent is left out."""
    columns: dict[str, Any] = {}
    for key in keys:
        if (given := value.get(key)) is None:
            continue
        if key in _JSON_FIELDS:
            columns[key] = dumps(given)
        elif isinstance(given, str):
            columns[key] = given
        else:
            raise InvalidInput(f"`{key}` must be a string.", field=key)
    return columns


def _moment(value: Mapping[str, Any], now: datetime) -> datetime:
    given = value.get("created_at")
    if given is None:
        return now
    try:
        moment = datetime.fromisoformat(given)
    except (TypeError, ValueError):
        raise InvalidInput(
            "`created_at` must be an RFC 3339 time, such as 2026-01-31T12:00:00Z.", field="created_at"
        ) from None
    if moment.tzinfo is None:
        raise InvalidInput("`created_at` needs an offset, such as Z.", field="created_at")
    return moment
