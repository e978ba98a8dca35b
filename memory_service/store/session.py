"""One transaction: statements in, rows out.

A round trip costs more than most statements. What nobody waits for the answer of goes out with the next that somebody
does, or with the commit: so does the beginning of the transaction.

SQLAlchemy writes the pool, the migrations and the statements' parameters as `:name`; statements themselves go to psycopg
without it, which takes a third of the time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import psycopg
import sqlalchemy
from psycopg import AsyncConnection, AsyncCursor, adapters
from psycopg.types.array import ListBinaryDumper
from sqlalchemy.engine import IteratorResult, Result
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import TextClause

#: Execution option: results come as Postgres holds them. A long `bytea` takes three times as long as text, in hexadecimal.
IN_BINARY = {"memory_in_binary": True}
_NOTES = "on_commit"
#: In psycopg's spelling, and its parameters by name.
Statement = tuple[str, Mapping[str, Any] | None]
# As in SQLAlchemy's text(): no cast (`::`), and nothing behind a backslash.
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")


class InBinary(list[Any]):
    """A list that is sent as a binary array. As text, JSON is searched for what to quote, and `bytea` twice as long."""


adapters.register_dumper(InBinary, ListBinaryDumper)

#: A statement; to make one takes as long as to send it, and there are not many.
text = lru_cache(maxsize=1_000)(sqlalchemy.text)


class Session:
    """What the store's functions work in: one transaction of one project, which `info` names."""

    def __init__(self, connection: AsyncConnection[Any], project_id: int | None, begin: Sequence[str]) -> None:
        self.info: dict[str, Any] = {"project_id": project_id}
        self.connection = connection
        self._begin = begin
        self._posted: list[Statement] = [(sql, None) for sql in begin]

    async def post(self, statement: TextClause, parameters: Mapping[str, Any]) -> None:
        """Execute a statement whose answer is not needed. What it raises, the next one executed raises, or the commit."""
        self._posted.append((spelled(statement.text), parameters))

    async def execute(
        self,
        statement: TextClause,
        parameters: Mapping[str, Any] | None = None,
        *,
        execution_options: Mapping[str, Any] | None = None,
    ) -> Result[*tuple[Any, ...]]:
        """Raises SQLAlchemy's errors."""
        cursor = await self._send(spelled(statement.text), parameters or {}, binary=bool(execution_options))
        rows = cursor.pgresult
        if rows is None or rows.nfields == 0:
            return IteratorResult(_keys(()), iter(()))
        return IteratorResult(_keys(tuple(map(rows.fname, range(rows.nfields)))), iter(await cursor.fetchall()))

    async def rows(self, statement: TextClause, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """As `execute`, all rows as they come from the driver: for many of them."""
        return await (await self._send(spelled(statement.text), parameters)).fetchall()

    async def scalar(
        self,
        statement: TextClause,
        parameters: Mapping[str, Any] | None = None,
        *,
        execution_options: Mapping[str, Any] | None = None,
    ) -> Any:
        """The first value of the first row; None when there is none."""
        cursor = await self._send(spelled(statement.text), parameters or {}, binary=bool(execution_options))
        row = await cursor.fetchone()
        return None if row is None else row[0]

    async def flush(self) -> None:
        """Execute what is posted. Raises SQLAlchemy's errors."""
        if posted := self._take():
            await send(self.connection, *posted)

    async def commit(self) -> None:
        """Of a transaction in which nothing was executed, nothing goes out. Raises SQLAlchemy's errors."""
        if len(self._posted) == len(self._begin) and self._posted[0] == (self._begin[0], None):
            self._posted.clear()
        else:
            await self._send("COMMIT")

    async def _send(
        self, sql: str, parameters: Mapping[str, Any] | None = None, *, binary: bool = False
    ) -> AsyncCursor[Any]:
        return await send(self.connection, *self._take(), (sql, parameters), binary=binary)

    def _take(self) -> list[Statement]:
        posted, self._posted = self._posted, []
        return posted


def on_commit(session: Session, note: Callable[[], None]) -> None:
    """Call `note` when what this transaction did is committed."""
    session.info.setdefault(_NOTES, []).append(note)


def noted(session: Session) -> list[Callable[[], None]]:
    """What is to be called when the transaction is committed."""
    return list(session.info.get(_NOTES, ()))


async def send(connection: AsyncConnection[Any], *statements: Statement, binary: bool = False) -> AsyncCursor[Any]:
    """Every statement goes through here, several in one round trip. The answer is that of the last, in `binary` on request.
    Raises SQLAlchemy's errors, of whichever failed first."""
    sql, parameters = statements[-1]
    try:
        if len(statements) == 1:
            return await _execute(connection.cursor(binary=binary), sql, parameters)
        async with connection.pipeline() as pipeline:
            try:
                for posted in statements[:-1]:
                    await _execute(connection.cursor(), *posted)
                return await _execute(connection.cursor(binary=binary), sql, parameters)
            except BaseException:
                with suppress(psycopg.Error):  # that those behind it were not executed
                    await pipeline.sync()
                raise
    except psycopg.Error as error:
        raise wrapped(error, sql, is_lost=connection.closed) from error


async def _execute(cursor: AsyncCursor[Any], sql: str, parameters: Mapping[str, Any] | None) -> AsyncCursor[Any]:
    return await cursor.execute(sql, parameters, prepare=None if parameters else False)


def wrapped(error: psycopg.Error, sql: str | None = None, *, is_lost: bool = False) -> DBAPIError:
    """The error as SQLAlchemy spells it; without the parameters, which may be somebody's text."""
    instance = DBAPIError.instance(
        sql, None, error, psycopg.Error, hide_parameters=True, connection_invalidated=is_lost
    )
    assert isinstance(instance, DBAPIError)
    return instance


@lru_cache(maxsize=1_000)
def spelled(statement: str) -> str:
    """`:name` as psycopg wants it."""
    return _PARAMETER.sub(r"%(\1)s", statement.replace("%", "%%")).replace("\\:", ":")


@lru_cache(maxsize=1_000)
def _keys(names: tuple[bytes, ...]) -> SimpleResultMetaData:
    return SimpleResultMetaData([name.decode() for name in names])
