"""The events of a run in OpenAI's sequence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from memory_service.api.deps import Context
from memory_service.api.errors import status_of
from memory_service.api.openai import render, steps
from memory_service.api.openai.errors import error_body
from memory_service.api.openai.frame import DONE, KEEP_ALIVE, event, unix
from memory_service.api.openai.render import function_call
from memory_service.api.openai.translate import text_part
from memory_service.api.runs import events
from memory_service.core.canonical import loads
from memory_service.errors import MemoryServiceError
from memory_service.services import runs
from memory_service.services.runs import ShownRun
from memory_service.store import messages as message_store
from memory_service.store import runs as run_store
from memory_service.store.run_events import RunEvent
from memory_service.store.runs import RunRecord

Told = tuple[str, dict[str, Any]]


async def of_run(context: Context, shown: ShownRun) -> AsyncIterator[bytes]:
    """Until the run stops: from its beginning, or from the outputs of its tools on."""
    try:
        async for name, data in _beginning(context, shown):
            yield event(name, data)
        reply = _Reply(shown.thread_id, shown.record)
        async for happened in events(context, shown, shown.since):
            if happened is None:
                yield KEEP_ALIVE
                continue
            for name, data in await _told(context, shown, reply, happened):
                yield event(name, data)
    except MemoryServiceError as error:
        status = status_of(error)
        yield event("error", error_body(status, error.code, error.message, error.details))
        return
    yield DONE


async def _beginning(context: Context, shown: ShownRun) -> AsyncIterator[Told]:
    thread_id, run = shown.thread_id, shown.record
    if shown.since == 0:
        yield "thread.run.created", render.run(run, thread_id, status="queued")
    else:
        async with context.runtime.db.read_only(context.project_id) as session:
            before = await steps.of_run(session, thread_id, run)
        calls = [step for step in before if step["type"] == "tool_calls"]
        yield "thread.run.step.completed", calls[-1]
    yield "thread.run.queued", render.run(run, thread_id, status="queued")
    yield "thread.run.in_progress", render.run(run, thread_id, status="in_progress")


async def _told(context: Context, shown: ShownRun, reply: _Reply, happened: RunEvent) -> list[Told]:
    content = loads(happened.content)
    match happened.type:
        case "message.delta":
            return list(reply.delta(content))
        case "message.completed":
            return await _completed(context, shown, reply, happened, content["message_id"])
        case "run.created" | "prompt.built":
            return []
    run = happened.run or (await runs.get(context.runtime, context.project_id, shown.thread_id, shown.record.id)).record
    return [(f"thread.{happened.type}", render.run(run, shown.thread_id))]


async def _completed(
    context: Context, shown: ShownRun, reply: _Reply, happened: RunEvent, message_id: str
) -> list[Told]:
    """A reply as it was kept, and the steps of it that are over. Of one that was deleted since, nothing."""
    async with context.runtime.db.read_only(context.project_id) as session:
        thread_pk = shown.record.thread_pk
        record = happened.message or await message_store.find_message(session, thread_pk, message_id)
        run = happened.run or await run_store.get_run(session, thread_pk, shown.record.id)
        kept = await steps.of_run(session, shown.thread_id, run)
    if record is None:
        return []
    told: list[Told] = []
    message = render.message(record, shown.thread_id, run)
    ids = (steps.message_step_id(message_id), steps.calls_step_id(message_id))
    for step in (step for step in kept if step["id"] in ids):
        told += reply.opened(message_id, step["type"])
        if step["type"] == "message_creation":
            told.append((f"thread.message.{message['status']}", message))
        if step["status"] != "in_progress":
            told.append((f"thread.run.step.{step['status']}", step))
    return told


class _Reply:
    """What of a model's reply was told so far. OpenAI counts the texts of a message and its calls apart, we its blocks."""

    def __init__(self, thread_id: str, run: RunRecord) -> None:
        self._thread_id = thread_id
        self._run = run
        self._opened: set[tuple[str, str]] = set()
        self._texts: dict[int, int] = {}
        self._calls: dict[int, int] = {}

    def delta(self, content: dict[str, Any]) -> Iterator[Told]:
        message_id, index = content["message_id"], content["index"]
        match content["type"]:
            case "text":
                yield from self.opened(message_id, "message_creation")
                at = self._texts.setdefault(index, len(self._texts))
                part = {"index": at, **text_part(content["text"])}
                yield "thread.message.delta", _delta(message_id, "thread.message.delta", {"content": [part]})
            case "tool_use":
                yield from self.opened(message_id, "tool_calls")
                at = self._calls.setdefault(index, len(self._calls))
                yield self._call(message_id, {"index": at, **function_call(content["id"], content["name"], "")})
            case "tool_input" if index in self._calls:
                part = {"index": self._calls[index], "type": "function", "function": {"arguments": content["text"]}}
                yield self._call(message_id, part)

    def opened(self, message_id: str, kind: str) -> Iterator[Told]:
        """That a step begins, unless it was told before."""
        if (message_id, kind) in self._opened:
            return
        self._opened.add((message_id, kind))
        since = unix(self._run.started_at)
        if kind == "tool_calls":
            step = steps.calls_step(self._thread_id, self._run, message_id, [], "in_progress", since, None)
        else:
            step = steps.message_step(self._thread_id, self._run, message_id, "in_progress", since, None)
        yield "thread.run.step.created", step
        yield "thread.run.step.in_progress", step
        if kind == "message_creation":
            message = render.begun_message(self._thread_id, self._run, message_id)
            yield "thread.message.created", message
            yield "thread.message.in_progress", message

    @staticmethod
    def _call(message_id: str, part: dict[str, Any]) -> Told:
        details = {"step_details": {"type": "tool_calls", "tool_calls": [part]}}
        return "thread.run.step.delta", _delta(steps.calls_step_id(message_id), "thread.run.step.delta", details)


def _delta(id: str, kind: str, delta: dict[str, Any]) -> dict[str, Any]:
    return {"id": id, "object": kind, "delta": delta}
