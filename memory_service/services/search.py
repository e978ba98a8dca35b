"""Finding messages by what they say: in a thread, and across a user's threads."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from memory_service.core.corpus import count_documents
from memory_service.core.recall import Hit
from memory_service.runtime import Runtime
from memory_service.services.holding import quotables
from memory_service.services.recall import Ranking, ask, rank_thread, rank_threads
from memory_service.store import messages as message_store
from memory_service.store import recall as recall_store
from memory_service.store.db import Session
from memory_service.store.messages import MessageRecord
from memory_service.store.recall import ThreadIndex
from memory_service.store.threads import get_thread


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A message and the passage of it that fits best."""

    thread_id: str
    message: MessageRecord
    hit: Hit
    excerpt: str


@dataclass(frozen=True, slots=True)
class SearchResult:
    """`ranking` says how they were found."""

    hits: list[SearchHit]
    ranking: Ranking


async def search_thread(runtime: Runtime, project_id: int, thread_id: str, query: str, limit: int) -> SearchResult:
    """The best messages of a thread, its newest included, best first. Raises NotFound."""
    question = await ask(runtime, query)
    async with runtime.db.read_only(project_id) as session:
        thread = await get_thread(session, thread_id)
        ranking = await rank_thread(runtime, session, thread, question, limit, thread.last_seq + 1, one_a_message=True)
        return await _show(session, ranking, [(thread.pk, thread.id)] * len(ranking.hits))


async def search_user(runtime: Runtime, project_id: int, user_id: str, query: str, limit: int) -> SearchResult:
    """The best messages in all threads of an end user, best first."""
    question = await ask(runtime, query)
    async with runtime.db.read_only(project_id) as session:
        indexes = await recall_store.user_indexes(session, user_id)
        ranking = await rank_threads(session, indexes, question, limit, one_a_message=True)
        owner = _owner_of_documents(indexes)
        owners = [owner(hit.document) for hit in ranking.hits]
        return await _show(session, ranking, [(thread.thread_pk, thread.thread_id) for thread in owners])


async def _show(session: Session, ranking: Ranking, owners: Sequence[tuple[int, str]]) -> SearchResult:
    """`owners` are the threads of the hits, by pk and id."""
    wanted = {(pk, hit.seq): (id_, hit) for (pk, id_), hit in zip(owners, ranking.hits, strict=True)}
    records = await message_store.with_seqs(session, [pk for pk, _ in wanted], [seq for _, seq in wanted])
    found = {(record.thread_pk, record.seq): record for record in records}
    quoted = dict(zip(found, await quotables([*found.values()]), strict=True))
    hits = [
        SearchHit(id_, found[place], hit, quoted[place].quote(hit.passage).text)
        for place, (id_, hit) in wanted.items()
        if place in found
    ]
    return SearchResult(hits, ranking)


def _owner_of_documents(indexes: Sequence[ThreadIndex]) -> Callable[[int], ThreadIndex]:
    """From the number of a document in the joined corpus to the thread it belongs to."""
    ends = list(accumulate(count_documents(index.index) for index in indexes))
    return lambda document: indexes[bisect_right(ends, document)]
