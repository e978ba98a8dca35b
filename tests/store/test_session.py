"""Statements that go out together."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy.exc import DBAPIError, IntegrityError

from memory_service.store.db import Database, Session
from memory_service.store.session import text

NUMBER = text("SELECT CAST(:number AS int)")
NOTE = text("INSERT INTO notes VALUES (:number)")
NOTES = text("SELECT number FROM notes ORDER BY number")


@pytest.fixture
def within(database_url: str) -> Callable[[Callable[[Database], Coroutine[Any, Any, None]]], None]:
    """Run with a database of one connection, on which there is a table of its own."""

    def run(body: Callable[[Database], Coroutine[Any, Any, None]]) -> None:
        async def prepared() -> None:
            db = Database(database_url, pool_size=1, role="memory_worker")
            try:
                async with db.transaction(None) as session:
                    await session.execute(text("CREATE TEMPORARY TABLE notes (number int PRIMARY KEY)"))
                await body(db)
            finally:
                await db.close()

        asyncio.run(prepared())

    return run


async def notes(db: Database) -> list[int]:
    async with db.read_only(None) as session:
        return [number for (number,) in await session.rows(NOTES, {})]


async def fail(session: Session) -> None:
    await session.post(NUMBER, {"number": "x"})


async def number(session: Session, value: object) -> Any:
    return await session.scalar(NUMBER, {"number": value})


Within = Callable[[Callable[[Database], Coroutine[Any, Any, None]]], None]


def test_posted_statements_come_before_the_next_that_is_executed(within: Within) -> None:
    async def body(db: Database) -> None:
        async with db.transaction(None) as session:
            await session.post(NOTE, {"number": 1})
            await session.post(NOTE, {"number": 2})
            assert await session.rows(NOTES, {}) == [(1,), (2,)]
            await session.post(NOTE, {"number": 3})
        assert await notes(db) == [1, 2, 3]

    within(body)


def test_what_a_posted_statement_raises_keeps_the_transaction_from_being_committed(within: Within) -> None:
    async def post_twice(db: Database) -> None:
        async with db.transaction(None) as session:
            await session.post(NOTE, {"number": 1})
            await session.post(NOTE, {"number": 1})
            await session.post(NOTE, {"number": 2})

    async def post_and_execute(db: Database) -> None:
        async with db.transaction(None) as session:
            await session.post(NOTE, {"number": 1})
            await session.post(NOTE, {"number": 1})
            await session.execute(NOTES)

    async def body(db: Database) -> None:
        for fails in (post_twice, post_and_execute):
            with pytest.raises(IntegrityError):
                await fails(db)
            assert await notes(db) == []

    within(body)


def test_a_transaction_that_is_given_up_leaves_nothing_that_was_posted(within: Within) -> None:
    async def give_up(db: Database) -> None:
        async with db.transaction(None) as session:
            await session.post(NOTE, {"number": 1})
            raise ZeroDivisionError

    async def body(db: Database) -> None:
        with pytest.raises(ZeroDivisionError):
            await give_up(db)
        assert await notes(db) == []

    within(body)


def test_reads_together_in_their_order(within: Within) -> None:
    async def silent() -> str:
        return "asks nothing"

    async def body(db: Database) -> None:
        async with db.transaction(None) as session:
            await session.post(NOTE, {"number": 7})
            reads = asyncio.gather(number(session, 1), session.rows(NOTES, {}), silent(), number(session, 2))
            assert await session.together(reads) == [1, [(7,)], "asks nothing", 2]
            assert await number(session, 3) == 3

    within(body)


def test_posted_in_between_and_committed_with_them(within: Within) -> None:
    async def note_and_read(session: Session, value: int) -> list[int]:
        await session.post(NOTE, {"number": value})
        return [found for (found,) in await session.rows(NOTES, {})]

    async def body(db: Database) -> None:
        async with db.transaction(None) as session:
            await session.post(NOTE, {"number": 1})
            reads = asyncio.gather(session.rows(NOTES, {}), note_and_read(session, 2), note_and_read(session, 3))
            assert await session.together(reads, commit=True) == [[(1,)], [1, 2], [1, 2, 3]]
            assert session.connection.info.transaction_status == TransactionStatus.IDLE
        assert await notes(db) == [1, 2, 3]

    within(body)


@pytest.mark.parametrize("late", ["execute", "post"])
def test_nothing_comes_behind_the_commit(within: Within, late: str) -> None:
    async def too_late(db: Database) -> None:
        async with db.transaction(None) as session:
            await session.together(asyncio.gather(number(session, 1)), commit=True)
            await getattr(session, late)(NOTE, {"number": 1})

    async def body(db: Database) -> None:
        with pytest.raises(AssertionError):
            await too_late(db)
        assert await notes(db) == []

    within(body)


@pytest.mark.parametrize("commit", [False, True])
def test_what_is_only_posted_together_fails_as_well(within: Within, commit: bool) -> None:
    async def post_both(db: Database) -> None:
        async with db.transaction(None) as session:
            noting = session.post(NOTE, {"number": 1})
            await session.together(asyncio.gather(noting, fail(session)), commit=commit)

    async def body(db: Database) -> None:
        with pytest.raises(DBAPIError, match="invalid input syntax"):
            await post_both(db)
        assert await notes(db) == []

    within(body)


def test_what_fails_before_the_commit_keeps_all_from_being_committed(within: Within) -> None:
    async def note_twice(db: Database) -> None:
        async with db.transaction(None) as session:
            both = asyncio.gather(session.execute(NOTE, {"number": 1}), session.execute(NOTE, {"number": 1}))
            await session.together(both, commit=True)

    async def body(db: Database) -> None:
        with pytest.raises(IntegrityError):
            await note_twice(db)
        assert await notes(db) == []

    within(body)


@pytest.mark.parametrize("together", [False, True])
def test_who_goes_on_behind_an_error_is_told_that_nothing_was_committed(within: Within, together: bool) -> None:
    async def go_on(db: Database) -> None:
        async with db.transaction(None) as session:
            await session.execute(NOTE, {"number": 1})
            with suppress(DBAPIError):
                await number(session, "x")
            if together:
                await session.together(asyncio.gather(), commit=True)

    async def body(db: Database) -> None:
        with pytest.raises(RuntimeError, match="nothing of it was committed"):
            await go_on(db)
        assert await notes(db) == []

    within(body)


def test_who_raises_before_it_asks_keeps_all_from_being_sent(within: Within) -> None:
    async def refuse() -> None:
        raise ZeroDivisionError

    async def body(db: Database) -> None:
        async with db.transaction(None) as session:
            noting = session.execute(NOTE, {"number": 1}), refuse(), session.post(NOTE, {"number": 2})
            with pytest.raises(ZeroDivisionError):
                await session.together(asyncio.gather(*noting), commit=True)
            await session.post(NOTE, {"number": 3})
        assert await notes(db) == [3]

    within(body)


def test_what_is_done_while_postgres_works(within: Within) -> None:
    done: list[str] = []

    async def ask(session: Session) -> None:
        await session.scalar(text("SELECT pg_sleep(0.2)"))
        done.append("answered")

    async def meanwhile(session: Session) -> None:
        await session.sent()
        assert session.connection.pgconn.transaction_status == TransactionStatus.ACTIVE
        done.append("something else")

    async def refuse() -> None:
        raise ZeroDivisionError

    async def body(db: Database) -> None:
        async with db.read_only(None) as session:
            for _ in range(2):
                await session.together(asyncio.gather(meanwhile(session), ask(session), meanwhile(session)))
        assert done == ["something else", "something else", "answered"] * 2
        async with db.read_only(None) as session:
            waiting = asyncio.ensure_future(session.sent())
            with pytest.raises(ZeroDivisionError):
                await session.together(asyncio.gather(waiting, refuse()))
            await waiting  # nobody waits for what is never sent

    within(body)


def test_the_error_of_one_of_them(within: Within) -> None:
    async def one_is_wrong(db: Database) -> None:
        async with db.transaction(None) as session:
            await session.post(NOTE, {"number": 1})
            await session.together(asyncio.gather(number(session, 1), number(session, "x"), number(session, 2)))

    async def body(db: Database) -> None:
        with pytest.raises(DBAPIError, match="invalid input syntax"):
            await one_is_wrong(db)
        assert await notes(db) == []

    within(body)


def test_cancelled_in_the_middle(within: Within) -> None:
    """The connection is given back as good as new, and nothing is left of what was under way."""

    async def slow(session: Session) -> None:
        await session.execute(text("SELECT pg_sleep(60)"))

    async def under_way(db: Database, asked: asyncio.Event) -> None:
        async with db.transaction(None) as session:
            await session.post(NOTE, {"number": 1})
            reads = asyncio.gather(number(session, 1), slow(session))
            asked.set()
            await session.together(reads)

    async def body(db: Database) -> None:
        unheard: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        asked = asyncio.Event()
        task = asyncio.create_task(under_way(db, asked))
        await asked.wait()
        async with asyncio.timeout(30):
            while not task.done():
                task.cancel()
                await asyncio.sleep(0.05)
        assert task.cancelled()
        assert await notes(db) == []
        del task
        gc.collect()
        assert unheard == []

    within(body)
