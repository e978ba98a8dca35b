"""Responses. A response is a run on a thread, and has the same id there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from fastapi import Query, Response
from pydantic import Field

from memory_service.api.deps import Context, Ctx, json_response
from memory_service.api.errors import status_of
from memory_service.api.openai import response_object
from memory_service.api.openai.conversations import LOCKED
from memory_service.api.openai.errors import error_body, told_when_locked
from memory_service.api.openai.frame import (
    KEEP_ALIVE,
    Input,
    Metadata,
    PageAsked,
    event,
    event_stream,
    list_object,
    new_router,
    page_of,
)
from memory_service.api.openai.items import drafts, shown_items
from memory_service.api.openai.parameters import parameters
from memory_service.api.openai.response_events import Event, ResponseStream
from memory_service.api.openai.schemas import TextOrList, ToolChoice
from memory_service.api.openai.translate import native_tools
from memory_service.api.runs import events
from memory_service.api.schemas import Id, ModelName
from memory_service.core.canonical import loads
from memory_service.core.truncation import TruncationStrategy
from memory_service.errors import InvalidInput, MemoryServiceError, NotFound, NoUserMessage, Unavailable
from memory_service.services import planning, responses, runs
from memory_service.services.planning import PromptSpec
from memory_service.services.responses import Asked, own_of
from memory_service.services.run_spec import RunSpec
from memory_service.services.runs import ShownRun
from memory_service.store import messages as message_store
from memory_service.store.runs import RunRecord

router = new_router()
_IMPOSSIBLE = {"prompt_too_large": "context_length_exceeded", "no_user_message": "invalid_request"}
_NOT_HERE = {
    "background": "responses are executed while they are waited for or streamed; a client that goes away ends none",
    "prompt": "there are no stored prompt templates; send `instructions` and `input`",
}
# So that nothing of a response that is not to be kept stays, whatever its reader does.
_LONGEST_READ_SECONDS = 60.0
_forgetting: set[asyncio.Task[None]] = set()


class ConversationParam(Input):
    id: Id


class ResponseFields(Input):
    model: ModelName | None = None
    input: TextOrList | None = None
    instructions: Annotated[str, Field(max_length=1_000_000)] | None = None
    conversation: Id | ConversationParam | None = None
    previous_response_id: Id | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationParam) else self.conversation


class ResponseCreate(ResponseFields):
    model: ModelName
    background: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    max_tool_calls: int | None = None
    metadata: Metadata = {}
    prompt: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_logprobs: int | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    user: str | None = None


@router.post("/responses")
async def create_response(context: Ctx, body: ResponseCreate) -> Response:
    for name, instead in _NOT_HERE.items():
        if getattr(body, name):
            raise InvalidInput(f"`{name}` is not supported: {instead}.", code="unsupported_parameter", field=name)
    asked = _asked(context, body, keep=body.store is not False)
    with told_when_locked(LOCKED, code="conversation_locked", param="conversation"), _told_as_input():
        shown = await responses.create(
            context.runtime, context.runner, context.project_id, asked, context.now, context.call
        )
    read = asyncio.Event()
    if not asked.keep:
        _forget_when_read(context, shown, read)
    if body.stream:
        return event_stream(_written(context, shown, -1, read))
    try:
        return json_response(await _answer(context, shown))
    finally:
        read.set()


@contextmanager
def _told_as_input() -> Iterator[None]:
    try:
        yield
    except NoUserMessage as error:
        raise InvalidInput("`input` must end with what the model is to answer: the user's.", field="input") from error


async def _answer(context: Context, shown: ShownRun) -> dict[str, Any]:
    """The response, once it has ended. Raises InvalidInput where it was found to be impossible."""
    async for _ in events(context, shown, 0):
        pass
    ended = await runs.get(context.runtime, context.project_id, shown.thread_id, shown.record.id)
    error = loads(ended.record.last_error) if ended.record.last_error else {}
    if error.get("code") in _IMPOSSIBLE:
        await responses.undo(context.runtime, context.project_id, ended, context.now)
        raise InvalidInput(error["message"], code=_IMPOSSIBLE[error["code"]], field="input")
    return await _object(context, shown.thread_id, ended.record)


async def _object(context: Context, thread_id: str, run: RunRecord) -> dict[str, Any]:
    async with context.runtime.db.read_only(context.project_id) as session:
        return await response_object.read(session, thread_id, run)


def _forget_when_read(context: Context, shown: ShownRun, read: asyncio.Event) -> None:
    async def forget() -> None:
        try:
            async for _ in events(context, shown, 0):
                pass
        except NotFound:  # deleted meanwhile
            pass
        except Unavailable:  # the service stops; a sweep finds the thread
            return
        try:
            async with asyncio.timeout(_LONGEST_READ_SECONDS):
                await read.wait()
        finally:
            await responses.forget(context.runtime, context.project_id, shown.thread_id)

    task = asyncio.create_task(forget())
    _forgetting.add(task)
    task.add_done_callback(_forgetting.discard)


def _asked(context: Context, body: ResponseFields, *, keep: bool = True) -> Asked:
    if body.conversation is not None and body.previous_response_id is not None:
        raise InvalidInput(
            "`conversation` and `previous_response_id` cannot both be given.", field="previous_response_id"
        )
    given = body.model_dump(exclude_none=True, exclude={"input", "conversation", "metadata", "stream"})
    tools = None if body.tools is None else tuple(_functions(body.tools))
    prompt = PromptSpec(
        model=body.model or "echo",
        provider=None if body.model else "echo",
        max_output_tokens=given.get("max_output_tokens"),
        strategy=TruncationStrategy("auto" if body.truncation == "auto" else "disabled"),
        tools=tools,
        instructions=body.instructions,
    )
    provider = planning.settle(context.runtime, prompt).provider
    spec = RunSpec(prompt, parameters(provider, given, has_tools=bool(tools)), openai=given)
    return Asked(
        spec,
        drafts(body.input if body.input is not None else [], "input"),
        dict(getattr(body, "metadata", {})),
        body.conversation_id,
        body.previous_response_id,
        keep,
    )


def _functions(tools: list[dict[str, Any]]) -> list[Any]:
    for index, tool in enumerate(tools):
        if tool.get("type") != "function":
            raise InvalidInput(
                f"`tools[{index}].type`: tools of type {str(tool.get('type'))[:64]!r} are not executed here; only "
                "functions are.",
                field=f"tools[{index}].type",
            )
    return native_tools([{"type": "function", "function": tool} for tool in tools])


@router.get("/responses/{response_id}")
async def get_response(
    context: Ctx,
    response_id: str,
    stream: Annotated[bool, Query()] = False,
    starting_after: Annotated[int, Query()] = -1,
) -> Response:
    async with context.runtime.db.read_only(context.project_id) as session:
        thread_id, run = await responses.find(session, response_id)
        if not stream:
            return json_response(await response_object.read(session, thread_id, run))
    return event_stream(_written(context, ShownRun(thread_id, run, None), starting_after, asyncio.Event()))


async def _written(context: Context, shown: ShownRun, after: int, read: asyncio.Event) -> AsyncIterator[bytes]:
    """The events behind the one with number `after`."""
    number = 0
    try:
        async for told in _told(context, shown):
            if told is None:
                yield KEEP_ALIVE
                continue
            number = told["sequence_number"]
            if number > after:
                yield event(told["type"], told)
    except MemoryServiceError as error:  # it was deleted meanwhile
        told = error_body(status_of(error), error.code, error.message, error.details)["error"]
        fields = {name: told[name] for name in ("code", "message", "param")}
        yield event("error", {"type": "error", "sequence_number": number + 1, **fields})
    finally:
        read.set()


async def _told(context: Context, shown: ShownRun) -> AsyncIterator[Event | None]:
    stream = ResponseStream(shows_reasoning=shown.record.provider == "anthropic")
    for told in stream.began(response_object.unfinished(await _object(context, shown.thread_id, shown.record))):
        yield told
    async for happened in events(context, shown, 0):
        if happened is None:
            yield None
            continue
        content = loads(happened.content)
        if happened.type == "message.delta":
            for told in stream.delta(content):
                yield told
        elif happened.type == "message.completed":
            async with context.runtime.db.read_only(context.project_id) as session:
                kept = await message_store.find_message(session, shown.record.thread_pk, content["message_id"])
            for told in stream.kept(shown_items(kept) if kept else []):
                yield told
    ended = await runs.get(context.runtime, context.project_id, shown.thread_id, shown.record.id)
    for told in stream.ended(await _object(context, shown.thread_id, ended.record)):
        yield told


@router.delete("/responses/{response_id}")
async def delete_response(context: Ctx, response_id: str) -> Response:
    await responses.delete(context.runtime, context.project_id, response_id, context.now)
    return json_response({"id": response_id, "object": "response", "deleted": True})


@router.post("/responses/{response_id}/cancel")
async def cancel_response(context: Ctx, response_id: str) -> Response:
    async with context.runtime.db.read_only(context.project_id) as session:
        thread_id, run = await responses.find(session, response_id)
    if run.ended and run.status != "cancelled":
        raise InvalidInput(f"Cannot cancel response with status '{run.status}'.", field="response_id")
    shown = await runs.cancel(context.runtime, context.runner, context.project_id, thread_id, run.id, context.now)
    return json_response(await _object(context, thread_id, shown.record))


@router.get("/responses/{response_id}/input_items")
async def list_input_items(context: Ctx, response_id: str, page: PageAsked) -> Response:
    """What was sent with the response itself, without what came before."""
    async with context.runtime.db.read_only(context.project_id) as session:
        _, run = await responses.find(session, response_id)
        first, last = own_of(run).get("input", (1, 0))
        records = await message_store.range_of(session, run.thread_pk, first_seq=first, last_seq=last)
    items = [one for record in records for one in shown_items(record)]
    return json_response(list_object(page_of(items, page, lambda one: one.id), lambda one: one.item))


@router.post("/responses/input_tokens")
async def count_input_tokens(context: Ctx, body: ResponseFields | None = None) -> Response:
    asked = _asked(context, body or ResponseFields())
    tokens = await responses.count_input(context.runtime, context.project_id, asked, context.now)
    return json_response({"object": "response.input_tokens", "input_tokens": tokens})


@router.post("/responses/compact")
async def compact(_: Ctx) -> Response:
    raise InvalidInput(
        "Compaction on demand is not supported: long conversations are truncated and recalled from by themselves.",
        code="unsupported_operation",
    )
