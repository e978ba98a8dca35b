"""Runs: start, follow, answer their tools, cancel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from memory_service.api import answers, render, run_wire
from memory_service.api.deps import Context, Ctx, NewestFirst, json_response
from memory_service.api.prompts import prompt_spec
from memory_service.api.routing import CanonicalRoute
from memory_service.api.threads import draft
from memory_service.core.canonical import dumps, loads
from memory_service.core.runs import ENDED, RunBudget, check_parameters
from memory_service.errors import InvalidInput, NotFound, Unavailable
from memory_service.services import runs
from memory_service.services.run_spec import RunSpec
from memory_service.services.runs import ShownRun
from memory_service.store import messages as message_store
from memory_service.store import runs as run_store
from memory_service.store.messages import MessageRecord
from memory_service.store.run_events import RunEvent, fills_page
from memory_service.store.threads import get_thread

router = APIRouter(prefix="/v1", route_class=CanonicalRoute, tags=["runs"])
_KEEP_ALIVE_SECONDS = 15.0
_KEEP_ALIVE = b": keep-alive\n\n"
# What a stream ends with: from here on the run goes on only when its caller does something.
_STOPPED = frozenset({"requires_action", "completed", "incomplete", "failed", "cancelled", "expired"})
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "With `stream`: the run's events.", "content": {"text/event-stream": {}}}
}
LastEventId = Annotated[
    str | None, Header(description="Of the last event that was received: the stream goes on behind it.")
]


@router.post("/threads/{thread_id}/runs", status_code=201, response_model=run_wire.Run, responses=_STREAM)
async def create_run(context: Ctx, thread_id: str, body: run_wire.RunCreate) -> Response:
    """Execute a model on the thread: append `message`, build the prompt, call, keep the reply."""
    check_parameters(body.parameters)
    spec = RunSpec(
        prompt=prompt_spec(body),
        parameters=body.parameters,
        budget=RunBudget(**body.run_budget.model_dump()),
        timeout_seconds=body.timeout_seconds,
        tool_timeout_seconds=body.tool_timeout_seconds,
    )
    shown = await runs.create(
        context.runtime,
        context.runner,
        context.project_id,
        thread_id,
        spec,
        draft(body.message, "message.") if body.message else None,
        body.metadata,
        body.on_busy,
        context.now,
        context.call,
    )
    return await _answer(context, shown, stream=body.stream, wait=body.wait, status=201)


@router.get("/threads/{thread_id}/runs", response_model=answers.Page[run_wire.Run])
async def list_runs(context: Ctx, page: NewestFirst, thread_id: str) -> Response:
    """List the runs of a thread, newest first, without their replies."""
    async with context.runtime.db.read_only(context.project_id) as session:
        thread = await get_thread(session, thread_id)
        found = await run_store.list_runs(session, thread.pk, page)
    return json_response(render.page(found, lambda record: render.run(ShownRun(thread_id, record, None))))


@router.get("/threads/{thread_id}/runs/{run_id}", response_model=run_wire.Run, responses=_STREAM)
async def get_run(
    context: Ctx,
    thread_id: str,
    run_id: str,
    stream: Annotated[bool, Query(description="Answer with the run's events (SSE), from the first on.")] = False,
    last_event_id: LastEventId = None,
) -> Response:
    """One run; or its events, also those that came before."""
    # A stream tells of the reply at its end; until then nobody holds it.
    shown = await runs.get(context.runtime, context.project_id, thread_id, run_id, with_reply=not stream)
    if stream:
        return _stream(context, shown, _seq(last_event_id))
    return json_response(render.run(shown))


@router.post("/threads/{thread_id}/runs/{run_id}/tool_outputs", response_model=run_wire.Run, responses=_STREAM)
async def submit_tool_outputs(context: Ctx, thread_id: str, run_id: str, body: run_wire.ToolOutputs) -> Response:
    """Give a run the outputs of all tool calls that it waits for, and let it go on."""
    outputs = [
        {"tool_use_id": o.tool_use_id, "content": o.content, **({"is_error": True} if o.is_error else {})}
        for o in body.tool_outputs
    ]
    shown = await runs.answer_tools(
        context.runtime,
        context.runner,
        context.project_id,
        thread_id,
        run_id,
        outputs,
        context.now,
        context.call,
    )
    return await _answer(context, shown, stream=body.stream, wait=body.wait, status=200)


@router.post("/threads/{thread_id}/runs/{run_id}/cancel", response_model=run_wire.Run)
async def cancel_run(context: Ctx, thread_id: str, run_id: str) -> Response:
    """Stop a run. What the model had said is kept, as an `incomplete` message."""
    shown = await runs.cancel(context.runtime, context.runner, context.project_id, thread_id, run_id, context.now)
    return json_response(render.run(shown))


async def _answer(context: Context, shown: ShownRun, *, stream: bool, wait: bool, status: int) -> Response:
    await asyncio.sleep(0)  # what the run does first, asking the model, goes before what is told of it
    if stream:
        return _stream(context, shown, shown.since)
    if wait:
        last = None
        async for event in events(context, shown, shown.since):
            last = event or last
        assert last  # an active run ends
        shown = await _shown_by(context, shown, last)
    return json_response(render.run(shown), status)


async def _shown_by(context: Context, shown: ShownRun, event: RunEvent) -> ShownRun:
    """The run as it is now."""
    if event.run:
        return ShownRun(shown.thread_id, event.run, event.message)
    return await runs.get(context.runtime, context.project_id, shown.thread_id, shown.record.id)


def _seq(last_event_id: str | None) -> int:
    if last_event_id is None:
        return 0
    if not last_event_id.isascii() or not last_event_id.isdecimal() or int(last_event_id) >= 2**31:
        raise InvalidInput(
            "Last-Event-ID must be the `id` of an event of this run.", code="invalid_header", field="Last-Event-ID"
        )
    return int(last_event_id)


def _stream(context: Context, shown: ShownRun, after: int) -> Response:
    telling = _Shown(context, shown)

    async def written() -> AsyncIterator[bytes]:
        # The thread was deleted meanwhile; or it is to be taken up again, elsewhere or later.
        with suppress(NotFound, Unavailable):
            async for found in _parts(context, shown, after):
                # In one piece: each costs as much as what it tells.
                yield b"".join([await told(event) for event in found]) or _KEEP_ALIVE

    async def told(event: RunEvent) -> bytes:
        content = dumps(await telling.content(event))
        return format_sse_event(data_str=content, event=event.type, id=str(event.seq) if event.seq else None)

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(written(), headers=headers, media_type="text/event-stream")


async def events(context: Context, shown: ShownRun, after: int) -> AsyncIterator[RunEvent | None]:
    """The events of a run until it stops; None when nothing has happened for a while."""
    async for found in _parts(context, shown, after):
        for event in found:
            yield event
        if not found:
            yield None


async def _parts(context: Context, shown: ShownRun, after: int) -> AsyncIterator[Sequence[RunEvent]]:
    """Those that are there together."""
    run = shown.record
    if begun := [event for event in shown.begun if event.seq > after]:
        after = begun[-1].seq
        yield begun
    found: list[RunEvent] = []
    while True:
        # Of a run that stopped, all is written that there is.
        has_stopped = run.status in _STOPPED
        seconds = 0.5 if has_stopped else _KEEP_ALIVE_SECONDS
        is_behind = has_stopped or fills_page(found)
        found = await context.runner.journal.next_events(run.pk, after, seconds, is_behind=is_behind)
        if not found and run.status in _STOPPED:
            yield [RunEvent(run.pk, 0, f"run.{run.status}", "{}")]
            return
        after = found[-1].seq if found else after
        yield found
        if found and (found[-1].run or found[-1].type.removeprefix("run.") in ENDED):
            return
        if not found or found[-1].type.removeprefix("run.") in _STOPPED:
            run = (
                await runs.get(context.runtime, context.project_id, shown.thread_id, run.id, with_reply=False)
            ).record
            if found and found[-1].type == f"run.{run.status}":
                return


class _Shown:
    """What events tell. Of events that were read, runs and messages are read too: what was deleted does not come back."""

    def __init__(self, context: Context, shown: ShownRun) -> None:
        self._context = context
        self._begun = shown
        self._latest: ShownRun | None = None

    async def content(self, event: RunEvent) -> Any:
        content = loads(event.content)
        if event.type == "run.created":
            return {"run": render.run(self._begun)}
        if event.type == "message.completed":
            reply = event.message or await self._message(content["message_id"])
            return {"message": reply and render.message(reply, self._begun.thread_id)}
        if event.type.startswith("run."):
            # What came just before it was read with the run.
            found, self._latest = self._latest or await _shown_by(self._context, self._begun, event), None
            return {"run": render.run(found)}
        return content

    async def _message(self, message_id: str) -> MessageRecord | None:
        self._latest = await runs.get(
            self._context.runtime, self._context.project_id, self._begun.thread_id, self._begun.record.id
        )
        reply = self._latest.reply
        if reply is None or reply.id != message_id:
            async with self._context.runtime.db.read_only(self._context.project_id) as session:
                reply = await message_store.find_message(session, self._begun.record.thread_pk, message_id)
        return reply
