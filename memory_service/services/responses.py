"""Responses: runs on threads that are found by what came before, or made for them.

A response without a past has a thread of its own. One that goes on from another is appended to that one's thread, if
nothing came after it there and the thread is not somebody's conversation; otherwise the thread is forked behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from memory_service.core.canonical import dumps, loads
from memory_service.errors import Conflict, NotFound, NoUserMessage
from memory_service.runtime import Runtime, new_id
from memory_service.services import ingest, prompts, runs, threads
from memory_service.services.execution import Runner
from memory_service.services.ingest import Draft
from memory_service.services.run_spec import RunSpec
from memory_service.services.runs import ShownRun
from memory_service.store import idempotency
from memory_service.store import messages as message_store
from memory_service.store import runs as store
from memory_service.store import threads as thread_store
from memory_service.store.db import Session
from memory_service.store.idempotency import Answer, IdempotentCall
from memory_service.store.messages import MessageRecord
from memory_service.store.retention import UNKEPT
from memory_service.store.runs import RunRecord
from memory_service.store.threads import ThreadRecord, get_thread


@dataclass(frozen=True, slots=True)
class Asked:
    """At most one of `conversation_id` and `previous_id`. `keep`: whether anything of it is to stay."""

    spec: RunSpec
    drafts: Sequence[Draft]
    metadata: dict[str, str]
    conversation_id: str | None = None
    previous_id: str | None = None
    keep: bool = True


@dataclass(frozen=True, slots=True)
class _Place:
    """The thread of a response. `owned`: it is nobody's conversation."""

    thread: ThreadRecord
    owned: bool


async def create(
    runtime: Runtime, runner: Runner, project_id: int, asked: Asked, now: datetime, call: IdempotentCall | None
) -> ShownRun:
    """Append what is asked where it belongs, and start the run: all or nothing. A repeated `call` gets the first one's.

    Raises NotFound, InvalidInput, InvalidMessage, NoUserMessage, and Conflict while the thread is busy.
    """
    prepared = await ingest.prepare(runtime, asked.drafts, now)
    await runner.ready()
    async with runtime.db.transaction(project_id) as session:
        if call and (earlier := await idempotency.claim(session, call, now)):
            return ShownRun(*await store.find_run(session, loads(earlier.body)["id"]), None)
        place = await _place(session, asked, now)
        first = place.thread.last_seq + 1
        own = {**(asked.spec.openai or {}), "owned": place.owned, "input": [first, first + len(prepared) - 1]}
        id = new_id("resp", now)
        if call:
            await idempotency.record(session, call, Answer(200, dumps({"id": id})), now)
        return await runs.begin(
            runtime,
            runner,
            session,
            place.thread,
            id,
            replace(asked.spec, openai=own, leaves_calls=True),
            prepared,
            [draft.field for draft in asked.drafts],
            asked.metadata,
            now,
        )


async def _place(session: Session, asked: Asked, now: datetime) -> _Place:
    if asked.conversation_id is not None and asked.keep:
        return _Place(await get_thread(session, asked.conversation_id, lock=True), owned=False)
    if asked.conversation_id is not None:
        thread = await get_thread(session, asked.conversation_id, lock=True)
        return await _branch(session, thread, thread.last_seq, now, keep=False)
    if asked.previous_id is not None:
        return await _behind(session, asked, now)
    fields = {} if asked.keep else {"openai": UNKEPT}
    return _Place(await threads.create(session, fields=fields, metadata={}, messages=(), now=now), owned=True)


async def _behind(session: Session, asked: Asked, now: datetime) -> _Place:
    thread_id, run = await find(session, str(asked.previous_id))
    thread = await get_thread(session, thread_id, lock=True)
    run = await store.get_run(session, thread.pk, run.id)
    if not run.ended and thread.active_run_id == run.id and run.status != "requires_action":
        ingest.check_free(thread)
    last_seq = await _last_seq(session, thread, run)
    if own_of(run).get("owned") and asked.keep and last_seq == thread.last_seq:
        return _Place(thread, owned=True)
    return await _branch(session, thread, last_seq, now, keep=asked.keep)


async def _branch(session: Session, thread: ThreadRecord, seq: int, now: datetime, *, keep: bool) -> _Place:
    fields = {} if keep else {"openai": UNKEPT}
    return _Place(await threads.fork(session, thread.id, seq, fields, None, now), owned=True)


async def _last_seq(session: Session, thread: ThreadRecord, run: RunRecord) -> int:
    """Of the messages that a response answered or wrote."""
    written = await written_by(session, run)
    asked = own_of(run).get("input", [1, thread.last_seq])
    return max([message.seq for message in written], default=int(asked[1]))


async def written_by(session: Session, run: RunRecord) -> list[MessageRecord]:
    """The messages of a run that were not deleted since."""
    found = [await message_store.find_message(session, run.thread_pk, id_) for id_ in run.message_ids]
    return [message for message in found if message is not None]


def own_of(run: RunRecord) -> dict[str, Any]:
    return dict(RunSpec.from_json(run.spec).openai or {})


async def find(session: Session, id: str) -> tuple[str, RunRecord]:
    """A response and the id of its thread. Raises NotFound."""
    try:
        thread_id, run = await store.find_run(session, id)
    except NotFound:
        thread_id, run = "", None
    if run is None or own_of(run).get("store") is False:
        raise NotFound(f"Response with id {id[:64]!r} not found.", field="response_id")
    return thread_id, run


async def delete(runtime: Runtime, project_id: int, id: str, now: datetime) -> None:
    """With its thread, if that was made for responses and holds no other; with its messages, if nothing came after them
    there. What others go on from stays for them. Raises NotFound, and Conflict while it is active."""
    async with runtime.db.transaction(project_id) as session:
        thread_id, run = await find(session, id)
        thread = await get_thread(session, thread_id, lock=True)
        run = await store.get_run(session, thread.pk, id)
        if not run.ended:
            raise Conflict(f"Response {id!r} is {run.status}; cancel it first.")
        own = own_of(run)
        if own.get("owned") and await store.count_runs(session, thread.pk) == 1:
            await thread_store.delete_thread(session, thread_id)
            return
        last_seq = await _last_seq(session, thread, run)
        await store.delete_run(session, run)
        if own.get("owned") and last_seq == thread.last_seq:
            await _take_back(session, thread, own["input"][0], last_seq, now)


async def undo(runtime: Runtime, project_id: int, shown: ShownRun, now: datetime) -> None:
    """Take back what was appended for a response that was found to be impossible."""
    own = own_of(shown.record)
    async with runtime.db.transaction(project_id) as session:
        thread = await get_thread(session, shown.thread_id, lock=True)
        first, last = own["input"]
        if own["owned"] and await store.count_runs(session, thread.pk) == 1:
            await thread_store.delete_thread(session, thread.id)
            return
        await _take_back(session, thread, first, last, now)


async def _take_back(session: Session, thread: ThreadRecord, first_seq: int, last_seq: int, now: datetime) -> None:
    for record in reversed(await message_store.range_of(session, thread.pk, first_seq=first_seq, last_seq=last_seq)):
        await ingest.delete(session, thread, record, now)
        thread = await get_thread(session, thread.id)


async def forget(runtime: Runtime, project_id: int, thread_id: str) -> None:
    with suppress(NotFound):
        async with runtime.db.transaction(project_id) as session:
            await thread_store.delete_thread(session, thread_id)


async def count_input(runtime: Runtime, project_id: int, asked: Asked, now: datetime) -> int:
    """The tokens of the prompt that a response would be built from. It is planned on a copy, of which nothing stays."""
    prepared = await ingest.prepare(runtime, asked.drafts, now)
    async with runtime.db.transaction(project_id) as session:
        place = await _place(session, replace(asked, keep=False), now)
        if prepared:
            await ingest.append(session, place.thread, prepared, [draft.field for draft in asked.drafts])
    prompt = asked.spec.prompt
    try:
        built = await prompts.build(runtime, project_id, place.thread.id, prompt, None, now, dry_run=True, call=None)
        return int(built.explanation["tokens"]["total"])
    except NoUserMessage:
        texts = [prompt.instructions or "", dumps(prompt.tools) if prompt.tools else ""]
        return sum(counts.latin + counts.other for counts in await runtime.count(texts))
    finally:
        await asyncio.shield(forget(runtime, project_id, place.thread.id))
