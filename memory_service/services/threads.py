"""Threads as a whole: created with their first messages, and forked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from memory_service.errors import InvalidInput
from memory_service.runtime import new_id
from memory_service.services import ingest
from memory_service.store import messages as message_store
from memory_service.store import recall as recall_store
from memory_service.store import threads as thread_store
from memory_service.store import vectors as vector_store
from memory_service.store.db import Session
from memory_service.store.messages import MessageRecord, NewMessage
from memory_service.store.retention import UNKEPT
from memory_service.store.threads import ThreadRecord

_BATCH = 1_000


async def create(
    session: Session,
    *,
    fields: Mapping[str, Any],
    metadata: Mapping[str, str],
    messages: Sequence[NewMessage],
    now: datetime,
    id: str | None = None,
) -> ThreadRecord:
    """Raises NotFound for an unknown assistant, InvalidMessage."""
    if fields.get("assistant_id"):
        await thread_store.get_assistant(session, fields["assistant_id"], lock="FOR KEY SHARE")
    thread = await thread_store.create_thread(
        session, id=id or new_id("thread", now), now=now, metadata=metadata, fields=fields
    )
    if not messages:
        return thread
    await ingest.append(session, thread, messages, [f"messages[{i}]." for i in range(len(messages))])
    return await thread_store.get_thread(session, thread.id)


async def fork(
    session: Session,
    thread_id: str,
    seq: int,
    fields: Mapping[str, Any],
    metadata: Mapping[str, str] | None,
    now: datetime,
) -> ThreadRecord:
    """A new thread with a copy of the history up to and including `seq`, under new message ids.

    `fields` and `metadata` are the copy's own; what they do not name is copied too.
    Raises NotFound, and InvalidInput when the thread has no message `seq`.
    """
    source = await thread_store.get_thread(session, thread_id, lock=True)
    if not 0 <= seq <= source.last_seq:
        raise InvalidInput(f"`seq` must be between 0 and {source.last_seq}, the thread's last.", field="seq")
    if fields.get("assistant_id"):
        await thread_store.get_assistant(session, fields["assistant_id"], lock="FOR KEY SHARE")
    copied = {name: getattr(source, name) for name in thread_store.THREAD_FIELDS}
    if source.openai == UNKEPT:  # which is not so of a copy that somebody makes
        copied["openai"] = None
    copied |= fields
    copy = await thread_store.create_thread(
        session,
        id=new_id("thread", now),
        now=now,
        metadata=source.metadata if metadata is None else metadata,
        fields={name: value for name, value in copied.items() if value is not None},
    )
    records = await message_store.range_of(session, source.pk, last_seq=seq)
    for at in range(0, len(records), _BATCH):
        batch = await asyncio.to_thread(_copies, records[at : at + _BATCH], now)
        seqs = [record.seq for record in records[at : at + _BATCH]]
        await ingest.append(session, copy, batch, [""] * len(batch), seqs, enqueue=False)
        copy = await thread_store.get_thread(session, copy.id)
    await recall_store.copy_index(session, source.pk, copy.pk, seq)
    await vector_store.copy(session, source.pk, copy.pk, seq)
    return copy


def _copies(records: Sequence[MessageRecord], now: datetime) -> list[NewMessage]:
    return [ingest.copy_of(record, new_id("msg", now)) for record in records]
