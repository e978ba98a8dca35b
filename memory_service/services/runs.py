"""What callers ask of runs: start one, answer its tools, stop it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from memory_service.core.canonical import dumps, loads
from memory_service.core.request import Request
from memory_service.core.runs import Spent, exhausted
from memory_service.errors import Conflict, InvalidInput, NoUserMessage, ThreadMoved
from memory_service.runtime import Runtime, new_id
from memory_service.services import ingest, planning, prompts, threads
from memory_service.services.calling import Left, left_by, prompt_built, prompt_spec
from memory_service.services.ending import end_idle
from memory_service.services.execution import Runner
from memory_service.services.holding import follow
from memory_service.services.ingest import Draft
from memory_service.services.prompts import Ready
from memory_service.services.run_spec import RunSpec
from memory_service.store import idempotency, run_events
from memory_service.store import messages as message_store
from memory_service.store import runs as store
from memory_service.store.db import Session, on_commit
from memory_service.store.idempotency import Answer, IdempotentCall
from memory_service.store.messages import MessageRecord, NewMessage
from memory_service.store.run_events import RunEvent
from memory_service.store.runs import RunRecord
from memory_service.store.threads import ThreadRecord, expect_unchanged, get_thread

MAX_QUEUED = 100


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A run, the newest reply it wrote, and the event behind which a stream of what was just asked begins; `begun` are the
    first of that stream, as far as they are known."""

    thread_id: str
    record: RunRecord
    reply: MessageRecord | None
    since: int = 0
    begun: tuple[RunEvent, ...] = ()


async def create(
    runtime: Runtime,
    runner: Runner,
    project_id: int,
    thread_id: str,
    spec: RunSpec,
    message: Draft | None,
    metadata: Mapping[str, str],
    on_busy: Literal["refuse", "queue"],
    now: datetime,
    call: IdempotentCall | None,
) -> ShownRun:
    """Append `message` if one is given and start a run, or queue it behind the one that is active: all or nothing.

    Raises NotFound, InvalidInput, InvalidMessage, NoUserMessage, and Conflict while the thread is busy.
    """
    prepared = await ingest.prepare(runtime, [message] if message else [], now)
    await runner.ready()
    id = new_id("run", now)
    fields = ["message."] * len(prepared)
    ready = await _plan_ahead(runtime, project_id, thread_id, spec, prepared, now)
    while True:
        with suppress(ThreadMoved):
            async with runtime.db.transaction(project_id) as session:
                thread, queued = await _hold(session, thread_id, ready)
                if call and (earlier := await idempotency.claim(session, call, now)):
                    return await _shown(session, thread, earlier.body)
                if call:
                    await idempotency.record(session, call, Answer(201, id), now)
                if not _must_wait(thread, queued, on_busy):
                    return await begin(
                        runtime, runner, session, thread, id, spec, prepared, fields, metadata, now, ready
                    )
                return await _queue(runtime, session, thread, id, spec, message, metadata, now)
        ready = None


async def _hold(session: Session, thread_id: str, ready: Ready | None) -> tuple[ThreadRecord, int]:
    """A thread, whose row is held from now on, and how many runs wait for it. What is `ready` was planned for one that is
    free: if it is not any more as it was then, the transaction raises ThreadMoved."""
    if ready is None:
        return await session.together(
            asyncio.gather(get_thread(session, thread_id, lock=True), store.count_queued(session, thread_id))
        )
    await expect_unchanged(session, ready.plan.thread)
    return ready.plan.thread, 0


async def _queue(
    runtime: Runtime,
    session: Session,
    thread: ThreadRecord,
    id: str,
    spec: RunSpec,
    message: Draft | None,
    metadata: Mapping[str, str],
    now: datetime,
) -> ShownRun:
    request = await _settled(runtime, session, thread, spec)
    adding = _add(session, thread, id, spec, request, metadata, now, waiting=_waiting(message), status="queued")
    (run,) = await session.together(asyncio.gather(adding), commit=True)
    return ShownRun(thread.id, run, None)


async def _plan_ahead(
    runtime: Runtime, project_id: int, thread_id: str, spec: RunSpec, messages: Sequence[NewMessage], now: datetime
) -> Ready | None:
    """What a run on a thread that nobody uses will send, planned before any lock. None where it is to be planned when the
    run has begun, or the run is to be refused or queued."""
    if not (await runtime.embedders.active()).is_inline or exhausted(spec.budget, Spent(), 0):
        return None
    asked = prompt_spec(spec, Spent())
    async with runtime.db.read_only(project_id) as session:
        thread, queued, learnt = await session.together(
            asyncio.gather(
                get_thread(session, thread_id),
                store.count_queued(session, thread_id),
                planning.read_learnt(runtime, session, thread_id, asked),
            )
        )
        if thread.active_run_id or queued:
            return None
        new = messages[0] if messages else None
        return await prompts.plan_ahead(runtime, session, thread, learnt, asked, new, now)


@dataclass(frozen=True, slots=True)
class NewThread:
    """A thread that is made for its first run. `fields` are columns."""

    fields: Mapping[str, Any]
    metadata: Mapping[str, str]


async def start(
    runtime: Runtime,
    runner: Runner,
    project_id: int,
    where: str | NewThread,
    spec: RunSpec,
    messages: Sequence[Draft],
    metadata: Mapping[str, str],
    now: datetime,
    call: IdempotentCall | None,
) -> ShownRun:
    """Append messages and start a run, on a thread (its id) or on one that is made with it: all or nothing.

    Raises as `create`; but where nothing is asked, the run fails.
    """
    prepared = await ingest.prepare(runtime, messages, now)
    await runner.ready()
    fields = [message.field for message in messages]
    ready = None
    if isinstance(where, str) and len(prepared) <= 1:
        ready = await _plan_ahead(runtime, project_id, where, spec, prepared, now)
    while True:
        with suppress(ThreadMoved):
            async with runtime.db.transaction(project_id) as session:
                thread, _ = await _hold(session, where, ready) if isinstance(where, str) else (None, 0)
                if call and (earlier := await idempotency.claim(session, call, now)):
                    told = loads(earlier.body)
                    return await _shown(session, await get_thread(session, told["id"]), told["run_id"])
                if thread is None:
                    thread = await _make(session, where, now)
                id = new_id("run", now)
                if call:
                    answer = Answer(200, dumps({"id": thread.id, "run_id": id}))
                    await idempotency.record(session, call, answer, now)
                return await begin(
                    runtime, runner, session, thread, id, spec, prepared, fields, metadata, now, ready, must_ask=False
                )
        ready = None


async def _make(session: Session, where: str | NewThread, now: datetime) -> ThreadRecord:
    assert isinstance(where, NewThread)
    return await threads.create(session, fields=where.fields, metadata=where.metadata, messages=(), now=now)


async def begin(
    runtime: Runtime,
    runner: Runner,
    session: Session,
    thread: ThreadRecord,
    id: str,
    spec: RunSpec,
    messages: Sequence[NewMessage],
    fields: Sequence[str],
    metadata: Mapping[str, str],
    now: datetime,
    ready: Ready | None = None,
    *,
    must_ask: bool = True,
) -> ShownRun:
    """Append `messages`, if any, and start a run on a thread whose row this transaction holds, which ends with it.

    `fields` as in `ingest.append`. Without `must_ask` a thread that does not end with a user's message is not refused, but
    its run fails. A prompt that is `ready` for it is stored with it. Raises as `create`.
    """
    ingest.check_free(thread)
    if must_ask and not messages:
        _check_asked(thread)
    request = ready.plan.request if ready else await _settled(runtime, session, thread, spec)
    told = [prompt_built(ready.shown)] if ready else []
    records, run, _, prompt = await session.together(
        asyncio.gather(
            ingest.append(session, thread, messages, fields),
            _add(session, thread, id, spec, request, metadata, now, owner=runner.server),
            run_events.add_first_events(session, id, told),
            prompts.store_ready(session, ready, now),
        ),
        commit=True,
    )
    follow(runtime, session, thread, records)
    events = run_events.first_events(run, told)
    project_id, left = session.info["project_id"], None
    if ready and prompt:
        lane = ready.plan.prompt.lane.stored_with(prompt.id)
        left = Left(left_by(run, prompt, thread, messages), prompt, lane, ready.shown)
    on_commit(session, lambda: runner.start(project_id, thread.id, run, now, events[-1].seq, left))
    return ShownRun(thread.id, run, None, begun=events)


async def _add(
    session: Session,
    thread: ThreadRecord,
    id: str,
    spec: RunSpec,
    request: Request,
    metadata: Mapping[str, str],
    now: datetime,
    *,
    status: str = "in_progress",
    owner: UUID | None = None,
    waiting: str | None = None,
) -> RunRecord:
    return await store.add_run(
        session,
        thread.pk,
        id=id,
        status=status,
        provider=request.provider,
        model=request.model_name,
        spec=spec.to_json(),
        waiting_message=waiting,
        owner=owner,
        metadata=metadata,
        now=now,
    )


async def _settled(runtime: Runtime, session: Session, thread: ThreadRecord, spec: RunSpec) -> Request:
    assistant = await planning.assistant_of(session, thread, spec.prompt)
    return planning.settle(runtime, planning.with_defaults(spec.prompt, thread, assistant))


def _must_wait(thread: ThreadRecord, queued: int, on_busy: str) -> bool:
    if thread.active_run_id is None and not queued:
        return False
    if on_busy != "queue":
        ingest.check_free(thread)
        raise Conflict("Runs wait for this thread; queue this one behind them.", code="thread_busy")
    if queued >= MAX_QUEUED:
        raise Conflict(f"{MAX_QUEUED} runs wait for this thread already; send it later.", code="queue_full")
    return True


def _check_asked(thread: ThreadRecord) -> None:
    if thread.last_role != "user":
        raise NoUserMessage("A run needs something to answer: send `message`, or append a user message first.")


def _waiting(message: Draft | None) -> str | None:
    return None if message is None else dumps({"content": message.content, "metadata": message.metadata})


async def get(runtime: Runtime, project_id: int, thread_id: str, run_id: str, *, with_reply: bool = True) -> ShownRun:
    """Raises NotFound."""
    async with runtime.db.read_only(project_id) as session:
        thread = await get_thread(session, thread_id)
        if with_reply:
            return await _shown(session, thread, run_id)
        return ShownRun(thread.id, await store.get_run(session, thread.pk, run_id), None)


async def _shown(session: Session, thread: ThreadRecord, run_id: str, since: int = 0) -> ShownRun:
    run = await store.get_run(session, thread.pk, run_id)
    reply = await message_store.find_message(session, thread.pk, run.message_ids[-1]) if run.message_ids else None
    return ShownRun(thread.id, run, reply, since)


async def answer_tools(
    runtime: Runtime,
    runner: Runner,
    project_id: int,
    thread_id: str,
    run_id: str,
    outputs: Sequence[Mapping[str, Any]],
    now: datetime,
    call: IdempotentCall | None,
) -> ShownRun:
    """Give a run the results it waits for, all of them, and let it go on. Raises NotFound, InvalidInput, Conflict."""
    blocks = [{"type": "tool_result", **output} for output in outputs]
    drafts = [Draft("user", blocks, "tool_outputs.", {}, run_id=run_id)]
    prepared = await ingest.prepare(runtime, drafts, now)
    await runner.ready()
    async with runtime.db.transaction(project_id) as session:
        thread = await get_thread(session, thread_id, lock=True)
        run = await store.get_run(session, thread.pk, run_id)
        if call and (earlier := await idempotency.claim(session, call, now)):
            return await _shown(session, thread, run_id, int(earlier.body))
        if run.status != "requires_action":
            raise Conflict(
                f"This run is {run.status}; it waits for no tool outputs.", code="run_not_waiting", status=run.status
            )
        _check_answers(thread.open_tool_use_ids, [str(output["tool_use_id"]) for output in outputs])
        await ingest.append(session, thread, prepared, ["tool_outputs."])
        run = await store.update(session, run, status="in_progress", owner=runner.server, required_action=None)
        since = await run_events.last_event_seq(session, run.pk)
        if call:
            await idempotency.record(session, call, Answer(200, str(since)), now)
    runner.start(project_id, thread_id, run, now, since)
    return ShownRun(thread_id, run, None, since)


def _check_answers(open_ids: Sequence[str], answered: Sequence[str]) -> None:
    for index, id_ in enumerate(answered):
        if id_ not in open_ids or id_ in answered[:index]:
            why = "answered twice" if id_ in open_ids else "no call that waits"
            raise InvalidInput(
                f"`tool_outputs[{index}].tool_use_id`: {id_[:64]!r} is {why}; `required_action` of the run lists them.",
                field=f"tool_outputs[{index}].tool_use_id",
            )
    if missing := [id_ for id_ in open_ids if id_ not in answered]:
        raise InvalidInput(
            f"`tool_outputs` lacks the output of {missing[0]!r}; send those of all calls together.",
            field="tool_outputs",
            missing=missing,
        )


async def cancel(
    runtime: Runtime,
    runner: Runner,
    project_id: int,
    thread_id: str,
    run_id: str,
    now: datetime,
) -> ShownRun:
    """Stop a run: at once where no model works on it, else as soon as its server has noticed. Repeating it changes nothing.

    Raises NotFound, and Conflict for a run that ended otherwise.
    """
    async with runtime.db.transaction(project_id) as session:
        thread = await get_thread(session, thread_id, lock=True)
        run = await store.get_run(session, thread.pk, run_id)
        if run.ended and run.status != "cancelled":
            raise Conflict(f"This run is {run.status} already.", code="run_ended", status=run.status)
        if run.status == "in_progress":
            run = await store.update(session, run, status="cancelling")
        elif run.status in ("queued", "requires_action"):
            run = await end_idle(runtime, session, thread_id, run, "cancelled", now)
        shown = await _shown(session, thread, run_id)
    runner.cancel(run.pk)
    runner.journal.wake()
    if run.status == "cancelled":
        await runner.start_next(project_id, thread_id)
    return shown


def required_action(run: RunRecord) -> dict[str, Any] | None:
    return {"type": "tool_outputs", "tool_calls": loads(run.required_action)} if run.required_action else None
