"""How Postgres adds up the ledger when there is much of it: what is selected is found by index, and nothing else read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime

import psycopg
import pytest

from memory_service.store import usage
from memory_service.store.db import Session
from memory_service.store.embedded import EmbeddedPostgres
from memory_service.store.migrate import migrate
from memory_service.store.pages import PageQuery
from memory_service.store.usage import GroupBy, Selection
from tests.store.conftest import database
from tests.store.test_plans import explain

#: A call a minute in the first project, half of them in one thread; as many calls in the other projects together.
CALLS = 60_000
FILL = f"""
SET session_replication_role = replica;
INSERT INTO projects (name, created_at) SELECT 'p' || n, now() FROM generate_series(1, 500) n;
INSERT INTO usage_entries (project_id, kind, called_at, thread_id, user_id, prompt_id, provider, model, cache_read_tokens,
    cache_write_5m_tokens, cache_write_1h_tokens, uncached_tokens, output_tokens, cost_usd, cost_usd_uncached, output_usd,
    predicted_cache_read_tokens, miss_reason)
    SELECT CASE WHEN n % 2 = 0 THEN 1 ELSE 2 + n % 499 END, 'report', timestamptz '2026-10-01Z' + n * interval '30 seconds',
        CASE WHEN n % 4 = 0 THEN 'thread_long' ELSE 'thread_' || n % 5000 END, 'user_' || n % 500, 'prompt_' || n,
        'anthropic', 'model_' || n % 7, 1000, 10, 0, 100, 50, 0.001, 0.005, 0.0005, 900,
        CASE WHEN n % 10 = 0 THEN 'held_none' END
    FROM generate_series(1, 2 * {CALLS}) n;
"""
#: Eight hours of the first project: 480 calls.
SHORT = Selection(since=datetime(2026, 10, 20, tzinfo=UTC), until=datetime(2026, 10, 20, 8, tzinfo=UTC))


@pytest.fixture(scope="module")
def ledger(postgres: EmbeddedPostgres) -> Iterator[str]:
    with database(postgres) as url:
        migrate(url)
        with psycopg.connect(url, autocommit=True, options="-c search_path=memory,public") as owner:
            for statement in FILL.split(";\n"):
                owner.execute(statement.encode())
            owner.execute("VACUUM ANALYZE")
        yield url


def by_index(ledger: str, use: Callable[[Session], Awaitable[object]], *, pages: int, rows: int) -> None:
    """At most so many rows of the ledger come out of an index, and none of a scan. Groups of them are sorted."""
    found = explain(ledger, 1, use)
    assert found
    for one in found:
        scans = [node for node in one.nodes if node.get("Relation Name") == "usage_entries"]
        assert scans, one.statement
        for node in scans:
            assert node["Node Type"] != "Seq Scan", one.statement
            if "Actual Rows" in node:
                assert node["Actual Rows"] * node["Actual Loops"] <= rows, one.statement
        assert one.pages <= pages, f"{one.pages} pages: {one.statement}"


@pytest.mark.parametrize("group_by", ["day", "model", "thread", "user"])
def test_a_short_time(ledger: str, group_by: GroupBy) -> None:
    async def use(session: Session) -> None:
        assert (await usage.sum_all(session, SHORT)).calls == 480
        first = await usage.sum_groups(session, SHORT, group_by, PageQuery(1, "desc"))
        await usage.sum_groups(session, SHORT, group_by, PageQuery(1, "desc", after=first.items[0].id))
        assert await usage.count_misses(session, SHORT) == {"held_none": 96}

    by_index(ledger, use, pages=120, rows=480)


@pytest.mark.parametrize(
    ("selection", "calls", "pages"),
    [
        (Selection(user_id="user_8"), 240, 600),
        (Selection(thread_id="thread_2"), 24, 100),
        (Selection(since=SHORT.since, until=SHORT.until, thread_id="thread_long"), 240, 120),
        (Selection(since=SHORT.since, until=SHORT.until, user_id="user_8"), 2, 30),
        (Selection(since=SHORT.since, until=SHORT.until, model="model_3"), 68, 120),
    ],
)
def test_of_somebody(ledger: str, selection: Selection, calls: int, pages: int) -> None:
    async def use(session: Session) -> None:
        found = (await usage.sum_all(session, selection)).calls
        assert abs(found - calls) <= 2
        await usage.sum_groups(session, selection, "day", PageQuery(20, "asc"))

    by_index(ledger, use, pages=pages, rows=480)


def test_the_export_of_a_user(ledger: str) -> None:
    """A page is read, not all that comes before or behind it."""

    async def use(session: Session) -> None:
        first = await usage.entries_after(session, "user_8", usage.BEGINNING, 100)
        second = await usage.entries_after(session, "user_8", first[-1][0], 100)
        assert len({place for place, _ in first + second}) == 200

    by_index(ledger, use, pages=250, rows=102)


def test_forgetting(ledger: str) -> None:
    async def use(session: Session) -> None:
        assert await usage.count_of_user(session, "user_8") == 240
        assert await usage.forget_user(session, "user_8", 100) == 100
        await usage.forget_threads(session, ["thread_2", "thread_6"])

    by_index(ledger, use, pages=6_000, rows=480)


def test_the_checks_can_fail(ledger: str) -> None:
    with pytest.raises(AssertionError, match="usage_entries"):
        by_index(ledger, lambda session: usage.sum_all(session, Selection(model="model_3")), pages=10**6, rows=480)
