"""Retention: prompts, and answers kept for retries, are deleted when they have been kept long enough; and so are threads
that nobody wanted kept, where the process that was to delete them ended before."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta

from memory_service.errors import NotFound
from memory_service.runtime import Runtime, now_utc
from memory_service.store import idempotency, retention, run_events, runs, threads
from memory_service.telemetry import logger

_EVERY_SECONDS = 3600
_ROWS_AT_ONCE = 500
# Longer than a response works and waits for its reader.
_UNKEPT_FOR = timedelta(hours=1)


async def run(runtime: Runtime) -> None:
    """Sweep now and then, until cancelled. Replicas may do so at the same time."""
    while True:
        try:
            if deleted := await sweep(runtime, now_utc()):
                logger.info("kept long enough, and deleted", extra={"fields": dict(deleted)})
        except Exception:
            # The next round tries again; a database that is away is reported by /readyz.
            logger.exception("sweeping failed")
        await asyncio.sleep(_EVERY_SECONDS)


async def sweep(runtime: Runtime, now: datetime, *, rows_at_once: int = _ROWS_AT_ONCE) -> Counter[str]:
    """Delete what is old enough at `now`; returns how many of each kind. Short transactions, one after another."""
    deleted: Counter[str] = Counter()
    await _sweep_answers(runtime, now, rows_at_once, deleted)
    await _sweep_events(runtime, now - idempotency.KEPT, rows_at_once, deleted)
    await _sweep_unkept(runtime, now - _UNKEPT_FOR, rows_at_once, deleted)
    if days := runtime.settings.prompt_retention_days:
        await _sweep_prompts(runtime, now - timedelta(days=days), rows_at_once, deleted)
    return +deleted


async def _sweep_answers(runtime: Runtime, now: datetime, limit: int, deleted: Counter[str]) -> None:
    count = limit
    while count == limit:
        async with runtime.worker_db.transaction(None) as session:
            count = await idempotency.delete_expired(session, now, limit)
        deleted["idempotency_records"] += count


async def _sweep_events(runtime: Runtime, until: datetime, limit: int, deleted: Counter[str]) -> None:
    """Of runs that ended as long ago as a stream can be asked for again."""
    last_pk: int | None = 0
    while last_pk is not None:
        async with runtime.worker_db.transaction(None) as session:
            count, last_pk = await run_events.delete_old_events(session, last_pk, until, limit)
        deleted["run_events"] += count
    async with runtime.worker_db.transaction(None) as session:
        await runs.forget_servers(session, until)


async def _sweep_unkept(runtime: Runtime, until: datetime, limit: int, deleted: Counter[str]) -> None:
    count = limit
    while count == limit:
        async with runtime.worker_db.transaction(None) as session:
            found = await retention.unkept(session, until, limit)
        count = len(found)
        for project_id, thread_id in found:
            with suppress(NotFound):
                async with runtime.db.transaction(project_id) as session:
                    await threads.delete_thread(session, thread_id)
        deleted["threads"] += count


async def _sweep_prompts(runtime: Runtime, until: datetime, limit: int, deleted: Counter[str]) -> None:
    """In the order in which they were built, up to the first page without an old one."""
    last_pk: int | None = 0
    while last_pk is not None:
        async with runtime.worker_db.transaction(None) as session:
            page = await retention.delete_prompts(session, last_pk, until, limit)
        deleted.update(prompts=page.prompts, stable_texts=page.stable_texts, message_revisions=page.revisions)
        last_pk = page.last_pk
