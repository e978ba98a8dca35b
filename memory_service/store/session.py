"""One transaction: statements in, rows out.

SQLAlchemy writes the pool, the migrations and the statements' parameters as `:name`; statements themselves go to psycopg
without it, which takes a third of the time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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
# As in SQLAlchemy's text(): no cast (`::`), and nothing behind a backslash.
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")


class InBinary(list[Any]):
    """A list that is sent as a binary array. As text, JSON is searched for what to quote, and `bytea` twice as long."""


adapters.register_dumper(InBinary, ListBinaryDumper)

#: A statement; to make one takes as long as to send it, and there are not many.
text = lru_cache(maxsize=1_000)(sqlalchemy.text)


class Session:
    """What the store's functions work in: one transaction of one project, which `info` names."""

    def __init__(self, connection: AsyncConnection[Any], project_id: int | None) -> None:
        self.info: dict[str, Any] = {"project_id": project_id}
        self.connection = connection

    async def execute(
        self,
        statement: TextClause,
        parameters: Mapping[str, Any] | None = None,
        *,
        execution_options: Mapping[str, Any] | None = None,
    ) -> Result[*tuple[Any, ...]]:
        """Raises SQLAlchemy's errors."""
        cursor = await send(self.connection, _spelled(statement.text), parameters or {}, binary=bool(execution_options))
        rows = cursor.pgresult
        if rows is None or rows.nfields == 0:
            return IteratorResult(_keys(()), iter(()))
        return IteratorResult(_keys(tuple(map(rows.fname, range(rows.nfields)))), iter(await cursor.fetchall()))

    async def rows(self, statement: TextClause, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """As `execute`, all rows as they come from the driver: for many of them."""
        return await (await send(self.connection, _spelled(statement.text), parameters)).fetchall()

    async def scalar(
        self,
        statement: TextClause,
        parameters: Mapping[str, Any] | None = None,
        *,
        execution_options: Mapping[str, Any] | None = None,
    ) -> Any:
        """The first value of the first row; None when there is none."""
        cursor = await send(self.connection, _spelled(statement.text), parameters or {}, binary=bool(execution_options))
        row = await cursor.fetchone()
        return None if row is None else row[0]


def on_commit(session: Session, note: Callable[[], None]) -> None:
    """Call `note` when what this transaction did is committed."""
    session.info.setdefault(_NOTES, []).append(note)


def noted(session: Session) -> list[Callable[[], None]]:
    """What is to be called when the transaction is committed."""
    return list(session.info.get(_NOTES, ()))


async def send(
    connection: AsyncConnection[Any],
    sql: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    binary: bool = False,
) -> AsyncCursor[Any]:
    """Every statement goes through here. Without `parameters` it may be several. Raises SQLAlchemy's errors."""
    cursor = connection.cursor(binary=binary)
    try:
        return await cursor.execute(sql, parameters, prepare=None if parameters else False)
    except psycopg.Error as error:
        raise wrapped(error, sql, is_lost=connection.closed) from error


def wrapped(error: psycopg.Error, sql: str | None = None, *, is_lost: bool = False) -> DBAPIError:
    """The error as SQLAlchemy spells it; without the parameters, which may be somebody's text."""
    instance = DBAPIError.instance(
        sql, None, error, psycopg.Error, hide_parameters=True, connection_invalidated=is_lost
    )
    assert isinstance(instance, DBAPIError)
    return instance


@lru_cache(maxsize=1_000)
def _spelled(statement: str) -> str:
    """`:name` as psycopg wants it."""
    return _PARAMETER.sub(r"%(\1)s", statement.replace("%", "%%")).replace("\\:", ":")


@lru_cache(maxsize=1_000)
def _keys(names: tuple[bytes, ...]) -> SimpleResultMetaData:
    return SimpleResultMetaData([name.decode() for name in names])
