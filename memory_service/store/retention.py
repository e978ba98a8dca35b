"""Deleting what has been kept long enough, a page at a time; for transactions of the worker's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from memory_service.store.db import Session
from memory_service.store.session import text

#: `openai` of a thread that is to be deleted as soon as it was read. No import can bring it: there JSON has no spaces.
UNKEPT = '{"kept": false}'


@dataclass(frozen=True, slots=True)
class Page:
    """What was deleted of a page of prompts. `last_pk` is its end; None: what follows is all too new."""

    last_pk: int | None
    prompts: int = 0
    stable_texts: int = 0
    revisions: int = 0


async def delete_prompts(session: Session, after_pk: int, until: datetime, limit: int) -> Page:
    """Delete the prompts of a page that were built at `until` or before, and what was only kept for them.

    A lane keeps the newest prompt that was sent, and the newest that waits to be. Threads that somebody holds are left
    for the next time.
    """
    page = await session.execute(
        text("SELECT pk, thread_pk, built_at FROM prompts WHERE pk > :after_pk ORDER BY pk LIMIT :limit"),
        {"after_pk": after_pk, "limit": limit},
    )
    old = [row for row in page if row.built_at <= until]
    if not old:
        return Page(None)
    held = await session.execute(
        text("SELECT pk FROM threads WHERE pk = ANY (:pks) ORDER BY pk FOR UPDATE SKIP LOCKED"),
        {"pks": sorted({row.thread_pk for row in old})},
    )
    threads = [row[0] for row in held]
    deleted = await session.execute(
        text(
            "DELETE FROM prompts p WHERE pk = ANY (:pks) AND thread_pk = ANY (:threads) AND NOT (status <> 'abandoned'"
            " AND EXISTS (SELECT FROM lanes l WHERE l.thread_pk = p.thread_pk AND l.key = p.lane_key)"
            " AND NOT EXISTS (SELECT FROM prompts newer WHERE newer.thread_pk = p.thread_pk AND newer.pk > p.pk"
            " AND newer.lane_key = p.lane_key AND newer.status = p.status))"
            " RETURNING thread_pk, stable_digest"
        ),
        {"pks": [row.pk for row in old], "threads": threads},
    )
    texts, revisions = await _delete_unused(session, sorted({(row.thread_pk, row.stable_digest) for row in deleted}))
    return Page(page[-1].pk, len(deleted), texts, revisions)


async def unkept(session: Session, until: datetime, limit: int) -> list[tuple[int, str]]:
    """Threads that should have been deleted by then, with their projects: whoever was to do it is gone."""
    # The condition is the index's, so it stands in the text.
    found = await session.execute(
        text(
            f"SELECT project_id, id FROM threads WHERE openai = '{UNKEPT}' AND created_at <= :until"
            " ORDER BY created_at LIMIT :limit"
        ),
        {"until": until, "limit": limit},
    )
    return [(row.project_id, row.id) for row in found]


async def _delete_unused(session: Session, used: Sequence[tuple[int, str]]) -> tuple[int, int]:
    """What no prompt of these threads, which this transaction holds, is rebuilt from any more."""
    # Subqueries of one row, since joins would be planned as scans of all prompts.
    texts = await session.execute(
        text(
            "DELETE FROM stable_texts s USING unnest(CAST(:threads AS bigint[]), CAST(:digests AS text[])) AS u (thread_pk,"
            " digest) WHERE s.thread_pk = u.thread_pk AND s.digest = u.digest AND (SELECT 1 FROM prompts p"
            " WHERE p.thread_pk = s.thread_pk AND p.stable_digest = s.digest LIMIT 1) IS NULL RETURNING 1"
        ),
        {"threads": [thread_pk for thread_pk, _ in used], "digests": [digest for _, digest in used]},
    )
    # The oldest prompt that is left needs the earliest versions.
    revisions = await session.execute(
        text(
            "WITH oldest AS MATERIALIZED (SELECT thread_pk, (SELECT thread_version FROM prompts p"
            " WHERE p.thread_pk = u.thread_pk ORDER BY pk LIMIT 1) AS version"
            " FROM unnest(CAST(:threads AS bigint[])) AS u (thread_pk))"
            " DELETE FROM message_revisions r USING oldest WHERE r.thread_pk = oldest.thread_pk"
            " AND (oldest.version >= r.until_version) IS NOT FALSE RETURNING 1"
        ),
        {"threads": sorted({thread_pk for thread_pk, _ in used})},
    )
    return len(texts), len(revisions)
