"""Changing the embedder while the service runs: the new one's vectors are built beside the old ones, then searches move.

    building   its table fills: what is written now is queued by those who write it, what was written before, by the switch
    active     searches use it; the one before is retired, and its vectors are deleted after a minute

Every step may be repeated, so a switch that was broken off goes on when it is run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from memory_service.errors import Conflict
from memory_service.runtime import Runtime, now_utc
from memory_service.services.embedding import EmbeddingLoop
from memory_service.store import embedders as store
from memory_service.store import embedding as queue
from memory_service.store.embedders import EmbedderRecord
from memory_service.store.embedding import QueueState

_CHUNK = 2_000
_WAIT_SECONDS = 0.2
# Between attempts, so that those who write get on meanwhile.
_LOCKED_SECONDS = 2.0
_BATCHES_PER_REPORT = 4
# What was written while the rest was embedded is waited for too, until so little is left that it was written just now.
_JUST_NOW = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Progress:
    """`total` messages to embed, of which `waiting` are left. `trouble` says why the last that failed did."""

    step: str
    total: int = 0
    waiting: int = 0
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """The embedder to switch to."""

    name: str
    spec: str
    dimensions: int


Report = Callable[[Progress], None]


async def list_embedders(runtime: Runtime) -> list[tuple[EmbedderRecord, QueueState]]:
    """All, oldest first, each with what waits for it."""
    async with runtime.worker_db.read_only(None) as session:
        records = await store.list_embedders(session)
        return [(record, await queue.queue_state(session, record.pk)) for record in records]


async def switch(
    runtime: Runtime, owner_url: str, candidate: Candidate, report: Report, now: Callable[[], datetime] = now_utc
) -> EmbedderRecord | None:
    """Embed everything with another embedder, then let searches use it. None when they use it already; a switch away from
    it that was begun is given up.

    Raises Conflict when another switch took over.
    """
    report(Progress("waiting"))
    record = await _begin(runtime, owner_url, candidate, now())
    if record is None:
        return None
    await _wait_for_older_transactions(runtime)
    report(Progress("queueing"))
    await _enqueue_all(runtime, record)
    await _embed_all(runtime, record, report, now)
    async with runtime.worker_db.transaction(None) as session:
        if not await store.activate(session, record.pk, now()):
            raise Conflict(f"{record.name} is not being built any more: another switch has taken over.")
    return record


async def _begin(runtime: Runtime, owner_url: str, candidate: Candidate, now: datetime) -> EmbedderRecord | None:
    for record in await _records(runtime):
        if record.spec == candidate.spec and record.dimensions == candidate.dimensions:
            if record.status == "active":
                async with runtime.worker_db.transaction(None) as session:
                    await store.give_up_building(session, now)
                return None
            if record.status == "building":
                return record
    pk = None
    while pk is None:
        pk = await asyncio.to_thread(store.add_building, owner_url, **asdict(candidate), now=now)
        if pk is None:
            await asyncio.sleep(_LOCKED_SECONDS)
    return next(record for record in await _records(runtime) if record.pk == pk)


async def _records(runtime: Runtime) -> list[EmbedderRecord]:
    async with runtime.worker_db.read_only(None) as session:
        return await store.list_embedders(session)


async def _wait_for_older_transactions(runtime: Runtime) -> None:
    """Until nobody writes messages any more who does not know the new embedder."""
    async with runtime.worker_db.transaction(None) as session:
        number = await store.transaction_number(session)
    while True:
        async with runtime.worker_db.read_only(None) as session:
            if not await store.older_transactions_run(session, number):
                return
        await asyncio.sleep(_WAIT_SECONDS)


async def _enqueue_all(runtime: Runtime, record: EmbedderRecord) -> None:
    place: tuple[int, int] | None = (0, 0)
    while place is not None:
        async with runtime.worker_db.transaction(None) as session:
            place = await store.enqueue_after(session, record, place, _CHUNK)


async def _embed_all(runtime: Runtime, record: EmbedderRecord, report: Report, now: Callable[[], datetime]) -> None:
    """Take part in the work, whoever else does, until nothing is left but what was written just now."""
    loop = EmbeddingLoop(runtime, now)
    total, since = 0, None
    while True:
        async with runtime.worker_db.read_only(None) as session:
            state = await queue.queue_state(session, record.pk)
        since = since or state.now
        total = max(total, state.waiting)
        report(Progress("embedding", total, state.waiting, state.last_error))
        if state.oldest is None or state.oldest > since:
            if state.oldest is None or state.now - since < _JUST_NOW:
                return
            since = state.now
        if not await _some_batches(loop, record):
            await asyncio.sleep(_WAIT_SECONDS)


async def _some_batches(loop: EmbeddingLoop, record: EmbedderRecord) -> bool:
    for _ in range(_BATCHES_PER_REPORT):
        if not await loop.batch(record):
            return False
    return True
