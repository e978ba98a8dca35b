"""Reading of a thread what recall needs, as far as it is not held since the last time.

An index entry and its vectors never change unless their message is edited or deleted, which moves the thread's
`edited_version`; then everything is read anew. Otherwise only what came after is.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from memory_service.core.corpus import Corpus
from memory_service.core.held import Held, HeldVectors
from memory_service.core.similarity import common_part, placed, typical, words_of
from memory_service.runtime import Runtime
from memory_service.store import recall as recall_store
from memory_service.store import vectors as vector_store
from memory_service.store.db import Session
from memory_service.store.embedders import EmbedderRecord
from memory_service.store.threads import ThreadRecord

# Of a thread whose vectors take more, the signs alone are held, a thirty-second part.
_VECTOR_BYTES = 24 << 20
# Decoding so many takes a few milliseconds.
_DECODED_INLINE_BYTES = 200_000


async def hold(
    runtime: Runtime, session: Session, thread: ThreadRecord, before_seq: int, embedder: EmbedderRecord | None
) -> Held:
    """The part of a thread before a seq. `thread` was read before, in this transaction or an earlier one."""
    held = runtime.held.find(thread.pk, thread.edited_version)
    part = await asyncio.to_thread(held.before, before_seq) if held and held.before_seq > before_seq else held
    corpus = await _corpus(session, thread, part, before_seq)
    vectors = part.vectors if part else None
    if embedder:
        known, vectors = vectors, await _vectors(session, thread, vectors, corpus, before_seq, embedder)
        vectors = await _knowing_common(session, thread, vectors, known, corpus, embedder)
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
