"""Finding messages by what they say: in a thread, and across a user's threads."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from memory_service.core.canonical import loads
from memory_service.core.messages import block_text
from memory_service.core.recall import Hit, count_documents, passage_text, rank
from memory_service.runtime import Runtime
from memory_service.store import messages as message_store
from memory_service.store import recall as recall_store
from memory_service.store.messages import MessageRecord
from memory_service.store.recall import ThreadIndex
from memory_service.store.threads import get_thread

# Passages ranked for one message wanted: several may belong to the same message.
_PASSAGES_PER_MESSAGE = 4


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A message and the passage of it that fits best."""

    thread_id: str
    message: MessageRecord
    hit: Hit
    excerpt: str


async def search_thread(runtime: Runtime, project_id: int, thread_id: str, query: str, limit: int) -> list[SearchHit]:
    """The best messages of a thread, its newest included, best first. Raises NotFound."""
    async with runtime.db.read_only(project_id) as session:
        thread = await get_thread(session, thread_id)
        index = await recall_store.thread_index(session, thread.pk)
    return await _hits(runtime, project_id, [ThreadIndex(thread.pk, thread.id, index)], query, limit)


async def search_user(runtime: Runtime, project_id: int, user_id: str, query: str, limit: int) -> list[SearchHit]:
    """The best messages in all threads of an end user, best first."""
    async with runtime.db.read_only(project_id) as session:
        indexes = await recall_store.user_indexes(session, user_id)
    return await _hits(runtime, project_id, indexes, query, limit)


async def _hits(
    runtime: Runtime, project_id: int, indexes: Sequence[ThreadIndex], query: str, limit: int
) -> list[SearchHit]:
    # One corpus, so that scores of different threads can be compared.
    ranked = rank(b"".join(index.index for index in indexes), query, limit * _PASSAGES_PER_MESSAGE)
    owner = _owner_of_documents(indexes)
    best: dict[tuple[int, int], tuple[ThreadIndex, Hit]] = {}
    for hit in ranked:
        thread = owner(hit.document)
        best.setdefault((thread.thread_pk, hit.seq), (thread, hit))
    wanted = list(best)[:limit]
    async with runtime.db.read_only(project_id) as session:
        records = await message_store.with_seqs(session, [pk for pk, _ in wanted], [seq for _, seq in wanted])
    found = {(record.thread_pk, record.seq): record for record in records}
    hits = []
    for place in wanted:
        if place in found:
            thread, hit = best[place]
            hits.append(SearchHit(thread.thread_id, found[place], hit, excerpt_of(found[place], hit.passage)[0]))
    return hits


def excerpt_of(record: MessageRecord, passage: int) -> tuple[str, bool]:
    """The text of a message's passage, and whether it is only a part of the message."""
    text = "\n".join(filter(None, map(block_text, loads(record.content))))
    return passage_text(text, passage)


def _owner_of_documents(indexes: Sequence[ThreadIndex]) -> Callable[[int], ThreadIndex]:
    """From the number of a document in the joined corpus to the thread it belongs to."""
    ends = list(accumulate(count_documents(index.index) for index in indexes))
    return lambda document: indexes[bisect_right(ends, document)]
