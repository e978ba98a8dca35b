"""The pool and its transactions when things go wrong."""

from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from memory_service.errors import IdempotencyInProgress, InvalidInput, Unavailable
from memory_service.services.lifecycle import create_key
from memory_service.store import idempotency, projects, threads
from memory_service.store.db import Database, Session
from memory_service.store.embedded import EmbeddedPostgres
from memory_service.store.idempotency import Answer, IdempotentCall
from memory_service.store.migrate import migrate
from tests.e2e.proxy import Break, proxied
from tests.store.conftest import database
from tests.store.databases import with_database

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def url(postgres: EmbeddedPostgres) -> Any:
    """A database whose connections are this module's only."""
    with database(postgres) as made:
        migrate(made)
        asyncio.run(create_key(made, "p", "k", NOW))
        yield made


async def create(session: Session, id: str) -> None:
    await threads.create_thread(session, id=id, now=NOW, metadata={}, fields={})


async def exists(db: Database, id: str) -> bool:
    async with db.read_only(1) as session:
        return bool(await session.scalar(text("SELECT count(*) FROM threads WHERE id = :id"), {"id": id}))


def end_connections(url: str) -> int:
    """As a restart of the server would."""
    with psycopg.connect(url) as admin:
        ended = admin.execute(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'memory-service'"
        ).fetchone()
        assert ended
        return int(ended[0])


def connections(url: str) -> tuple[int, int]:
    """How many there are, and how many of them are not idle."""
    with psycopg.connect(url) as admin:
        row = admin.execute(
            "SELECT count(*), count(*) FILTER (WHERE state <> 'idle') FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'memory-service'"
        ).fetchone()
    assert row
    return row[0], row[1]


def test_busy_connections(url: str) -> None:
    async def body(db: Database) -> None:
        async with db.transaction(1):
            with pytest.raises(Unavailable, match="connections are busy"):
                async with db.transaction(1):
                    raise AssertionError("there is only one connection")
            with pytest.raises(Unavailable, match="connections are busy"):
                await projects.authenticate(db, "msk_x")
        async with db.transaction(1) as session:
            await create(session, "thread_after_busy")
        assert await exists(db, "thread_after_busy")

    with_database(url, body, pool_size=1, pool_timeout_seconds=0.05)


def test_a_repetition_is_answered_while_another_one_looks(url: str) -> None:
    """Only the first request is waited for."""
    call = IdempotentCall("POST", "/v1/threads", "key", b"body")

    async def body(db: Database) -> None:
        async with db.transaction(1) as first:
            assert await idempotency.claim(first, call, NOW) is None
            async with db.transaction(1) as other:
                with pytest.raises(IdempotencyInProgress):
                    await idempotency.claim(other, call, NOW)
            await idempotency.record(first, call, Answer(201, "{}"), NOW)
        async with db.transaction(1) as one, db.transaction(1) as other:
            assert await idempotency.claim(one, call, NOW) == Answer(201, "{}")
            assert await idempotency.claim(other, call, NOW) == Answer(201, "{}")

    with_database(url, body)


def test_stale_connections_cost_nobody_a_request(url: str) -> None:
    async def fill(db: Database) -> None:
        async def use() -> None:
            async with db.read_only(1) as session:
                await session.execute(text("SELECT 1"))
                await barrier.wait()

        barrier = asyncio.Barrier(4)
        await asyncio.gather(*(use() for _ in range(4)))

    async def body(db: Database) -> None:
        for first in (db.transaction, db.read_only):
            await fill(db)
            assert await asyncio.to_thread(end_connections, url) == 4
            async with first(1) as session:
                assert await session.scalar(text("SELECT 1")) == 1
            await fill(db)
        await fill(db)
        assert await asyncio.to_thread(end_connections, url) == 4
        assert await projects.authenticate(db, "msk_x") is None

    with_database(url, body, pool_size=4)


def test_connection_that_breaks_within_a_transaction(url: str) -> None:
    async def body(db: Database) -> None:
        async def lose_it() -> None:
            async with db.transaction(1) as session:
                await create(session, "thread_lost")
                await asyncio.to_thread(end_connections, url)
                await session.execute(text("SELECT 1"))

        with pytest.raises(Unavailable, match="cannot be reached"):
            await lose_it()
        assert not await exists(db, "thread_lost")

    with_database(url, body, pool_size=1)


@pytest.mark.parametrize(("when", "kept"), [("before", False), ("after", True)])
def test_connection_that_breaks_at_the_commit(url: str, temporary_dir: Path, when: Break, kept: bool) -> None:
    """Nobody can know then, and the error says that it is worth another try."""
    with proxied(url, temporary_dir / f"proxy-{when}") as (proxy, through):

        async def body(db: Database) -> None:
            assert not await exists(db, f"thread_{when}")  # connected now
            proxy.break_next_commit(when)
            with pytest.raises(Unavailable, match="cannot be reached"):
                async with db.transaction(1) as session:
                    await create(session, f"thread_{when}")
            assert proxy.broken == 1
            assert await exists(db, f"thread_{when}") == kept

        with_database(through, body, pool_size=2)


def test_server_that_is_away(url: str, temporary_dir: Path) -> None:
    async def body(db: Database) -> None:
        with pytest.raises(Unavailable, match="cannot be reached"):
            async with db.transaction(1):
                raise AssertionError("there is no server")
        with pytest.raises(Unavailable, match="cannot be reached"):
            await projects.authenticate(db, "msk_x")

    with_database(f"postgresql://u@/db?host={temporary_dir}", body)


def test_whoever_meets_what_the_server_has_forgotten_may_try_again(url: str) -> None:
    """As it does when an administrator discards it, or a table was altered."""

    async def body(db: Database) -> None:
        await exists(db, "any")
        async with db.read_only(1) as session:
            await session.connection.execute("DEALLOCATE ALL")
        with pytest.raises(Unavailable, match="try again"):
            await exists(db, "any")
        assert not await exists(db, "any")

    with_database(url, body, pool_size=1)


def test_nobody_waits_for_a_connection_that_could_not_be_made(temporary_dir: Path) -> None:
    async def ask(db: Database) -> None:
        with pytest.raises(Unavailable, match="cannot be reached"):
            async with db.transaction(1):
                raise AssertionError("there is no server")

    async def body(db: Database) -> None:
        async with asyncio.timeout(30):  # as a pool waits, it would be an hour
            await asyncio.gather(*[ask(db) for _ in range(3)])

    with_database(f"postgresql://u@/db?host={temporary_dir}", body, pool_size=1, pool_timeout_seconds=3_600)


async def wait_for(db: Database, held: asyncio.Event, other: asyncio.Event, first: str, second: str) -> None:
    async with db.transaction(1) as session:
        await threads.get_thread(session, first, lock=True)
        held.set()
        await other.wait()
        await threads.get_thread(session, second, lock=True)


async def wait_briefly(db: Database, id: str) -> None:
    async with db.transaction(1) as session:
        await session.execute(text("SET LOCAL lock_timeout = '10ms'"))
        await threads.get_thread(session, id, lock=True)


def test_deadlock_and_lock_timeout_are_worth_another_try(url: str) -> None:
    async def body(db: Database) -> None:
        async with db.transaction(1) as session:
            for id_ in ("thread_a", "thread_b"):
                await create(session, id_)
        a, b = asyncio.Event(), asyncio.Event()
        outcomes = await asyncio.gather(
            wait_for(db, a, b, "thread_a", "thread_b"),
            wait_for(db, b, a, "thread_b", "thread_a"),
            return_exceptions=True,
        )
        (refused,) = filter(None, outcomes)
        assert isinstance(refused, Unavailable)
        async with db.transaction(1) as session:
            await threads.get_thread(session, "thread_a", lock=True)
            with pytest.raises(Unavailable, match="same thread"):
                await wait_briefly(db, "thread_a")

    with_database(url, body, pool_size=2)


def test_what_is_wrong_with_the_request_or_the_code_is_not_called_unavailable(url: str) -> None:
    async def body(db: Database) -> None:
        with pytest.raises(InvalidInput, match="cannot be stored"):
            async with db.transaction(1) as session:
                await session.execute(text("SELECT convert_from('\\xff', 'UTF8')"))
        with pytest.raises(ProgrammingError):
            async with db.transaction(1) as session:
                await session.execute(text("SELECT :given"), {"given": object()})
        with pytest.raises(ProgrammingError):
            async with db.transaction(1) as session:
                await session.execute(text("SELECT no_such_column"))

    with_database(url, body, pool_size=1)


def test_cancelled_transactions_give_their_connections_back(url: str) -> None:
    """Cancelled at two hundred different moments: while waiting, connecting, beginning, working, committing."""

    async def work(db: Database, n: int) -> None:
        await projects.authenticate(db, "msk_x")
        async with db.transaction(1) as session:
            await create(session, f"thread_cancelled_{n}")
            await session.execute(text("SELECT pg_sleep(0.001)"))

    async def cancel_after(db: Database, n: int, steps: int) -> int:
        tasks = [asyncio.create_task(work(db, 4 * n + k)) for k in range(4)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        return sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)

    async def body(db: Database) -> None:
        assert sum([await cancel_after(db, n, n // 2) for n in range(200)]) > 100
        barrier = asyncio.Barrier(2)

        async def hold() -> None:
            async with db.transaction(1) as session:
                await session.execute(text("SELECT 1"))
                await barrier.wait()

        await asyncio.gather(hold(), hold())  # both connections are there
        # A server process ends a moment after its connection. None may wait for the garbage collector to close it.
        async with asyncio.timeout(10):
            while await asyncio.to_thread(connections, url) != (2, 0):
                pass

    gc.disable()
    try:
        with_database(url, body, pool_size=2)
    finally:
        gc.enable()


def test_a_connection_that_nobody_waits_for_any_more_is_closed(url: str) -> None:
    """Cancelled at each moment of its opening; also while somebody still knows of the error."""

    async def use(db: Database) -> None:
        async with db.transaction(1):
            pass

    async def run() -> None:
        errors = []
        for steps in range(60):
            db = Database(url, pool_size=1)
            task = asyncio.create_task(use(db))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            errors += await asyncio.gather(task, return_exceptions=True)
            await db.close()
        assert sum(isinstance(error, asyncio.CancelledError) for error in errors) > 10
        async with asyncio.timeout(10):
            while await asyncio.to_thread(connections, url) != (0, 0):
                pass

    asyncio.run(run())
