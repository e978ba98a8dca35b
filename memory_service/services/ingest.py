"""Messages on their way in: checked, canonicalised, counted and indexed once; and changed with the same care."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate, chain, pairwise
from typing import Any

from memory_service.core.canonical import dumps, loads
from memory_service.core.content import check_content
from memory_service.core.counting import counted_text, thinking_text
from memory_service.core.images import media_tokens
from memory_service.core.messages import (
    Block,
    Tail,
    content_text,
    extend_tail,
    outline,
)
from memory_service.core.recall import index_entry, moved_entry
from memory_service.core.terms import passages_of
from memory_service.errors import Conflict, EmbedderUnavailable, InvalidMessage
from memory_service.providers.base import TextCounter
from memory_service.runtime import Runtime, new_id
from memory_service.store import edits
from memory_service.store import messages as message_store
from memory_service.store import prompts as prompt_store
from memory_service.store.db import Session, on_commit
from memory_service.store.messages import Addition, MessageRecord, NewMessage, Placed
from memory_service.store.threads import ThreadRecord
from memory_service.store.vectors import MessageVectors
from memory_service.telemetry import metrics

MAX_MESSAGES_PER_APPEND = 1_000
# Checking, counting and indexing this many characters takes a few milliseconds; more is done beside the event loop.
_INLINE_CHARACTERS = 20_000
# What a value costs beside its characters.
_VALUE_CHARACTERS = 50
# An entry is made before it is known which seq the message gets.
_ANY_SEQ = 1


@dataclass(frozen=True, slots=True)
class Draft:
    """A message as it came in. `field` is where in the request it stood, for error messages.

    `content` is a string or a list of blocks; `openai` what else OpenAI shows of it, as JSON.
    """

    role: str
    content: Any
    field: str
    metadata: Mapping[str, str]
    id: str | None = None
    created_at: datetime | None = None
    status: str = "completed"
    run_id: str | None = None
    openai: str | None = None


async def prepare(
    runtime: Runtime, drafts: Sequence[Draft], now: datetime, *, findable: bool = True
) -> list[NewMessage]:
    """Do all that needs no transaction. What will not be stored need not be `findable`: by words or by vectors. Raises
    InvalidMessage naming the field and the remedy."""

    def prepared() -> list[NewMessage]:
        checked = [_checked(draft) for draft in drafts]
        return [
            _new_message(runtime.counter, draft, content, now, findable=findable)
            for draft, content in zip(drafts, checked, strict=True)
        ]

    messages = await asyncio.to_thread(prepared) if _is_long([draft.content for draft in drafts]) else prepared()
    return await with_vectors(runtime, messages) if findable else messages


def is_long(draft: Draft) -> bool:
    """Whether preparing it takes more than a few milliseconds."""
    return _is_long([draft.content])


def _is_long(waiting: list[Any]) -> bool:
    """Whether working on these values, and all in them, would keep other requests waiting."""
    left = _INLINE_CHARACTERS
    while waiting and left > 0:
        value = waiting.pop()
        left -= len(value) if isinstance(value, str) else _VALUE_CHARACTERS
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return left <= 0


async def with_vectors(runtime: Runtime, messages: Sequence[NewMessage]) -> list[NewMessage]:
    """The messages with vectors by the active embedder, if it is fast enough to be waited for; otherwise the background
    loop sees to them."""
    if not messages:
        return []
    active = await runtime.embedders.active()
    if active.embedder is None or not active.embedder.inline:
        return list(messages)
    texts = [message.text for message in messages]
    if _is_long([*texts]):
        passages = await asyncio.to_thread(lambda: [passages_of(text) for text in texts])
    else:
        passages = [passages_of(text) for text in texts]
    try:
        rows = await active.embedder.embed_passages(list(chain.from_iterable(passages)))
    except EmbedderUnavailable:
        return list(messages)
    ends = list(accumulate(map(len, passages), initial=0))
    return [
        replace(message, vectors=MessageVectors(active.record, rows[start:end]))
        for message, (start, end) in zip(messages, pairwise(ends), strict=True)
    ]


def prepare_one(counter: TextCounter, draft: Draft, now: datetime) -> NewMessage:
    """As `prepare` but for the vectors, for a caller that is beside the event loop already."""
    return _new_message(counter, draft, _checked(draft), now)


def _checked(draft: Draft) -> tuple[Block, ...]:
    return check_content(draft.role, draft.content, f"{draft.field}content")


def _new_message(
    counter: TextCounter, draft: Draft, content: Sequence[Block], now: datetime, *, findable: bool = True
) -> NewMessage:
    counts, thinking = counter.count(counted_text(content)), counter.count(thinking_text(content))
    text = content_text(content)
    return NewMessage(
        id=draft.id or new_id("msg", now),
        role=draft.role,
        content=dumps(content),
        text=text,
        outline=outline(content),
        counts=replace(counts, messages=1, images=sum(map(media_tokens, content))),
        thinking_tokens=thinking.latin + thinking.other,
        metadata=draft.metadata,
        created_at=draft.created_at or now,
        status=draft.status,
        run_id=draft.run_id,
        entry=index_entry(_ANY_SEQ, draft.role, text) if findable else b"",
        openai=draft.openai,
    )


async def append(
    session: Session,
    thread: ThreadRecord,
    messages: Sequence[NewMessage],
    fields: Sequence[str],
    seqs: Sequence[int | None] | None = None,
    *,
    enqueue: bool = True,
) -> list[MessageRecord]:
    """Append prepared messages to a thread whose row this transaction holds. All or none.

    `fields[i]` is where message i stood in the request. `seqs` is for copies of a thread from which messages were
    deleted: it may leave gaps. `enqueue` as in the store's `append`. Raises InvalidMessage, and Conflict while a run is
    active that did not write them.
    """
    if not messages:
        return []
    check_free(thread, {message.run_id for message in messages})
    tail = thread.tail
    placed: list[Placed] = []
    seq = thread.last_seq
    for message, field, given in zip(messages, fields, seqs or [None] * len(messages), strict=True):
        tail = extend_tail(tail, message.role, message.outline, f"{field}content")
        if given is not None and given <= seq:
            raise InvalidMessage(f"`{field}seq` is {given}, but the message before has {seq}.", field=f"{field}seq")
        seq = given if given is not None else seq + 1
        placed.append((seq, message, moved_entry(message.entry, seq)))
    records = await message_store.append(session, [Addition(thread.pk, placed, tail)], enqueue=enqueue)
    note_appended(session, records)
    return records


def check_free(thread: ThreadRecord, run_ids: Collection[str | None] = (None,)) -> None:
    """Raises Conflict while a run of another id is active on the thread."""
    if thread.active_run_id is not None and {*run_ids} != {thread.active_run_id}:
        raise Conflict(
            f"Run {thread.active_run_id} is active on this thread; wait for its end, cancel it, or start a run with "
            '`on_busy` "queue".',
            code="thread_busy",
            run_id=thread.active_run_id,
        )


def note_appended(session: Session, records: Sequence[MessageRecord]) -> None:
    tokens = sum(record.token_count for record in records)
    on_commit(session, lambda: metrics.count_appended(len(records), tokens))


async def edit(
    session: Session,
    thread: ThreadRecord,
    message: MessageRecord,
    new: NewMessage | None,
    metadata: Mapping[str, str | None],
) -> MessageRecord:
    """Replace a message's content (None: keep it) and merge its metadata (None removes a key).

    Raises InvalidMessage when a tool call and its result would come apart.
    """
    check_free(thread)
    merged = {**(message.metadata or {}), **metadata}
    kept = {key: value for key, value in merged.items() if value is not None}
    if new is None:
        new = copy_of(message, message.id)
    edited = await edits.replace(session, thread, message, new, moved_entry(new.entry, message.seq), kept)
    if edited.content != message.content:
        await _revalidate(session, thread, message.seq, deleted=0, action="edit")
    return edited


async def delete(session: Session, thread: ThreadRecord, message: MessageRecord, now: datetime) -> None:
    """Raises InvalidMessage when a tool result would lose its call, Conflict while a run is active."""
    check_free(thread)
    await edits.bury(session, thread, message, now)
    await _revalidate(session, thread, message.seq, deleted=1, action="delete")


async def _revalidate(session: Session, thread: ThreadRecord, seq: int, *, deleted: int, action: str) -> None:
    """Walk the whole thread once more: edits are rare, and a broken pair would make every later prompt invalid."""
    records = await message_store.range_of(session, thread.pk)
    tail = await asyncio.to_thread(_tail_of, records, seq, action)
    await edits.set_tail(session, thread.pk, tail, deleted=deleted)
    await prompt_store.mark_edited(session, thread.pk, seq, deleted=deleted > 0)


def _tail_of(records: Sequence[MessageRecord], seq: int, action: str) -> Tail:
    tail = Tail()
    for record in records:
        try:
            tail = extend_tail(tail, record.role, loads(record.content), f"message {record.id}")
        except InvalidMessage as error:
            raise InvalidMessage(
                _why_broken(action, record, seq, error), code="tool_pair_broken", message_id=record.id
            ) from error
    return tail


def _why_broken(action: str, record: MessageRecord, seq: int, error: InvalidMessage) -> str:
    if record.seq == seq:
        return f"This {action} would break tool calls apart: {error.message}"
    # How to mend an append, as the error has it, is no help here.
    return (
        f"This {action} would break tool calls apart: message {record.id} (seq {record.seq}) answers or repeats a call "
        "of the message that changes. Change or delete that message first."
    )


def copy_of(record: MessageRecord, id: str) -> NewMessage:
    """A stored message as one that can be written, under an id of its own; without an entry of the index."""
    content: Sequence[Block] = loads(record.content)
    return NewMessage(
        id=id,
        role=record.role,
        content=record.content,
        text=content_text(content),
        outline=outline(content),
        counts=record.counts,
        thinking_tokens=record.thinking_tokens,
        metadata=record.metadata or {},
        created_at=record.created_at,
        status=record.status,
        openai=record.openai,
    )
