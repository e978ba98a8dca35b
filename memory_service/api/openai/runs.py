"""Runs, as OpenAI has them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import Response

from memory_service.api.deps import Context, Ctx, json_response
from memory_service.api.openai import render, schemas, streams
from memory_service.api.openai.asking import asked_of, thread_columns
from memory_service.api.openai.errors import NO_CODE, told_when_locked
from memory_service.api.openai.frame import PageAsked, event, event_stream, list_object, new_router
from memory_service.core.canonical import dumps, loads
from memory_service.errors import Conflict, InvalidInput
from memory_service.services import runs
from memory_service.services.ingest import Draft
from memory_service.services.run_spec import RunSpec
from memory_service.services.runs import NewThread, ShownRun
from memory_service.store import runs as store
from memory_service.store.runs import RunRecord
from memory_service.store.threads import get_thread

router = new_router()
_POLL_AFTER = {"openai-poll-after-ms": "250"}


async def _start(
    context: Context, where: str | NewThread, spec: RunSpec, messages: Sequence[Draft], metadata: Mapping[str, str]
) -> ShownRun:
    return await runs.start(
        context.runtime,
        context.runner,
        context.project_id,
        where,
        spec,
        messages,
        metadata,
        context.now,
        context.call,
    )


def _running(thread_id: str) -> str:
    return f"Thread {thread_id} already has an active run {{run}}."


@router.post("/threads/runs")
async def create_thread_and_run(context: Ctx, body: schemas.ThreadAndRunCreate) -> Response:
    thread = body.thread or schemas.ThreadCreate()
    resources = thread.tool_resources if thread.tool_resources is not None else body.tool_resources
    spec, messages = await asked_of(context, body, thread.messages, "thread.messages", "")
    where = NewThread(thread_columns(resources), thread.metadata)
    shown = await _start(context, where, spec, messages, body.metadata)
    return await _begun(context, shown, stream=bool(body.stream), with_thread=True)


@router.post("/threads/{thread_id}/runs")
async def create_run(context: Ctx, thread_id: str, body: schemas.RunCreate) -> Response:
    additional = body.additional_instructions or ""
    spec, messages = await asked_of(context, body, body.additional_messages, "additional_messages", additional)
    with told_when_locked(_running(thread_id)):
        shown = await _start(context, thread_id, spec, messages, body.metadata)
    return await _begun(context, shown, stream=bool(body.stream))


@router.get("/threads/{thread_id}/runs")
async def list_runs(context: Ctx, page: PageAsked, thread_id: str) -> Response:
    async with context.runtime.db.read_only(context.project_id) as session:
        thread = await get_thread(session, thread_id)
        found = await store.list_runs(session, thread.pk, page)
    return json_response(list_object(found, lambda record: render.run(record, thread_id)))


@router.get("/threads/{thread_id}/runs/{run_id}")
async def get_run(context: Ctx, thread_id: str, run_id: str) -> Response:
    shown = await runs.get(context.runtime, context.project_id, thread_id, run_id)
    return _answer(render.run(shown.record, thread_id))


@router.post("/threads/{thread_id}/runs/{run_id}")
async def update_run(context: Ctx, thread_id: str, run_id: str, body: schemas.MetadataUpdate | None = None) -> Response:
    async with context.runtime.db.transaction(context.project_id) as session:
        thread = await get_thread(session, thread_id, lock=True)
        run = await store.get_run(session, thread.pk, run_id)
        if body and "metadata" in body.model_fields_set:
            run = await store.set_metadata(session, run, body.metadata)
    return json_response(render.run(run, thread_id))


@router.post("/threads/{thread_id}/runs/{run_id}/submit_tool_outputs")
async def submit_tool_outputs(context: Ctx, thread_id: str, run_id: str, body: schemas.ToolOutputs) -> Response:
    before = (await runs.get(context.runtime, context.project_id, thread_id, run_id)).record
    outputs = [
        {"tool_use_id": _call_of(each, i, before), "content": each.output or ""}
        for i, each in enumerate(body.tool_outputs)
    ]
    with _refused_as_openai():
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
    return await _begun(context, shown, stream=bool(body.stream))


def _call_of(output: schemas.ToolOutput, index: int, run: RunRecord) -> str:
    """The id of the call that an output answers."""
    if output.tool_call_id is not None:
        return output.tool_call_id
    waiting = loads(run.required_action) if run.required_action else []
    if len(waiting) > 1:
        field = f"tool_outputs[{index}].tool_call_id"
        raise InvalidInput(f"`{field}` is required: this run waits for {len(waiting)} outputs.", field=field)
    return str(waiting[0]["id"]) if waiting else ""


@router.post("/threads/{thread_id}/runs/{run_id}/cancel")
async def cancel_run(context: Ctx, thread_id: str, run_id: str) -> Response:
    before = (await runs.get(context.runtime, context.project_id, thread_id, run_id)).record
    with _refused_as_openai():
        if before.ended or before.status == "cancelling":
            raise Conflict("This run is ending, or has ended.", code="run_ended", status=before.status)
        shown = await runs.cancel(context.runtime, context.runner, context.project_id, thread_id, run_id, context.now)
    return _answer(render.run(shown.record, thread_id))


@contextmanager
def _refused_as_openai() -> Iterator[None]:
    """What a run's state, or the calls it waits for, do not allow, in OpenAI's words."""
    try:
        yield
    except Conflict as error:
        status = error.details.get("status")
        if error.code == "run_not_waiting":
            told = f'Runs in status "{status}" do not accept tool outputs.'
        elif error.code == "run_ended":
            told = f"Cannot cancel run with status '{status}'."
        else:
            raise
        raise InvalidInput(told, code=NO_CODE) from error
    except InvalidInput as error:
        field = str(error.details.get("field", "")).replace("tool_use_id", "tool_call_id")
        raise InvalidInput(error.message.replace("tool_use_id", "tool_call_id"), field=field) from error


async def _begun(context: Context, shown: ShownRun, *, stream: bool, with_thread: bool = False) -> Response:
    """The answer to what set a run going: queued, as OpenAI's are, though a model may be asked already."""
    if not stream:
        return _answer(render.run(shown.record, shown.thread_id, status="queued"))

    async def written() -> AsyncIterator[bytes]:
        if with_thread:
            async with context.runtime.db.read_only(context.project_id) as session:
                yield event("thread.created", render.thread(await get_thread(session, shown.thread_id)))
        async for piece in streams.of_run(context, shown):
            yield piece

    return event_stream(written())


def _answer(run: dict[str, Any]) -> Response:
    return Response(dumps(run), 200, _POLL_AFTER, "application/json")
