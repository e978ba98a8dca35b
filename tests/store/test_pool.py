"""Which connection a transaction gets, and what becomes of it afterwards."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import traceback
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from memory_service.errors import DatabaseNotReady, Unavailable
from memory_service.store.db import Database, Session
from memory_service.store.migrate import head_revision
from memory_service.store.pool import PoolUsage
from memory_service.store.session import text
from tests.store.databases import with_database

PID = text("SELECT pg_backend_pid()")
SETTINGS = ("search_path", "timezone", "lock_timeout", "role", "application_name", "work_mem")


async def pid(db: Database) -> int:
    async with db.read_only(None) as session:
        return int(await session.scalar(PID))


async def pids(db: Database, count: int) -> list[int]:
    """Of connections that are out at the same time."""
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(db.read_only(None)) for _ in range(count)]
        return [int(await session.scalar(PID)) for session in sessions]


async def are_gone(url: str, pids: list[int]) -> None:
    """A server process ends a moment after its connection."""
    async with asyncio.timeout(10):
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
            gone = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (%s)"
            while await (await admin.execute(gone, [pids])).fetchone() != (0,):
                pass


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_the_one_that_came_back_last_goes_out_first(database_url: str) -> None:
    async def body(db: Database) -> None:
        first = await pid(db)
        assert [await pid(db) for _ in range(3)] == [first] * 3
        kept = await pids(db, 3)  # they come back in the opposite order
        assert kept[0] == first
        assert await pid(db) == kept[0]
        assert await pids(db, 3) == kept

    with_database(database_url, body, pool_size=3)


def test_no_more_than_its_size(database_url: str) -> None:
    async def body(db: Database) -> None:
        used = await asyncio.gather(*[pid(db) for _ in range(20)])
        assert len(set(used)) <= 2
        assert db.usage == PoolUsage(2, 0, 0)

    with_database(database_url, body, pool_size=2)


def test_usage(database_url: str, temporary_dir: Path) -> None:
    async def body(db: Database) -> None:
        assert db.usage == PoolUsage(2, 0, 0)
        async with db.transaction(None), db.read_only(None):
            assert db.usage == PoolUsage(2, 2, 0)
            waiting = [asyncio.create_task(pid(db)) for _ in range(3)]
            await asyncio.sleep(0)
            assert db.usage == PoolUsage(2, 2, 3)
            waiting[1].cancel()
            await asyncio.wait([waiting[1]])
            assert db.usage == PoolUsage(2, 2, 2)
        await asyncio.gather(waiting[0], waiting[2])
        assert db.usage == PoolUsage(2, 0, 0)

    async def away(db: Database) -> None:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await pid(db)
        assert db.usage == PoolUsage(2, 0, 0)

    with_database(database_url, body, pool_size=2)
    with_database(f"postgresql://u@/db?host={temporary_dir}", away, pool_size=2)


def test_one_that_is_still_in_a_transaction_is_closed(database_url: str) -> None:
    async def leave_it_open(db: Database) -> int:
        async with db.transaction(None) as session:
            await session.connection.execute("BEGIN")
            return session.connection.info.backend_pid

    async def body(db: Database) -> None:
        left = await leave_it_open(db)
        assert await pid(db) != left
        await are_gone(database_url, [left])

    with_database(database_url, body, pool_size=1)


@pytest.mark.parametrize("failure", [ZeroDivisionError, asyncio.CancelledError])
def test_one_whose_transaction_is_given_up_is_kept(database_url: str, failure: type[BaseException]) -> None:
    async def give_up(db: Database) -> None:
        async with db.transaction(None) as session:
            await session.scalar(PID)
            raise failure

    async def body(db: Database) -> None:
        kept = await pid(db)
        with pytest.raises(failure):
            await give_up(db)
        assert await pid(db) == kept

    with_database(database_url, body, pool_size=1)


def test_nobody_has_the_turn_of_one_that_is_still_being_undone(database_url: str) -> None:
    """Whoever undid it may be cancelled meanwhile."""

    async def hold(db: Database, held: asyncio.Event) -> None:
        async with db.transaction(None) as session:
            await session.scalar(PID)
            held.set()
            await asyncio.Event().wait()

    async def body(db: Database) -> None:
        kept = await pid(db)
        held = asyncio.Event()
        task = asyncio.create_task(hold(db, held))
        await held.wait()
        with stopped(kept):
            task.cancel()
            await asyncio.sleep(0)  # the rollback is under way, and has no answer
            task.cancel()
            await asyncio.wait([task])
            assert db.usage == PoolUsage(1, 1, 0)
            next_one = asyncio.create_task(pid(db))
            await asyncio.sleep(0)
            assert db.usage == PoolUsage(1, 1, 1)
        assert await next_one == kept

    with_database(database_url, body, pool_size=1)


def test_all_are_closed_with_it(database_url: str) -> None:
    async def body(db: Database) -> None:
        idle = await pids(db, 3)
        async with db.transaction(None) as session:
            out = int(await session.scalar(PID))
            await db.close()
            await are_gone(database_url, [one for one in idle if one != out])
            assert await session.scalar(PID) == out
        await are_gone(database_url, [out])

    with_database(database_url, body, pool_size=3)


def test_something_to_read_is_not_the_end(database_url: str) -> None:
    """Servers also tell idle connections of settings that change, and of notifications."""

    async def body(db: Database) -> None:
        async with db.transaction(None) as session:
            await session.connection.execute("LISTEN something")
            kept, socket = session.connection.info.backend_pid, session.connection.fileno()
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as other:
            await other.execute("NOTIFY something")
        assert await asyncio.to_thread(select.select, [socket], [], [], 10) == ([socket], [], [])
        assert await pid(db) == kept

    with_database(database_url, body, pool_size=1)


def test_check_is_not_deceived_by_connections_of_a_server_that_was_started_anew(database_url: str) -> None:
    async def body(db: Database) -> None:
        stale = await pids(db, 2)
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
            await admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s::int[]) AS pid", [stale])
        await db.check(head_revision())

    with_database(database_url, body, pool_size=2, role="memory_worker")


async def settings(session: Session) -> dict[str, str]:
    return {name: str(await session.scalar(text(f"SELECT current_setting('{name}')"))) for name in SETTINGS}


def test_what_a_url_says(database_url: str, temporary_dir: Path) -> None:
    """Of two hosts one is away; what we need ourselves wins over the URL."""
    password = "p@ss 'w\\rd:/%"
    given = {
        "host": [str(temporary_dir), str(make_url(database_url).query["host"])],
        "options": "-c work_mem=5MB -c timezone=Asia/Seoul",
        "sslmode": "disable",
        "keepalives_idle": "77",
        "application_name": "theirs",
    }
    url = make_url(database_url).set(password=password, query=given).render_as_string(hide_password=False)

    async def body(db: Database) -> None:
        async with db.transaction(None) as session:
            assert await settings(session) == {
                "search_path": "memory,public",
                "timezone": "UTC",
                "lock_timeout": "30s",
                "role": "memory_app",
                "application_name": "memory-service",
                "work_mem": "5MB",
            }
            info = session.connection.info
            assert info.password == password
            assert info.get_parameters().items() >= {"keepalives_idle": "77", "sslmode": "disable"}.items()
            assert session.connection.autocommit

    with_database(url, body)


def test_a_password_is_in_no_error(temporary_dir: Path) -> None:
    async def ask(db: Database) -> None:
        async with db.transaction(None):
            raise AssertionError("there is no server")

    async def body(db: Database) -> None:
        with pytest.raises(Unavailable) as asking:
            await ask(db)
        with pytest.raises(DatabaseNotReady) as checking:
            await db.check(head_revision())
        for error in (asking.value, checking.value):
            assert "s3cret" not in "".join(traceback.format_exception(error))

    with_database(f"postgresql://u:s3cret@/db?host={temporary_dir}", body)
