"""Round trips to Postgres: what is prepared for them, and what is left of one that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from memory_service.store import driver
from memory_service.store.driver import Connection, Statement
from memory_service.store.session import InBinary

NUMBER = Statement("SELECT CAST(%(number)s AS int)", {"number": "7"})
WRONG = Statement("SELECT CAST(%(number)s AS int)", {"number": "seven"})
PREPARED = b"SELECT statement FROM pg_prepared_statements WHERE from_sql = false"


@pytest.fixture
def connected(database_url: str) -> Callable[[Callable[[Connection], Awaitable[None]]], None]:
    async def run(use: Callable[[Connection], Awaitable[None]]) -> None:
        connection = await Connection.connect(database_url, autocommit=True)
        try:
            await use(connection)
        finally:
            await connection.close()

    return lambda use: asyncio.run(run(use))


Connected = Callable[[Callable[[Connection], Awaitable[None]]], None]


async def rows(connection: Connection, *statements: Statement) -> list[list[tuple[Any, ...]]]:
    return [answer.rows for answer in await connection.exchange(*statements)]


async def prepared(connection: Connection) -> list[str]:
    """As the server has it."""
    return [sql for (sql,) in await (await connection.execute(PREPARED)).fetchall()]


def test_prepared_once_and_for_all(connected: Connected) -> None:
    async def use(connection: Connection) -> None:
        assert await rows(connection, Statement("BEGIN"), NUMBER, NUMBER) == [[], [(7,)], [(7,)]]
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            await connection.exchange(NUMBER, WRONG)
        await connection.rollback()
        assert await rows(connection, NUMBER) == [[(7,)]]
        assert sorted(await prepared(connection)) == ["BEGIN", "SELECT CAST($1 AS int)"]

    connected(use)


def test_what_is_behind_a_failed_statement_is_neither_executed_nor_prepared(connected: Connected) -> None:
    behind = Statement("SELECT CAST(%(number)s AS int) + 100 %% 7", {"number": "1"})

    async def use(connection: Connection) -> None:
        for failing in (WRONG, Statement("SELECT wrong")):
            with pytest.raises((psycopg.errors.InvalidTextRepresentation, psycopg.errors.UndefinedColumn)):
                await connection.exchange(Statement("BEGIN"), failing, behind)
            await connection.rollback()
        assert sorted(await prepared(connection)) == ["BEGIN", "SELECT CAST($1 AS int)"]
        assert await rows(connection, behind) == [[(3,)]]

    connected(use)


def test_more_statements_than_are_prepared(connected: Connected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "MAX_PREPARED", 3)

    async def use(connection: Connection) -> None:
        for _ in range(2):
            for number in range(5):
                asked = Statement(f"SELECT {number}, %(word)s", {"word": "one"})
                assert await rows(connection, asked) == [[(number, "one")]]
        assert len(await prepared(connection)) == 3

    connected(use)


def test_a_table_that_has_changed_since(connected: Connected) -> None:
    """One request fails, and the next ones do not."""
    everything = Statement("SELECT * FROM things")

    async def use(connection: Connection) -> None:
        await connection.execute("CREATE TEMPORARY TABLE things AS SELECT 1 AS number")
        assert await rows(connection, everything) == [[(1,)]]
        await connection.execute("ALTER TABLE things ADD COLUMN name text")
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            await connection.exchange(everything)
        assert await rows(connection, everything) == [[(1, None)]]

    connected(use)


def test_statements_the_server_has_forgotten(connected: Connected) -> None:
    async def use(connection: Connection) -> None:
        await connection.exchange(NUMBER)
        await connection.execute("DEALLOCATE ALL")
        with pytest.raises(psycopg.errors.InvalidSqlStatementName):
            await connection.exchange(NUMBER)
        assert await rows(connection, NUMBER) == [[(7,)]]

    connected(use)


def test_what_psycopg_executes_itself_makes_the_server_forget_nothing(connected: Connected) -> None:
    """It does so with all that is prepared, when it rolls back what it has prepared a statement for."""

    async def use(connection: Connection) -> None:
        await connection.exchange(NUMBER)
        for _ in range(10):
            await connection.execute("SELECT %s", ["a value"])
        await connection.exchange(Statement("BEGIN"))
        await connection.rollback()
        assert await rows(connection, NUMBER) == [[(7,)]]

    connected(use)


def test_much_in_both_directions(connected: Connected) -> None:
    """More than the buffers hold, while nobody reads."""
    texts = [chr(97 + place) * 2_000_000 for place in range(10)]

    async def use(connection: Connection) -> None:
        echoes = (Statement("SELECT CAST(%(text)s AS text)", {"text": text}) for text in texts)
        async with asyncio.timeout(60):
            assert await rows(connection, *echoes) == [[(text,)] for text in texts]

    connected(use)


def test_values_that_cannot_be_sent(connected: Connected) -> None:
    """Nothing of the trip goes out."""

    async def use(connection: Connection) -> None:
        with pytest.raises(psycopg.ProgrammingError):
            await connection.exchange(Statement("BEGIN"), NUMBER._replace(parameters={"number": object()}))
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert await rows(connection, NUMBER) == [[(7,)]]

    connected(use)


def test_how_a_value_is_spelled_does_not_depend_on_those_before(connected: Connected) -> None:
    moment = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)
    values: list[tuple[str, Any]] = [
        *[("bigint", number) for number in (1, 40_000, 3_000_000_000, -1, None)],
        *[("bigint[]", numbers) for numbers in ([], [1], [3_000_000_000, None], [], [1, 40_000])],
        *[("text[]", words) for words in ([], ["a", "NULL", '"'], [None], ["b"])],
        *[("bigint[]", InBinary(numbers)) for numbers in ([], [1], [3_000_000_000, 1], [])],
        *[("text[]", InBinary(words)) for words in ([], ["a", ""], ["1"])],
        *[("bytea", content) for content in (b"", b"\x00\xff")],
        *[("jsonb", Jsonb(content)) for content in ({"a": [1]}, [])],
        *[("timestamptz", moment), ("boolean", True), ("float8", 0.1), ("text", "'1'")],
    ]

    async def use(connection: Connection) -> None:
        asked = [(Statement(f"SELECT CAST(%(value)s AS {type_})", {"value": value}), value) for type_, value in values]
        for question, value in [*asked, *reversed(asked), *asked]:
            expected = value.obj if isinstance(value, Jsonb) else value
            for binary in (False, True):
                assert await rows(connection, question._replace(binary=binary)) == [[(expected,)]]

    connected(use)


def test_in_binary(connected: Connected) -> None:
    async def use(connection: Connection) -> None:
        asked = Statement("SELECT CAST(%(long)s AS bytea) AS long, 'x' AS short", {"long": b"\x00\xff"})
        for binary in (False, True):
            (answer,) = await connection.exchange(asked._replace(binary=binary))
            assert answer.rows == [(b"\x00\xff", "x")]
            assert answer.names == (b"long", b"short")
            assert answer.result.fformat(0) == binary

    connected(use)


def test_a_connection_that_is_lost_in_the_middle(connected: Connected, database_url: str) -> None:
    async def use(connection: Connection) -> None:
        end = Statement("SELECT pg_terminate_backend(pg_backend_pid())")
        with pytest.raises(psycopg.OperationalError):
            await connection.exchange(NUMBER, end, NUMBER)
        assert connection.closed
        with pytest.raises(psycopg.OperationalError):
            await connection.exchange(NUMBER)

    connected(use)
