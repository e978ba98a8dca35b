"""Build the next prompt of a thread."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from memory_service.core.canonical import dumps, dumps_own
from memory_service.core.tokens import Observation
from memory_service.errors import MemoryServiceError, ThreadMoved
from memory_service.runtime import Runtime, new_id
from memory_service.services import ingest, rebuilding
from memory_service.services.estimates import Count, count, is_unsure, teach, too_large
from memory_service.services.explaining import BuiltPrompt, Counts, rebuild_facts, show
from memory_service.services.holding import follow
from memory_service.services.planning import (
    Learnt,
    Outline,
    Plan,
    PromptSpec,
    complete,
    outline,
    read_learnt,
    recall,
)
from memory_service.services.recall import Question, ask
from memory_service.store import idempotency
from memory_service.store import prompts as prompt_store
from memory_service.store.db import Session, on_commit
from memory_service.store.idempotency import Answer, IdempotentCall
from memory_service.store.messages import NewMessage
from memory_service.store.prompts import PromptRecord
from memory_service.store.threads import ThreadRecord, expect_unchanged, get_thread
from memory_service.telemetry import metrics

_PLANNED_WITHOUT_LOCK = 2
_COUNTED_AT_MOST = 3
# A corrected estimate is not exact either: what is left out may have been cheaper than what stays.
_CORRECTED_FURTHER = 1.02
# Those that add up.
_SECTIONS = ("system", "tools", "summary", "window", "recall", "volatile")


@dataclass(frozen=True, slots=True)
class Ready:
    """A prompt that only needs to be stored, and how it is then shown."""

    plan: Plan
    shown: BuiltPrompt


async def build(
    runtime: Runtime,
    project_id: int,
    thread_id: str,
    spec: PromptSpec,
    message: ingest.Draft | None,
    now: datetime,
    *,
    dry_run: bool,
    call: IdempotentCall | None,
) -> BuiltPrompt:
    """Build the next prompt of a thread, and append `message` first if one is given: both or none.

    Planned outside the thread's lock, and again when the thread moved meanwhile; the third time under the lock, so that
    a busy thread cannot starve anybody. A repeated `call` gets the first call's prompt. `dry_run` changes nothing.
    """
    new: NewMessage | None = None
    if message and ingest.is_long(message):  # without a connection
        (new,) = await ingest.prepare(runtime, [message], now, findable=not dry_run)
    question: Question | None = None
    earlier: Answer | None = None
    correction = 1.0
    active = await runtime.embedders.active()
    for _ in range(1 if dry_run else _PLANNED_WITHOUT_LOCK):
        async with runtime.db.read_only(project_id) as session:
            thread, learnt, earlier, new = await session.together(
                asyncio.gather(
                    get_thread(session, thread_id),
                    read_learnt(runtime, session, thread_id, spec),
                    _find_earlier(session, None if dry_run else call, now),
                    _prepared(runtime, session, message, new, now, findable=not dry_run),
                )
            )
            if earlier:
                break
            outlined = await outline(runtime, session, thread, spec, new, now, correction, learnt)
            planned = None
            if active.is_inline:  # not worth giving the connection back
                question = await _ask(runtime, outlined, question)
                planned = await _complete_in(runtime, session, outlined, question, now)
        if planned is None:
            question = await _ask(runtime, outlined, question)
            planned = await _complete(runtime, project_id, outlined, question, now)
        planned, counts = await _counted(runtime, project_id, planned, spec, new, question, now)
        correction = planned.correction
        if dry_run:
            return show(planned, counts, None, now)
        with suppress(ThreadMoved):
            async with runtime.db.transaction(project_id) as session:
                await expect_unchanged(session, planned.thread)
                earlier = await idempotency.claim(session, call, now) if call else None
                if earlier:
                    break
                return await _store(runtime, session, planned, counts, new, call, now)
    else:
        async with runtime.db.transaction(project_id) as session:
            thread = await get_thread(session, thread_id, lock=True)
            earlier = await idempotency.claim(session, call, now) if call else None
            if earlier is None:
                planned = await _plan_in(runtime, session, thread, spec, new, question, now, correction)
                counts = [(planned, Count(None, "thread_busy"))] if is_unsure(runtime, planned) else []
                return await _store(runtime, session, planned, counts, new, call, now)
    assert earlier
    return await _answer_again(runtime, project_id, thread_id, earlier.body)


async def plan_ahead(
    runtime: Runtime,
    session: Session,
    thread: ThreadRecord,
    learnt: Learnt | None,
    spec: PromptSpec,
    new: NewMessage | None,
    now: datetime,
) -> Ready | None:
    """The next prompt of a thread, with `new` as if it had been appended. None where somebody else than the database must
    be asked for it, or where there is none: `build` says why."""
    with suppress(MemoryServiceError):
        outlined = await outline(runtime, session, thread, spec, new, now, learnt=learnt)
        planned = await _complete_in(runtime, session, outlined, await _ask(runtime, outlined, None), now)
        if not is_unsure(runtime, planned):
            return Ready(planned, show(planned, [], new_id("prompt", now), now))
    return None


async def store_ready(session: Session, ready: Ready | None, now: datetime) -> PromptRecord | None:
    """In the caller's transaction, which holds the thread's row and has appended the message."""
    if ready is None:
        return None
    on_commit(session, lambda: _count(ready.plan))
    return await _write(session, ready.plan, [], ready.shown, None, now)


async def _prepared(
    runtime: Runtime,
    session: Session,
    message: ingest.Draft | None,
    prepared: NewMessage | None,
    now: datetime,
    *,
    findable: bool,
) -> NewMessage | None:
    """The message that is to be appended, prepared while Postgres works unless it is already. Raises InvalidMessage."""
    if message is None or prepared is not None:
        return prepared
    await session.sent()
    (new,) = await ingest.prepare(runtime, [message], now, findable=findable)
    return new


async def _find_earlier(session: Session, call: IdempotentCall | None, now: datetime) -> Answer | None:
    return await idempotency.find(session, call, now) if call else None


async def _ask(runtime: Runtime, outlined: Outline, asked: Question | None) -> Question | None:
    """The question with its vector; in no transaction, because an embedder may be far away."""
    if outlined.query is None or (asked and asked.text == outlined.query):
        return asked
    return await ask(runtime, outlined.query)


async def _complete(
    runtime: Runtime, project_id: int, outlined: Outline, question: Question | None, now: datetime
) -> Plan:
    async with runtime.db.read_only(project_id) as session:
        return await _complete_in(runtime, session, outlined, question, now)


async def _complete_in(
    runtime: Runtime, session: Session, outlined: Outline, question: Question | None, now: datetime
) -> Plan:
    if outlined.query is None or question is None:
        return complete(runtime, outlined, None, now)
    return complete(runtime, outlined, await recall(runtime, session, outlined, question), now)


async def _counted(
    runtime: Runtime,
    project_id: int,
    planned: Plan,
    spec: PromptSpec,
    new: NewMessage | None,
    question: Question | None,
    now: datetime,
) -> tuple[Plan, Counts]:
    """A plan that is in its budget as the provider counts, where it has to be asked; planned again with the estimate
    corrected while it is not. And all counts on the way, the plan's own last. Raises PromptTooLarge.
    """
    counts: Counts = []
    while is_unsure(runtime, planned):
        counted = await count(runtime, planned)
        counts.append((planned, counted))
        if counted.tokens is None or counted.tokens <= planned.request.max_prompt_tokens:
            break
        if len(counts) == _COUNTED_AT_MOST:
            raise too_large(planned.request, counted.tokens)
        correction = planned.correction * _CORRECTED_FURTHER * counted.tokens / planned.prompt.tokens.total
        async with runtime.db.read_only(project_id) as session:
            thread = await get_thread(session, planned.thread.id)
            outlined = await outline(runtime, session, thread, spec, new, now, correction)
        question = await _ask(runtime, outlined, question)
        planned = await _complete(runtime, project_id, outlined, question, now)
    return planned, counts


async def _plan_in(
    runtime: Runtime,
    session: Session,
    thread: ThreadRecord,
    spec: PromptSpec,
    new: NewMessage | None,
    asked: Question | None,
    now: datetime,
    correction: float,
) -> Plan:
    """All in one transaction, which holds the thread: a question that came up only now goes without a vector."""
    outlined = await outline(runtime, session, thread, spec, new, now, correction)
    if outlined.query is not None and (asked is None or asked.text != outlined.query):
        asked = Question(outlined.query, reason="thread_busy")
    return await _complete_in(runtime, session, outlined, asked, now)


async def _answer_again(runtime: Runtime, project_id: int, thread_id: str, prompt_id: str) -> BuiltPrompt:
    """A prompt as its first answer showed it, whatever was reported since."""
    return replace(await rebuilding.get(runtime, project_id, thread_id, prompt_id), status="built", usage=None)


async def _store(
    runtime: Runtime,
    session: Session,
    planned: Plan,
    counts: Counts,
    new: NewMessage | None,
    call: IdempotentCall | None,
    now: datetime,
) -> BuiltPrompt:
    """Message, plan and lane, in the caller's transaction, which holds the thread's row."""
    shown = show(planned, counts, new_id("prompt", now), now)
    if seen := [Observation.of(plan.prompt.counts, counted.tokens) for plan, counted in counts if counted.tokens]:
        await teach(session, runtime, planned.request.provider, planned.request.model_name, seen, now)
    on_commit(session, lambda: _count(planned))
    writing = _write(session, planned, counts, shown, call, now)
    appending = ingest.append(session, planned.thread, [new] if new else [], ["message."])
    records, _ = await session.together(asyncio.gather(appending, writing), commit=True)
    follow(runtime, session, planned.thread, records)
    return shown


async def _write(
    session: Session, planned: Plan, counts: Counts, shown: BuiltPrompt, call: IdempotentCall | None, now: datetime
) -> PromptRecord:
    thread, prompt = planned.thread, planned.prompt
    stable = prompt.layout.stable
    assert shown.id
    await prompt_store.save_lane(session, thread.pk, planned.request.lane_key, prompt.lane.stored_with(shown.id), now)
    if call:
        # The id is answer enough: the prompt is rebuilt from it, and storing requests would grow quadratically.
        await idempotency.record(session, call, Answer(201, shown.id), now)
    return await prompt_store.add_prompt(
        session,
        id=shown.id,
        thread_pk=thread.pk,
        lane_key=planned.request.lane_key,
        stable_digest=stable.digest,
        stable_text=dumps([stable.tools, stable.shared, stable.own]),
        plan=dumps_own({**shown.explanation, "rebuild": rebuild_facts(planned, counts)}),
        volatile=dumps_own(replace(prompt.volatile, recalled=())),  # the plan lists them
        shared_digest=planned.request.shared_digest(stable),
        recalled_seqs=[recalled["seq"] for recalled in prompt.volatile.recalled],
        now=now,
    )


def _count(planned: Plan) -> None:
    sections = asdict(planned.prompt.tokens)
    metrics.count_prompt(planned.request.provider, {name: sections[name] for name in _SECTIONS})
    predicted = planned.prompt.prediction
    metrics.PREDICTED.count(predicted.cache_read_tokens, predicted.cache_write_tokens, predicted.uncached_tokens)
