"""Lines of an import. They are held to the same models as the requests that write the same things."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationError

from memory_service.api import schemas
from memory_service.api.assistants import assistant_fields
from memory_service.api.deps import FIRST_MOMENT, LAST_MOMENT
from memory_service.api.errors import invalid_input
from memory_service.api.openai.kept import check_kept, check_kept_of_assistant
from memory_service.api.threads import thread_fields
from memory_service.core.canonical import check_text, dumps, loads
from memory_service.core.runs import Spent
from memory_service.errors import InvalidInput, PayloadTooLarge
from memory_service.services.ingest import Draft
from memory_service.services.lines import AssistantLine, Line, MessageLine, RunLine, ThreadLine
from memory_service.services.planning import PromptSpec
from memory_service.services.run_spec import RunSpec
from memory_service.store.ended_runs import EndedRun


def _moment(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("must be an RFC 3339 time, such as 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("needs an offset, such as Z")
    if not FIRST_MOMENT <= moment <= LAST_MOMENT:
        raise ValueError("must be a time after 1970 and before 9999")
    return moment.astimezone(UTC)


def _fit_for_paths(id: str) -> str:
    if "/" in id or not id.isprintable() or id in (".", ".."):
        raise ValueError("must hold no slash and only printable characters, since it stands in paths")
    return id


Id = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_fit_for_paths)]
Moment = Annotated[datetime | None, BeforeValidator(_moment)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Metadata = Annotated[schemas.Metadata, BeforeValidator(lambda value: {} if value is None else value)]


# What only OpenAI's objects have, as an export has it.
OpenAI = dict[str, Any] | None


class _AssistantLine(schemas.AssistantCreate):
    type: Literal["assistant"]
    id: Id
    created_at: Moment = None
    openai: OpenAI = None
    metadata: Metadata = Field(default_factory=dict)


class _ThreadLine(schemas.ThreadFields):
    type: Literal["thread"]
    id: Id
    created_at: Moment = None
    openai: OpenAI = None
    metadata: Metadata = Field(default_factory=dict)


class _Usage(schemas.Input):
    """As `core.runs.Spent`."""

    calls: Count = 0
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0
    uncached_tokens: Count = 0
    output_tokens: Count = 0
    cost_usd: float | None = None
    saved_usd: float | None = None
    seconds: float = 0.0


class _Error(schemas.Input):
    code: Annotated[str, StringConstraints(max_length=256)]
    message: str
    details: dict[str, Any] = Field(default_factory=dict)


class _RunLine(schemas.Input):
    """Of a run that has ended."""

    type: Literal["run"]
    id: Id
    thread_id: Id | None = None
    status: Literal["cancelled", "completed", "incomplete", "failed", "expired"]
    provider: schemas.Provider
    model: schemas.ModelName
    assistant_id: schemas.Id | None = None
    usage: _Usage = _Usage()
    last_error: _Error | None = None
    incomplete_reason: Annotated[str, StringConstraints(max_length=256)] | None = None
    metadata: Metadata = Field(default_factory=dict)
    created_at: Moment = None
    started_at: Moment = None
    ended_at: Moment = None
    openai: OpenAI = None


class _MessageLine(schemas.MessageInput):
    type: Literal["message"]
    id: Id | None = None
    thread_id: Id | None = None
    seq: Annotated[int, Field(ge=1, le=10**9)] | None = None
    status: Literal["completed", "incomplete"] = "completed"
    run_id: Id | None = None
    created_at: Moment = None
    metadata: Metadata = Field(default_factory=dict)
    openai: OpenAI = None


_MODELS: dict[object, type[_AssistantLine | _ThreadLine | _RunLine | _MessageLine]] = {
    "assistant": _AssistantLine,
    "thread": _ThreadLine,
    "run": _RunLine,
    "message": _MessageLine,
}


_PASSED_OVER = ("prompt", "message_revision", "usage_entry")


def _openai(line: _AssistantLine | _ThreadLine | _MessageLine) -> dict[str, str | None]:
    if line.openai:
        check = check_kept_of_assistant if isinstance(line, _AssistantLine) else check_kept
        check(line.openai)
    return {"openai": dumps(line.openai) if line.openai else None}


def lines_of(body: IO[bytes], max_bytes: int) -> Iterator[bytes]:
    """The lines, none of them held in memory beyond the size of a request's body. Raises PayloadTooLarge."""
    while line := body.readline(max_bytes + 1):
        if len(line) > max_bytes:
            raise PayloadTooLarge(f"A line is longer than {max_bytes} bytes.", limit_bytes=max_bytes)
        yield line


def read_line(text: bytes) -> Line | None:
    """One line of an import; None for what only the export of a user holds. Raises InvalidInput naming the field."""
    value = loads(text, unique_keys=True)
    check_text(value, "")
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in _PASSED_OVER:
        return None
    model = _MODELS.get(kind) if isinstance(kind, str) else None
    if model is None:
        told = "A line must be an object whose `type` is assistant, thread, run or message."
        if isinstance(value, dict) and "object" in value:
            told += " Objects of OpenAI's API are taken in by `memory-service import openai`."
        raise InvalidInput(told, field="type")
    try:
        line = model.model_validate(value)
    except ValidationError as error:
        raise invalid_input(error.errors()) from None
    match line:
        case _AssistantLine():
            return AssistantLine(line.id, assistant_fields(line) | _openai(line), line.metadata, line.created_at)
        case _ThreadLine():
            return ThreadLine(line.id, thread_fields(line) | _openai(line), line.metadata, line.created_at)
        case _RunLine():
            return RunLine(_run(line), line.thread_id)
    draft = Draft(
        role=line.role,
        content=line.content,
        field="",
        metadata=line.metadata,
        id=line.id,
        created_at=line.created_at,
        status=line.status,
        run_id=line.run_id,
        **_openai(line),
    )
    return MessageLine(draft, line.thread_id, line.seq)


def _run(line: _RunLine) -> EndedRun:
    if line.openai:
        check_kept(line.openai)
    asked = RunSpec(PromptSpec(line.provider, line.model, assistant_id=line.assistant_id), openai=line.openai or None)
    return EndedRun(
        id=line.id,
        status=line.status,
        provider=line.provider,
        model=line.model,
        spec=asked.to_json(),
        spent=dumps(Spent(**line.usage.model_dump())),
        last_error=dumps(line.last_error.model_dump()) if line.last_error else None,
        incomplete_reason=line.incomplete_reason,
        metadata=line.metadata,
        created_at=line.created_at,
        started_at=line.started_at,
        ended_at=line.ended_at,
    )
