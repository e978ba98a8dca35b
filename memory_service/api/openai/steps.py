"""Run steps: a run's replies, seen as messages and as tool calls. Nothing of them is kept: the messages say it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Response

from memory_service.api.deps import Ctx, json_response
from memory_service.api.openai.frame import PageAsked, list_of, new_router, page_of, unix
from memory_service.api.openai.render import function_call
from memory_service.api.openai.translate import openai_content
from memory_service.core.canonical import dumps, loads
from memory_service.core.messages import Block, block_text
from memory_service.core.runs import Spent
from memory_service.core.usage import ReportedUsage
from memory_service.errors import NotFound
from memory_service.services.run_spec import RunSpec
from memory_service.store import messages as message_store
from memory_service.store import prompts as prompt_store
from memory_service.store import runs as run_store
from memory_service.store.db import Session
from memory_service.store.messages import MessageRecord
from memory_service.store.runs import RunRecord
from memory_service.store.threads import get_thread

router = new_router()
_CUT_SHORT = ("cancelled", "failed", "expired")


@router.get("/threads/{thread_id}/runs/{run_id}/steps")
async def list_steps(context: Ctx, page: PageAsked, thread_id: str, run_id: str) -> Response:
    async with context.runtime.db.read_only(context.project_id) as session:
        thread = await get_thread(session, thread_id)
        steps = await of_run(session, thread_id, await run_store.get_run(session, thread.pk, run_id))
    found = page_of(steps, page, lambda step: str(step["id"]))
    return json_response(list_of(found.items, has_more=found.has_more))


@router.get("/threads/{thread_id}/runs/{run_id}/steps/{step_id}")
async def get_step(context: Ctx, thread_id: str, run_id: str, step_id: str) -> Response:
    async with context.runtime.db.read_only(context.project_id) as session:
        thread = await get_thread(session, thread_id)
        steps = await of_run(session, thread_id, await run_store.get_run(session, thread.pk, run_id))
    found = next((step for step in steps if step["id"] == step_id), None)
    if found is None:
        raise NotFound(f"There is no step {step_id[:64]!r} in this run.", field="step_id")
    return json_response(found)


def message_step_id(message_id: str) -> str:
    return f"step_{message_id.removeprefix('msg_')}"


def calls_step_id(message_id: str) -> str:
    return f"{message_step_id(message_id)}_calls"


async def of_run(session: Session, thread_id: str, run: RunRecord) -> list[dict[str, Any]]:
    """Oldest first."""
    records = await message_store.of_run(session, run.thread_pk, run.id, run.message_ids)
    results = {
        block["tool_use_id"]: (block, record)
        for record in records
        for block in loads(record.content)
        if block["type"] == "tool_result"
    }
    replies = [record for record in records if record.role == "assistant"]
    usages = await _usages(session, run, replies)
    steps = []
    for reply in replies:
        made = []
        if openai_content(reply.content, {}):
            made.append(_message_step(thread_id, run, reply))
        if calls := [block for block in loads(reply.content) if block["type"] == "tool_use"]:
            made.append(_calls_step(thread_id, run, reply, calls, results, is_last=reply is replies[-1]))
        if made and reply.seq in usages and made[0]["status"] != "in_progress":
            made[0]["usage"] = usages[reply.seq]
        if made and reply.openai:
            made[-1] |= _imported(reply.openai, made[-1])
        steps += made
    return steps


async def _usages(session: Session, run: RunRecord, replies: Sequence[MessageRecord]) -> dict[int, dict[str, int]]:
    """Of the calls that replies came from, by their seqs, as far as it is known: the run knows that of an only one, prompts
    that of several. It stands at the first step of a reply, so that steps add up."""
    if len(replies) == 1:
        spent = Spent(**loads(run.spent))
        used = spent.prompt_tokens + spent.output_tokens
        return {replies[0].seq: _usage(spent.prompt_tokens, spent.output_tokens)} if used else {}
    found = await prompt_store.reported(session, run.prompt_ids) if run.prompt_ids else {}
    reported = {seq: ReportedUsage.parse(loads(usage)) for seq, usage in found.items()}
    return {seq: _usage(usage.input_tokens, usage.output_tokens) for seq, usage in reported.items()}


def _usage(prompt_tokens: int, output_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
    }


def _imported(openai: str, step: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a step that was one at OpenAI: there a message is one."""
    known = loads(openai).get("step") or {}
    times = ("created_at", "completed_at") if step["status"] == "completed" else ("created_at",)
    return {name: known[name] for name in ("id", "usage", *times) if known.get(name) is not None}


def _message_step(thread_id: str, run: RunRecord, reply: MessageRecord) -> dict[str, Any]:
    is_cut = reply.status != "completed" and run.status in _CUT_SHORT
    at = unix(reply.created_at)
    return message_step(thread_id, run, reply.id, run.status if is_cut else "completed", at, at)


def message_step(
    thread_id: str, run: RunRecord, message_id: str, status: str, created_at: int | None, ended_at: int | None
) -> dict[str, Any]:
    details = {"type": "message_creation", "message_creation": {"message_id": message_id}}
    return _step(thread_id, run, message_step_id(message_id), details, status, created_at, ended_at)


def calls_step(
    thread_id: str,
    run: RunRecord,
    message_id: str,
    calls: Sequence[Any],
    status: str,
    created_at: int | None,
    ended_at: int | None,
) -> dict[str, Any]:
    details = {"type": "tool_calls", "tool_calls": calls}
    return _step(thread_id, run, calls_step_id(message_id), details, status, created_at, ended_at)


def _calls_step(
    thread_id: str,
    run: RunRecord,
    reply: MessageRecord,
    calls: Sequence[Block],
    results: Mapping[str, tuple[Block, MessageRecord]],
    *,
    is_last: bool,
) -> dict[str, Any]:
    found = [results.get(call["id"]) for call in calls]
    # Where nobody answered, there are results that say so.
    abandoned = run.ended and is_last and any(result is None or result[0].get("is_error") for result in found)
    shown = [
        _call(call, None if abandoned or result is None else result[0])
        for call, result in zip(calls, found, strict=True)
    ]
    answered = None if None in found else found[-1]
    status = "completed" if answered else "in_progress"
    if abandoned:
        status = run.status if run.status in _CUT_SHORT else "cancelled"
    ended_at = unix(run.ended_at) if abandoned else unix(answered[1].created_at) if answered else None
    return calls_step(thread_id, run, reply.id, shown, status, unix(reply.created_at), ended_at)


def _call(call: Block, result: Block | None) -> dict[str, Any]:
    shown = function_call(call["id"], call["name"], dumps(call["input"]))
    content = None if result is None else result.get("content", "")
    output = content if content is None or isinstance(content, str) else "\n".join(map(block_text, content))
    return {**shown, "function": {**shown["function"], "output": output}}


def _step(
    thread_id: str,
    run: RunRecord,
    id: str,
    details: Mapping[str, Any],
    status: str,
    created_at: int | None,
    ended_at: int | None,
) -> dict[str, Any]:
    return {
        "id": id,
        "object": "thread.run.step",
        "created_at": created_at,
        "run_id": run.id,
        "assistant_id": RunSpec.from_json(run.spec).prompt.assistant_id or "",
        "thread_id": thread_id,
        "type": details["type"],
        "status": status,
        **{f"{name}_at": ended_at if name == status else None for name in ("completed", *_CUT_SHORT)},
        "last_error": None,
        "step_details": details,
        "metadata": {},
        "usage": None,
    }
