"""Prompts: build the next one, rebuild an old one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from memory_service.core.canonical import dumps, loads
from memory_service.core.closing import without_thinking
from memory_service.core.forms import request_digest, to_request
from memory_service.core.lane import Kept
from memory_service.core.layout import Layout, StablePart, render_pieces
from memory_service.core.messages import group_turns, mend
from memory_service.core.pricing import find_model
from memory_service.core.request import Request
from memory_service.core.shorten import shorten
from memory_service.core.tokens import Observation, TokenCounts
from memory_service.core.truncation import TruncationStrategy
from memory_service.core.volatile import Volatile
from memory_service.runtime import Runtime, new_id
from memory_service.services import ingest
from memory_service.services.estimates import Count, count, is_unsure, teach, too_large
from memory_service.services.planning import Outline, Plan, PromptSpec, complete, outline, recall, to_message
from memory_service.services.recall import Question, ask
from memory_service.store import idempotency
from memory_service.store import messages as message_store
from memory_service.store import prompts as prompt_store
from memory_service.store.db import Session, on_commit
from memory_service.store.idempotency import Answer, IdempotentCall
from memory_service.store.messages import NewMessage
from memory_service.store.prompts import PromptRecord
from memory_service.store.threads import ThreadRecord, get_thread
from memory_service.telemetry import metrics

_PLANNED_WITHOUT_LOCK = 2
_COUNTED_AT_MOST = 3
# A corrected estimate is not exact either: what is left out may have been cheaper than what stays.
_CORRECTED_FURTHER = 1.02
# What the provider counted, for each plan that it was asked about; the last is the one that is answered.
Counts = list[tuple[Plan, Count]]
# Those that add up.
_SECTIONS = ("system", "tools", "summary", "window", "recall", "volatile")


@dataclass(frozen=True, slots=True)
class BuiltPrompt:
    """A prompt as it is shown. `request` is None when a message it held was deleted since; `request_missing` says so."""

    id: str | None
    thread_id: str
    status: str
    created_at: datetime
    explanation: Mapping[str, Any]
    request: Mapping[str, Any] | None
    request_missing: str | None = None
    usage: str | None = None
    reply_seq: int | None = None


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
    prepared = await ingest.prepare(runtime, [message] if message else [], now)
    new = prepared[0] if prepared else None
    question: Question | None = None
    correction = 1.0
    for _ in range(1 if dry_run else _PLANNED_WITHOUT_LOCK):
        async with runtime.db.read_only(project_id) as session:
            thread = await get_thread(session, thread_id)
            earlier = await idempotency.find(session, call, now) if call and not dry_run else None
            outlined = None if earlier else await outline(runtime, session, thread, spec, new, now, correction)
        if outlined is None:
            assert earlier
            return await _answer_again(runtime, project_id, thread_id, earlier.body)
        question = await _ask(runtime, outlined, question)
        planned = await _complete(runtime, project_id, outlined, question, now)
        planned, counts = await _counted(runtime, project_id, planned, spec, new, question, now)
        correction = planned.correction
        if dry_run:
            return _show(planned, counts, None, now)
        async with runtime.db.transaction(project_id) as session:
            thread = await get_thread(session, thread_id, lock=True)
            if call and (earlier := await idempotency.claim(session, call, now)):
                break
            if thread.version == planned.thread.version:
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


async def _ask(runtime: Runtime, outlined: Outline, asked: Question | None) -> Question | None:
    """The question with its vector; in no transaction, because an embedder may be far away."""
    if outlined.query is None or (asked and asked.text == outlined.query):
        return asked
    return await ask(runtime, outlined.query)


async def _complete(
    runtime: Runtime, project_id: int, outlined: Outline, question: Question | None, now: datetime
) -> Plan:
    if outlined.query is None or question is None:
        return complete(runtime, outlined, None, now)
    async with runtime.db.read_only(project_id) as session:
        recalled = await recall(runtime, session, outlined, question)
    return complete(runtime, outlined, recalled, now)


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
    if outlined.query is None:
        return complete(runtime, outlined, None, now)
    known = asked is not None and asked.text == outlined.query
    question = asked if asked is not None and known else Question(outlined.query, reason="thread_busy")
    return complete(runtime, outlined, await recall(runtime, session, outlined, question), now)


async def _answer_again(runtime: Runtime, project_id: int, thread_id: str, prompt_id: str) -> BuiltPrompt:
    """A prompt as its first answer showed it, whatever was reported since."""
    return replace(await get(runtime, project_id, thread_id, prompt_id), status="built", usage=None)


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
    thread, prompt = planned.thread, planned.prompt
    if new is not None:
        await ingest.append(session, thread, [new], ["message."])
    shown = _show(planned, counts, new_id("prompt", now), now)
    stable = prompt.layout.stable
    assert shown.id
    await prompt_store.add_prompt(
        session,
        id=shown.id,
        thread_pk=thread.pk,
        lane_key=planned.request.lane_key,
        stable_digest=stable.digest,
        stable_text=dumps([stable.tools, stable.shared, stable.own]),
        plan=dumps({**shown.explanation, "rebuild": _rebuild_facts(planned, counts)}),
        volatile=dumps(prompt.volatile),
        shared_digest=planned.request.shared_digest(stable),
        recalled_seqs=[recalled["seq"] for recalled in prompt.volatile.recalled],
        now=now,
    )
    lane = prompt.lane.stored_with(shown.id)
    await prompt_store.save_lane(session, thread.pk, planned.request.lane_key, lane, now)
    if seen := [Observation(plan.prompt.counts, counted.tokens) for plan, counted in counts if counted.tokens]:
        await teach(session, runtime, planned.request.provider, planned.request.model_name, seen, now)
    if call:
        # The id is answer enough: the prompt is rebuilt from it, and storing requests would grow quadratically.
        await idempotency.record(session, call, Answer(201, shown.id), now)
    on_commit(session, lambda: _count(planned))
    return shown


def _count(planned: Plan) -> None:
    sections = asdict(planned.prompt.tokens)
    metrics.count_prompt(planned.request.provider, {name: sections[name] for name in _SECTIONS})
    predicted = planned.prompt.prediction
    metrics.PREDICTED.count(predicted.cache_read_tokens, predicted.cache_write_tokens, predicted.uncached_tokens)


def _rebuild_facts(planned: Plan, counts: Counts) -> dict[str, Any]:
    request, prompt = planned.request, planned.prompt
    return {
        "provider": request.provider,
        "model": request.model_name,
        "max_output_tokens": request.max_output_tokens,
        "max_prompt_tokens": request.max_prompt_tokens,
        "strategy": asdict(request.strategy),
        "ttl": request.ttl,
        "first_seq": planned.window.first_seq,
        "last_seq": planned.window.last_seq,
        "marks": prompt.layout.marks,
        "mark_shared": prompt.layout.mark_shared,
        "counts": asdict(prompt.counts),
        "counted_tokens": counts[-1][1].tokens if counts else None,
        "tail": asdict(prompt.tail) if prompt.tail else None,
        "cuts": planned.window.cuts,
        "kept": [(k.first_seq, k.last_seq, k.source, k.thinking_from) for k in planned.window.kept],
        "thinking_from": planned.window.thinking_from,
    }


def _show(planned: Plan, counts: Counts, id: str | None, now: datetime) -> BuiltPrompt:
    request = to_request(planned.request, planned.prompt.layout, planned.thread.id)
    return BuiltPrompt(
        id=id,
        thread_id=planned.thread.id,
        status="built",
        created_at=now,
        explanation=_explain(planned, counts, request_digest(request)),
        request=request,
    )


def _explain(planned: Plan, counts: Counts, digest: str) -> dict[str, Any]:
    prompt, window, request = planned.prompt, planned.window, planned.request
    prediction, model, ttl = prompt.prediction, request.model, request.ttl or "5m"
    first_seq = window.first_seq
    return {
        "provider": request.provider,
        "model": request.model_name,
        "tokens": asdict(prompt.tokens),
        "counted": asdict(counts[-1][1]) if counts else None,
        "prediction": {
            **asdict(prediction),
            "cache_read_from": prompt.read_from,
            "miss": prompt.miss,
            "cost_usd": model.cost_usd(
                prediction.cache_read_tokens, prediction.cache_write_tokens, prediction.uncached_tokens, ttl
            ),
            "cost_usd_uncached": model.cost_usd(0, 0, prompt.tokens.total),
        },
        "cache": {"ttl": request.breakpoint_ttl, "why": request.ttl_why},
        "breakpoints": _explain_breakpoints(planned),
        "window": {
            "first_seq": first_seq,
            "last_seq": window.last_seq,
            "trimmed": window.trimmed,
            "reason": window.trim_reason,
        },
        "recall": planned.recall.ranking.explanation if planned.recall else None,
        "recalled": list(prompt.volatile.recalled),
        "kept": [
            {
                "first_seq": kept.first_seq,
                "last_seq": kept.last_seq,
                "tokens": kept.volatile.tokens,
                "recalled_seqs": [recalled["seq"] for recalled in kept.volatile.recalled],
            }
            for kept in window.kept
        ],
        "omitted": [{"first_seq": 1, "last_seq": first_seq - 1, "reason": "before_window"}] if first_seq > 1 else [],
        "breaks": [{k: v for k, v in asdict(b).items() if v != ()} for b in prompt.breaks],
        "hints": list(prompt.hints),
        "repairs": [asdict(r) for r in prompt.repairs],
        "shortened": [asdict(s) for s in window.shortened],
        "prefix_digest": prompt.prefix_digest,
        "request_digest": digest,
    }


def _explain_breakpoints(planned: Plan) -> list[dict[str, Any]]:
    prompt = planned.prompt
    layout = prompt.layout
    ttl = planned.request.breakpoint_ttl
    if ttl is None:
        return []
    places: list[dict[str, Any]] = [{"position": "assistant", "seq": None}] if layout.mark_shared else []
    for mark in layout.marks:
        places.append(
            {"position": "message", "seq": layout.pieces[mark].seq}
            if mark >= 0
            else {"position": "system", "seq": None}
        )
    return [
        {**place, "ttl": ttl, "tokens_before": prompt.positions[at].tokens}
        for place, at in zip(places, prompt.breakpoints, strict=False)
    ]


async def get(runtime: Runtime, project_id: int, thread_id: str, prompt_id: str) -> BuiltPrompt:
    """A prompt with its request, rebuilt and proved by its digest. Raises NotFound."""
    async with runtime.db.read_only(project_id) as session:
        thread = await get_thread(session, thread_id)
        record = await prompt_store.get_prompt(session, thread.pk, prompt_id)
        return await _rebuild(runtime, session, thread.id, record)


async def _rebuild(runtime: Runtime, session: Session, thread_id: str, record: PromptRecord) -> BuiltPrompt:
    shown = show_stored(thread_id, record)
    if record.volatile is None:
        return replace(shown, request_missing="A message that this prompt recalled was deleted.")
    facts = json.loads(record.plan)["rebuild"]
    records = await message_store.range_of(
        session, record.thread_pk, first_seq=facts["first_seq"], last_seq=facts["last_seq"]
    )
    revisions = await message_store.revisions_at(session, record.thread_pk, record.thread_version)
    messages = [to_message(r, revisions.get(r.seq)) for r in records]
    if not messages:
        return replace(shown, request_missing="The messages of this prompt were deleted.")
    tools, shared, own = loads(await prompt_store.get_stable_text(session, record.thread_pk, record.stable_digest))
    volatile = Volatile.from_json(json.loads(record.volatile))
    kept = await _kept(session, record, facts.get("kept", ()))
    if kept is None:
        return replace(shown, request_missing="An earlier prompt, of which this one shows recalled text, was deleted.")
    turns, _ = mend(group_turns(shorten(messages, facts.get("cuts", {}), runtime.counter.count)))
    layout = Layout(
        StablePart(tuple(tools), tuple(shared), tuple(own)),
        render_pieces((*turns[:-1], without_thinking(turns[-1], facts.get("thinking_from", 0))), volatile, kept),
        tuple(facts["marks"]),
        facts["mark_shared"],
    )
    request = to_request(_request_of(runtime, facts), layout, thread_id)
    if request_digest(request) != shown.explanation["request_digest"]:
        return replace(shown, request_missing="A message of this prompt was deleted since it was built.")
    return replace(shown, request=request)


async def _kept(session: Session, record: PromptRecord, facts: Sequence[Any]) -> list[Kept] | None:
    """What the prompt kept of closed turns; its texts stand with the prompts that were built with them first."""
    sources = await prompt_store.volatile_of(session, record.thread_pk, [source for _, _, source, _ in facts])
    if any(source not in sources for _, _, source, _ in facts):
        return None
    return [
        Kept(first_seq, last_seq, Volatile.from_json(json.loads(sources[source])), TokenCounts(), source, thinking_from)
        for first_seq, last_seq, source, thinking_from in facts
    ]


def _request_of(runtime: Runtime, facts: Mapping[str, Any]) -> Request:
    return Request(
        provider=facts["provider"],
        model=find_model(runtime.models, facts["provider"], facts["model"]),
        model_name=facts["model"],
        max_prompt_tokens=facts["max_prompt_tokens"],
        max_output_tokens=facts["max_output_tokens"],
        strategy=TruncationStrategy(**facts["strategy"]),
        ttl=facts["ttl"],
    )


def show_stored(thread_id: str, record: PromptRecord) -> BuiltPrompt:
    """A stored prompt without its request."""
    explanation = json.loads(record.plan)
    del explanation["rebuild"]
    return BuiltPrompt(
        id=record.id,
        thread_id=thread_id,
        status=record.status,
        created_at=record.built_at,
        explanation={**explanation, "hints": explanation.get("hints", []), "counted": explanation.get("counted")},
        request=None,
        usage=record.usage,
        reply_seq=record.reply_seq,
    )
