"""The end of a stretch of work on a run: reply, usage, state and events, in one transaction.

Whoever ends a run holds the thread's row and finds the run still as it was, or leaves it: so no reply is kept twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from memory_service.core.canonical import dumps
from memory_service.core.lane import Lane
from memory_service.core.messages import Tail, extend_tail
from memory_service.core.pricing import find_model
from memory_service.core.runs import Spent, tool_calls, unanswered
from memory_service.core.tokens import TokenEstimate
from memory_service.core.usage import ReportedUsage, cost_of
from memory_service.errors import NotFound, ThreadMoved
from memory_service.runtime import Runtime
from memory_service.services import ingest, usage
from memory_service.services.calling import Ending, Job, text_blocks
from memory_service.services.explaining import BuiltPrompt, breakpoint_ttl
from memory_service.services.holding import follow
from memory_service.store import prompts, run_events
from memory_service.store import runs as store
from memory_service.store.db import Session
from memory_service.store.messages import MessageRecord, NewMessage
from memory_service.store.prompts import PromptRecord
from memory_service.store.run_events import RunEvent
from memory_service.store.runs import RunRecord, Stray
from memory_service.store.threads import ThreadRecord, expect_unchanged, get_thread
from memory_service.telemetry import metrics

_WORKED_ON = ("in_progress", "cancelling")
_SERVER_LOST = {
    "code": "server_lost",
    "message": "The service was ended while it worked on this run; what the model had said is kept. Start another run.",
    "details": {},
}


@dataclass(frozen=True, slots=True)
class Ended:
    """The events that were written with the end of a stretch of work, and whether another run waits for the thread now."""

    events: Sequence[RunEvent]
    is_waited_for: bool


async def end(runtime: Runtime, server: UUID, job: Job, ending: Ending, events: Sequence[RunEvent]) -> Ended | None:
    """End what `server` works on. `events` are those of the run that nobody wrote yet. None when there is nothing to end
    any more. Raises InvalidMessage for a reply that cannot be kept."""
    now = job.clock()
    content = list(ending.reply.content) if ending.reply else job.heard_blocks()
    status = "completed" if ending.reply and ending.status != "incomplete" else "incomplete"
    draft = ingest.Draft("assistant", content, "message.", {}, id=job.message_id, status=status, run_id=job.run.id)
    prepared = await ingest.prepare(runtime, [draft] if content else [], now)
    if held := _expected(runtime, job, ending):
        with suppress(ThreadMoved):  # or the run is another's, or is to be cancelled: what there is is read
            async with runtime.db.transaction(job.project_id) as session:
                await _expect(session, server, held)
                return await _write(runtime, session, job, ending, events, prepared, held, now)
    async with runtime.db.transaction(job.project_id) as session:
        try:
            held = await _hold(session, job, ending)
        except NotFound:
            return None
        run = held[1]
        is_ours = run.owner == server and run.status in _WORKED_ON
        if not is_ours or run.message_ids != job.run.message_ids:  # or it has ended, unheard, and goes on
            return None
        if run.status == "cancelling" and ending.status == "requires_action":
            ending = replace(ending, status="cancelled")
        return await _write(runtime, session, job, ending, events, prepared, held, now)


async def _write(
    runtime: Runtime,
    session: Session,
    job: Job,
    ending: Ending,
    events: Sequence[RunEvent],
    prepared: Sequence[NewMessage],
    held: _Held,
    now: datetime,
) -> Ended:
    """Write the end, and commit it."""
    thread, run, prompt, lane, estimate = held
    known = None
    if prompt and ending.reply and ending.reply.usage:
        reply = prepared[0] if prepared else None
        known = await usage.check(session, prompt, lane, estimate, ending.reply.usage, reply)
    earlier = known.reply if known else None
    added = _added(runtime, thread, job, ending, [] if earlier else prepared, now)
    message_ids = [message.id for message in ([earlier] if earlier else prepared)]
    closing = closing_events(run.pk, ending.status, message_ids, job.log.last_seq)
    appended, run, queued, _, _ = await session.together(
        asyncio.gather(
            ingest.append(session, thread, added, ["message."] * len(added)),
            _settle(runtime, session, job, run, ending, message_ids, now),
            store.count_queued(session, job.thread_id),
            _report(runtime, session, thread, job, ending, known, prepared, now),
            run_events.add_events(session, [*events, *closing]),
        ),
        commit=True,
    )
    follow(runtime, session, thread, appended)
    kept = earlier or (appended[0] if prepared else None)
    if kept or not run.message_ids:
        closing = [replace(event, run=run, message=kept) for event in closing]
    return Ended([*events, *closing], run.ended and queued > 0)


#: What the end is written on; the latter three where the provider reported what it used.
_Held = tuple[ThreadRecord, RunRecord, PromptRecord | None, Lane | None, TokenEstimate | None]


def _expected(runtime: Runtime, job: Job, ending: Ending) -> _Held | None:
    """As this process left it, when it did. None where it is to be read."""
    if job.left is None:
        return None
    thread, prompt = job.left.thread, job.left.prompt
    if not (ending.reply and ending.reply.usage):
        return thread, job.run, None, None, None
    explained = job.left.shown.explanation
    estimate = runtime.estimates.find(job.project_id, explained["provider"], explained["model"])
    return (thread, job.run, prompt, job.left.lane, estimate) if estimate else None


async def _expect(session: Session, server: UUID, expected: _Held) -> None:
    """Hold what the end is written on, if it is as expected, in the order in which `_hold` does."""
    thread, run, _, _, estimate = expected
    await expect_unchanged(session, thread)
    if estimate:
        await prompts.expect_estimate(session, run.provider, run.model, estimate)
    await store.expect_worked_on(session, run, server)


async def _hold(session: Session, job: Job, ending: Ending) -> _Held:
    """Behind the lock of the thread's row. Raises NotFound."""
    thread, run = get_thread(session, job.thread_id, lock=True), store.get_run(session, job.run.thread_pk, job.run.id)
    if not (ending.reply and ending.reply.usage and job.prompt and job.prompt.id):
        return *(await session.together(asyncio.gather(thread, run))), None, None, None
    explained = job.prompt.explanation
    return await session.together(
        asyncio.gather(
            thread,
            run,
            prompts.get_prompt(session, job.run.thread_pk, job.prompt.id),
            prompts.lane_of(session, job.prompt.id),
            prompts.get_estimate(session, explained["provider"], explained["model"], lock=True),
        )
    )


def _added(
    runtime: Runtime, thread: ThreadRecord, job: Job, ending: Ending, reply: Sequence[NewMessage], now: datetime
) -> list[NewMessage]:
    """What is to be appended: the reply, if there is one, and results for those of its calls that nobody will answer.
    Raises InvalidMessage."""
    left = ending.status == "requires_action" or (ending.status == "completed" and job.spec.leaves_calls)
    if left or not (ending.reply and tool_calls(ending.reply.content)):
        return [*reply]
    tail = thread.tail
    for message in reply:
        tail = extend_tail(tail, message.role, message.outline, "message.content")
    return [*reply, *_results(runtime, tail, job.run.id, "This call was not executed.", now)]


async def _report(
    runtime: Runtime,
    session: Session,
    thread: ThreadRecord,
    job: Job,
    ending: Ending,
    known: usage.Known | None,
    reply: Sequence[NewMessage],
    now: datetime,
) -> None:
    """Post what the provider reported, if it did."""
    if known and ending.reply and ending.reply.usage:
        await usage.write(
            runtime,
            session,
            thread,
            known,
            ending.reply.usage,
            known.reply_seq(thread, reply[0] if reply else None),
            now,
            run_id=job.run.id,
            diagnostics=ending.reply.diagnostics,
        )


async def _settle(
    runtime: Runtime,
    session: Session,
    job: Job,
    run: RunRecord,
    ending: Ending,
    message_ids: Sequence[str],
    now: datetime,
) -> RunRecord:
    waits = ending.status == "requires_action"
    calls = tool_calls(ending.reply.content) if ending.reply and waits else []
    run = await store.update(
        session,
        run,
        status=ending.status,
        owner=None,
        spent=dumps(_spent(runtime, job, ending)),
        required_action=dumps(calls) if calls else None,
        last_error=dumps(ending.error) if ending.error else None,
        incomplete_reason=ending.incomplete_reason,
        provider_reply_id=ending.reply.id if ending.reply and ending.reply.id else run.provider_reply_id,
        expires_in_seconds=job.spec.tool_timeout_seconds if waits else None,
        ended_at=None if waits else now,
        prompt_ids=[job.prompt.id] if job.prompt and job.prompt.id else [],
        message_ids=message_ids,
    )
    metrics.RUNS.labels(run.provider, run.status).inc()
    return run


def _spent(runtime: Runtime, job: Job, ending: Ending) -> Spent:
    spent = replace(job.spent, seconds=round(job.spent.seconds + job.seconds, 3))
    if not (ending.reply and ending.reply.usage and job.prompt):
        return spent
    reported = ReportedUsage.parse(ending.reply.usage)
    return spent.plus(
        reported.cache_read_tokens,
        reported.cache_write_tokens,
        reported.uncached_tokens,
        reported.output_tokens,
        *_paid(runtime, job.prompt, reported),
    )


def _paid(runtime: Runtime, prompt: BuiltPrompt, reported: ReportedUsage) -> tuple[float | None, float | None]:
    """Of one call: what it cost, its reply included, and what the prompt cache saved; None when a price is not known."""
    explained = prompt.explanation
    model = find_model(runtime.models, str(explained["provider"]), str(explained["model"]))
    cost = cost_of(model, reported, breakpoint_ttl(explained))
    paid = None if cost.usd is None or cost.output_usd is None else cost.usd + cost.output_usd
    return paid, None if cost.usd is None or cost.usd_uncached is None else cost.usd_uncached - cost.usd


async def end_stray(runtime: Runtime, stray: Stray, said: Sequence[str], now: datetime) -> None:
    """End a run that no server has any more, keeping what its model had said, or whose caller did not answer in time."""
    content = text_blocks(said)
    draft = ingest.Draft("assistant", content, "message.", {}, status="incomplete", run_id=stray.run_id)
    prepared = await ingest.prepare(runtime, [draft] if content else [], now)
    async with runtime.db.transaction(stray.project_id) as session:
        thread = await get_thread(session, stray.thread_id, lock=True)
        run = await store.get_run(session, thread.pk, stray.run_id)
        if run.status in _WORKED_ON and run.owner is None:
            kept = await ingest.append(session, thread, prepared, ["message."]) if prepared else []
            lost = run.status == "in_progress"
            await _end_by(session, run, "failed" if lost else "cancelled", now, kept, _SERVER_LOST if lost else None)
        elif run.status == "requires_action" and await store.has_expired(session, run):
            await answer_open_calls(runtime, session, stray.thread_id, run.id, "No output came in time.", now)
            await _end_by(session, run, "expired", now)


async def end_idle(
    runtime: Runtime, session: Session, thread_id: str, run: RunRecord, status: str, now: datetime, error: object = None
) -> RunRecord:
    """End a run that no model works on. The caller holds the thread's row."""
    if run.status == "requires_action":
        await answer_open_calls(runtime, session, thread_id, run.id, f"The run is {status}.", now)
    return await _end_by(session, run, status, now, error=error)


async def _end_by(
    session: Session,
    run: RunRecord,
    status: str,
    now: datetime,
    kept: Sequence[MessageRecord] = (),
    error: object = None,
) -> RunRecord:
    last_seq = await run_events.last_event_seq(session, run.pk)
    ended = await store.update(
        session,
        run,
        status=status,
        owner=None,
        last_error=dumps(error) if error else None,
        required_action=None,
        waiting_message=None,
        ended_at=now,
        message_ids=[record.id for record in kept],
    )
    told = [record.id for record in kept]
    await run_events.add_events(session, closing_events(run.pk, status, told, last_seq))
    metrics.RUNS.labels(run.provider, status).inc()
    return ended


async def answer_open_calls(
    runtime: Runtime, session: Session, thread_id: str, run_id: str, why: str, now: datetime
) -> None:
    """Put results for the calls that nobody will answer into the thread, which could not go on without them."""
    thread = await get_thread(session, thread_id)
    results = _results(runtime, thread.tail, run_id, why, now)
    await ingest.append(session, thread, results, ["message."] * len(results))


def _results(runtime: Runtime, tail: Tail, run_id: str, why: str, now: datetime) -> list[NewMessage]:
    """A message with results for the calls that are open, if there are any."""
    if not tail.open_tool_use_ids:
        return []
    draft = ingest.Draft("user", unanswered(tail.open_tool_use_ids, why), "message.", {}, run_id=run_id)
    return [ingest.prepare_one(runtime.counter, draft, now)]


def closing_events(run_pk: int, status: str, message_ids: Sequence[str], last_seq: int) -> list[RunEvent]:
    """What a stream of a run ends with. Whoever reads it from the database reads run and message again."""
    told = [("message.completed", {"message_id": id_}) for id_ in message_ids[:1]]
    told.append((f"run.{status}", {}))
    return [RunEvent(run_pk, last_seq + i, type_, dumps(content)) for i, (type_, content) in enumerate(told, 1)]
