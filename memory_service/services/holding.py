"""Reading of a thread what a prompt needs, as far as it is not held since the last time.

A message, its index entry and its vectors never change unless the message is edited or deleted, which moves the thread's
`edited_version`; then everything is read anew. Otherwise only what came after is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from memory_service.core.canonical import loads
from memory_service.core.corpus import Corpus
from memory_service.core.held import Held, HeldMessages, HeldQuotables, HeldVectors, size_of
from memory_service.core.messages import Message, content_text
from memory_service.core.quoting import Quotable
from memory_service.core.similarity import common_part, placed, typical, words_of
from memory_service.runtime import Runtime
from memory_service.store import messages as message_store
from memory_service.store import recall as recall_store
from memory_service.store import vectors as vector_store
from memory_service.store.db import Session, on_commit
from memory_service.store.embedders import EmbedderRecord
from memory_service.store.messages import MessageRecord
from memory_service.store.recall import Said
from memory_service.store.threads import ThreadRecord

# Of a thread whose vectors take more, the signs alone are held, a thirty-second part.
_VECTOR_BYTES = 24 << 20
# Decoding so many takes a few milliseconds.
_DECODED_INLINE_BYTES = 200_000
# Of a thread's messages no more is held than this, the newest: the older ones of a long window are read each time.
_MESSAGES_BYTES = 16 << 20
_FIRST_PAGE = 200
# Nor more of those that recall looks at.
_QUOTABLE_BYTES = 2 << 20
# Splitting this many characters into passages takes a few milliseconds.
_SPLIT_INLINE_CHARACTERS = 200_000


async def read_newest(
    runtime: Runtime,
    session: Session,
    thread: ThreadRecord,
    first_seq: int,
    suffice: Callable[[Sequence[Message]], bool],
) -> tuple[list[Message], bool]:
    """The newest messages of a thread, in order, none before a seq: so many that they `suffice`, in pages. And whether
    there are more."""
    held = await _up_to_date(runtime, session, thread)
    count = page_size = _FIRST_PAGE
    while True:
        held = await _further_back(session, thread, held, first_seq, count)
        messages = held.newest(count, first_seq)
        more_before = len(messages) == count and messages[0].seq > first_seq
        if not more_before or suffice(messages):
            break
        page_size *= 3
        count += page_size
    # Not before: what this transaction wrote itself may still come to nothing.
    on_commit(session, lambda: runtime.held.keep(thread.pk, held.within(_MESSAGES_BYTES)))
    return messages, more_before


def follow(runtime: Runtime, session: Session, thread: ThreadRecord, appended: Sequence[MessageRecord]) -> None:
    """Hold what was just appended to a thread, too, once it is committed: then the next prompt need not read it. `thread`
    is as it was before."""

    def extend() -> None:
        held = runtime.held.find(HeldMessages, thread.pk, thread.edited_version)
        if appended and held is not None and held.last_seq == thread.last_seq:
            more = held.followed_by(to_messages(appended), _sizes(appended), appended[-1].seq)
            runtime.held.keep(thread.pk, more.within(_MESSAGES_BYTES))

    on_commit(session, extend)


async def _up_to_date(runtime: Runtime, session: Session, thread: ThreadRecord) -> HeldMessages:
    """What is held of a thread's messages, with those that came after; nothing, where these are too many."""
    held = runtime.held.find(HeldMessages, thread.pk, thread.edited_version)
    if held is None or thread.last_seq - held.last_seq > _FIRST_PAGE:
        return HeldMessages(thread.edited_version, thread.last_seq + 1, thread.last_seq)
    if held.last_seq > thread.last_seq:  # `thread` was read before others wrote
        return held.before(thread.last_seq + 1)
    if held.last_seq == thread.last_seq:
        return held
    records = await message_store.range_of(session, thread.pk, first_seq=held.last_seq + 1, last_seq=thread.last_seq)
    return held.followed_by(to_messages(records), _sizes(records), thread.last_seq)


async def _further_back(
    session: Session, thread: ThreadRecord, held: HeldMessages, first_seq: int, count: int
) -> HeldMessages:
    """With so many messages as far as there are as many from a seq on."""
    missing = count - len(held.messages)
    if missing <= 0 or held.first_seq <= first_seq:
        return held
    records = await message_store.range_of(
        session, thread.pk, first_seq=first_seq, last_seq=held.first_seq - 1, limit=missing
    )
    reached = records[0].seq if len(records) == missing else first_seq
    return held.preceded_by(to_messages(records), _sizes(records), reached)


def _sizes(records: Sequence[MessageRecord]) -> list[int]:
    return [size_of(record.content) for record in records]


def to_messages(records: Sequence[MessageRecord], earlier: Mapping[int, str] | None = None) -> list[Message]:
    """`earlier` is what some of them said before, by their seqs."""
    earlier = earlier or {}
    # All at once: to begin with each anew takes longer than to read it.
    contents = loads(f"[{','.join([earlier.get(record.seq, record.content) for record in records])}]")
    return [
        Message(
            seq=record.seq,
            id=record.id,
            role="assistant" if record.role == "assistant" else "user",
            content=tuple(content),
            counts=record.counts,
            created_at=record.created_at,
            thinking_tokens=record.thinking_tokens,
        )
        for record, content in zip(records, contents, strict=True)
    ]


async def hold(
    runtime: Runtime, session: Session, thread: ThreadRecord, before_seq: int, embedder: EmbedderRecord | None
) -> Held:
    """The part of a thread before a seq. `thread` was read before, in this transaction or an earlier one."""
    held = runtime.held.find(Held, thread.pk, thread.edited_version)
    part = held.before(before_seq) if held and held.before_seq > before_seq else held
    corpus = await _corpus(session, thread, part, before_seq)
    vectors = part.vectors if part else None
    if embedder:
        known, vectors = vectors, await _vectors(session, thread, vectors, corpus, before_seq, embedder)
        vectors = await _knowing_common(session, thread, vectors, known, corpus, embedder)
    if held and held.before_seq == before_seq and held.corpus is corpus and held.vectors is vectors:
        return held
    now = Held(thread.edited_version, before_seq, corpus, vectors)
    if held is None or held.before_seq <= before_seq:
        runtime.held.keep(thread.pk, now)
    return now


async def _corpus(session: Session, thread: ThreadRecord, held: Held | None, before_seq: int) -> Corpus:
    if held is None:
        return await decode(await recall_store.thread_index(session, thread.pk, before_seq))
    if held.before_seq == before_seq:
        return held.corpus
    more = await recall_store.thread_index(session, thread.pk, before_seq, held.before_seq)
    return await decode(held.corpus.numbers.tobytes() + more) if more else held.corpus


async def quotable(
    runtime: Runtime, session: Session, thread: ThreadRecord, seqs: Sequence[int]
) -> Mapping[int, Quotable]:
    """The messages at these seqs, by their seqs. `thread` as in `hold`."""
    held = runtime.held.find(HeldQuotables, thread.pk, thread.edited_version)
    held = held or HeldQuotables(thread.edited_version, {})
    found = {seq: one for seq in seqs if (one := held.messages.get(seq))}
    missing = [seq for seq in seqs if seq not in found]
    if not missing:
        return found
    said = await recall_store.said_at(session, thread.pk, missing)
    read = dict(zip([one.seq for one in said], await quotables(said), strict=True))
    on_commit(session, lambda: runtime.held.keep(thread.pk, held.and_more(read, _QUOTABLE_BYTES)))
    return found | read


async def quotables(messages: Sequence[Said | MessageRecord]) -> list[Quotable]:
    """In their order. Split into passages when they are quoted, as many are not; beside the event loop when they are
    long."""
    if sum([len(one.content) for one in messages]) <= _SPLIT_INLINE_CHARACTERS:
        return _parsed(messages)

    def split() -> list[Quotable]:
        parsed = _parsed(messages)
        for one in parsed:
            one.split()
        return parsed

    return await asyncio.to_thread(split)


def _parsed(messages: Sequence[Said | MessageRecord]) -> list[Quotable]:
    # All at once: to begin with each anew takes longer than to read it.
    contents = loads(f"[{','.join([one.content for one in messages])}]")
    return [
        Quotable(one.id, one.role, content_text(content), one.created_at)
        for one, content in zip(messages, contents, strict=True)
    ]


async def decode(index: bytes) -> Corpus:
    """Beside the event loop when it is long."""
    return Corpus.of(index) if len(index) <= _DECODED_INLINE_BYTES else await asyncio.to_thread(Corpus.of, index)


async def _vectors(
    session: Session,
    thread: ThreadRecord,
    known: HeldVectors | None,
    corpus: Corpus,
    before_seq: int,
    embedder: EmbedderRecord,
) -> HeldVectors:
    signs = len(corpus) * embedder.dimensions * 4 > _VECTOR_BYTES
    if known is not None and (known.embedder_pk, known.are_signs) != (embedder.pk, signs):
        known = None
    done = known.complete if known else 0
    if known and done == len(corpus):
        return known
    # Whole messages, from the first on of which something is missing.
    first_seq = int(corpus.seq[done]) if done < len(corpus) else before_seq
    done = int(np.searchsorted(corpus.seq, first_seq))
    read = await vector_store.thread_vectors(session, embedder, thread.pk, first_seq, before_seq, signs=signs)
    rows = words_of(read.rows) if signs else read.rows
    places, found = placed(corpus.seq[done:], corpus.passage[done:]), placed(read.seq, read.passage)
    more = HeldVectors.of(embedder.pk, places, found, rows, are_signs=signs)
    return known.before(done).followed_by(more) if known else more


async def _knowing_common(
    session: Session,
    thread: ThreadRecord,
    vectors: HeldVectors,
    known: HeldVectors | None,
    corpus: Corpus,
    embedder: EmbedderRecord,
) -> HeldVectors:
    """With what the vectors have in common, which is found anew from time to time as they become more."""
    if known is not None and vectors.shares_common(known):
        return vectors if vectors is known else replace(vectors, common=known.common)
    if not len(corpus):
        return vectors
    at = typical(len(corpus))
    if vectors.are_signs:
        mean, count = await vector_store.mean_at(
            session, embedder, [thread.pk] * len(at), corpus.seq[at], corpus.passage[at]
        )
        return replace(vectors, common=common_part(mean, count))
    rows = vectors.rows[at[vectors.there[at]]]
    return replace(vectors, common=common_part(rows.sum(axis=0, dtype=np.float64) / max(len(rows), 1), len(rows)))
