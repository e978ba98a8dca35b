"""The background loop that gives messages their vectors, where the active embedder did not when they were written.

A round claims a batch for some minutes, embeds it in no transaction, and writes the vectors and the end of the claims in
one. A service that is killed leaves claims that end by themselves. An embedder that fails is asked again ever more
slowly, and when it refuses for good, with ever fewer messages, until the one it refuses stands alone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate, chain, pairwise
from uuid import UUID, uuid4

from memory_service.core.canonical import loads
from memory_service.core.messages import content_text
from memory_service.core.terms import passages_of
from memory_service.errors import EmbedderUnavailable, Unavailable
from memory_service.runtime import Runtime, now_utc
from memory_service.store import embedders as embedder_store
from memory_service.store import embedding as store
from memory_service.store.embedders import EmbedderRecord
from memory_service.store.embedding import PendingMessage
from memory_service.store.vectors import Vectors
from memory_service.telemetry import logger

MAX_BATCH = 256
#: Longer than any batch takes; as long a message of a killed service waits.
CLAIM_SECONDS = 300
_IDLE_SECONDS = 1.0
_SWEEP_SECONDS = 60
# Services notice within seconds that an embedder was retired; until then they still read its vectors.
_RETIRED_SECONDS = 60
_MAX_PAUSE_SECONDS = 60.0
_MAX_REFUSED_SECONDS = 3_600.0


@dataclass(slots=True)
class _Pace:
    """How an embedder is asked: in batches of what size, and not before when."""

    batch: int = MAX_BATCH
    failures: int = 0
    not_before: datetime = field(default_factory=lambda: datetime.min.replace(tzinfo=UTC))

    def succeed(self) -> None:
        self.batch, self.failures = min(self.batch * 2, MAX_BATCH), 0

    def fail(self, error: EmbedderUnavailable, now: datetime) -> None:
        self.failures += 1
        self.not_before = now + timedelta(seconds=_delay(self.failures, _MAX_PAUSE_SECONDS, error))
        if not error.is_retryable:
            self.batch = max(self.batch // 8, 1)


def _delay(failures: int, most: float, error: EmbedderUnavailable) -> float:
    """Seconds to wait: as long as the embedder said, else ever longer, and not all at the same time."""
    if error.retry_after_seconds is not None:
        return error.retry_after_seconds
    return min(most, 2.0 ** min(failures, 20)) * random.uniform(0.5, 1)  # noqa: S311 - only to spread the load


class EmbeddingLoop:
    """`clock` is the time by which claims begin and end."""

    def __init__(self, runtime: Runtime, clock: Callable[[], datetime] = now_utc) -> None:
        self._runtime = runtime
        self._clock = clock
        self._paces: dict[int, _Pace] = {}
        self._sweep_at = datetime.min.replace(tzinfo=UTC)

    async def run(self) -> None:
        """Until cancelled. What was claimed then is given back."""
        while True:
            try:
                worked = await self.round()
            except Unavailable:
                worked = False  # /readyz reports a database that is away
            except Exception:
                logger.exception("embedding failed")
                worked = False
            if not worked:
                await asyncio.sleep(_IDLE_SECONDS)

    async def round(self) -> bool:
        """One batch for each embedder that is in use or being built. False when there was nothing to do."""
        async with self._runtime.worker_db.read_only(None) as session:
            records = await embedder_store.list_embedders(session)
        worked = [await self.batch(record) for record in records if record.status != "retired"]
        await self._sweep()
        return any(worked)

    async def batch(self, record: EmbedderRecord) -> bool:
        """Embed the messages that have waited longest. False when none is due, or the embedder is left in peace."""
        pace = self._paces.setdefault(record.pk, _Pace())
        now = self._clock()
        if now < pace.not_before:
            return False
        claim, until = uuid4(), now + timedelta(seconds=CLAIM_SECONDS)
        async with self._runtime.worker_db.transaction(None) as session:
            messages = await store.claim(session, record.pk, claim, now, until, pace.batch)
        if not messages:
            return False
        try:
            vectors = await self._embed(record, messages)
            async with self._runtime.worker_db.transaction(None) as session:
                written = await store.finish(session, record, claim, messages, vectors)
        except EmbedderUnavailable as error:
            pace.fail(error, self._clock())
            await self._give_back(record, claim, messages, error)
            return False
        except BaseException:
            # Cancelled, or the database is away. If even this does not succeed, the claim ends by itself.
            with suppress(Exception):
                await self._release(claim, messages, [now] * len(messages), "")
            raise
        pace.succeed()
        logger.debug("messages embedded", extra={"fields": {"embedder": record.name, "count": written}})
        return True

    async def _embed(self, record: EmbedderRecord, messages: Sequence[PendingMessage]) -> list[Vectors]:
        embedder = await self._runtime.embedders.opened(record)
        passages = [_passages(message) for message in messages]
        rows = await embedder.embed_passages(list(chain.from_iterable(passages)))
        ends = list(accumulate(map(len, passages), initial=0))
        return [rows[start:end] for start, end in pairwise(ends)]

    async def _give_back(
        self, record: EmbedderRecord, claim: UUID, messages: Sequence[PendingMessage], error: EmbedderUnavailable
    ) -> None:
        now = self._clock()
        most = _MAX_PAUSE_SECONDS if error.is_retryable else _MAX_REFUSED_SECONDS
        times = [now + timedelta(seconds=_delay(message.attempts, most, error)) for message in messages]
        await self._release(claim, messages, times, error.message)
        fields = {"embedder": record.name, "count": len(messages), "reason": error.message}
        logger.warning("messages could not be embedded; they are tried again", extra={"fields": fields})

    async def _release(
        self, claim: UUID, messages: Sequence[PendingMessage], times: Sequence[datetime], error: str
    ) -> None:
        async with self._runtime.worker_db.transaction(None) as session:
            await store.release(session, claim, messages, times, error)

    async def _sweep(self) -> None:
        now = self._clock()
        if now < self._sweep_at:
            return
        self._sweep_at = now + timedelta(seconds=_SWEEP_SECONDS)
        async with self._runtime.worker_db.transaction(None) as session:
            emptied = await embedder_store.empty_retired(session, now - timedelta(seconds=_RETIRED_SECONDS))
        for name in emptied:
            logger.info("vectors of a retired embedder deleted", extra={"fields": {"embedder": name}})


def _passages(message: PendingMessage) -> list[str]:
    blocks = loads(message.content) if message.content is not None else ()
    return passages_of(content_text(blocks))
