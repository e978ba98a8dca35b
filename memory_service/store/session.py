"""One transaction: statements in, rows out.

A round trip costs more than most statements. What nobody waits for the answer of goes out with the next that somebody
does, or with the commit: so does the beginning of the transaction.

Parameters are written as SQLAlchemy's text() has them, `:name`; statements go to psycopg without it (see `driver`), which
takes a small part of the time.
"""

from __future__ import annotations

import asyncio
import re
from collections import namedtuple
from collections.abc import Callable, Mapping
from copy import copy
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
import sqlalchemy
from psycopg import adapters
from psycopg.types.array import ListBinaryDumper
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import TextClause

from memory_service.store.driver import Answer, Connection, Statement

#: Execution option: results come as Postgres holds them. A long `bytea` takes three times as long as text, in hexadecimal.
IN_BINARY = {"memory_in_binary": True}
_NOTES = "on_commit"
_named: Any = namedtuple  # what names there are no type checker knows
_Results = TypeVar("_Results")


# What is sent together is one transaction, of which these are local.
_NAME = "SELECT set_config('memory.project_id', %(project_id)s, true)"
_READ = f"{_NAME}, set_config('transaction_read_only', 'on', true)"
_BEGIN = Statement("BEGIN")
_COMMIT = Statement("COMMIT")


# As in SQLAlchemy's text(): no cast (`::`), and nothing behind a backslash.
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")


def unnested(arrays: Mapping[str, str]) -> str:
    """Parameters with the types of their elements, as rows. The first comes by a sub-select: seeing that there are few,
    Postgres would think it worthwhile to plan the statement each time, which takes longer than to execute it."""
    first, *others = [f"CAST(:{name} AS {type_}[])" for name, type_ in arrays.items()]
    return f"unnest({', '.join([f'(SELECT {first})', *others])})"


class InBinary(list[Any]):
    """A list that is sent as a binary array. As text, JSON is searched for what to quote, and `bytea` twice as long."""


adapters.register_dumper(InBinary, ListBinaryDumper)


class Rows(list[Any]):
    """Named tuples."""

    def first(self) -> Any:
        return self[0] if self else None

    def one(self) -> Any:
        """The only one. Raises ValueError where there is none, or another."""
        (row,) = self
        return row


#: A statement; to make one takes as long as to send it, and there are not many.
text = lru_cache(maxsize=1_000)(sqlalchemy.text)


#: A statement, and where its answer goes, if anywhere.
_Asked = tuple[Statement, asyncio.Future[Answer] | None]


class Session:
    """What the store's functions work in: one transaction of one project, which `info` names. One that only reads is a
    transaction for each round trip, which saves a trip for its end; what it sees changes with each statement anyway."""

    def __init__(self, connection: Connection, project_id: int | None, *, read_only: bool) -> None:
        self.info: dict[str, Any] = {"project_id": project_id}
        self.connection = connection
        self._read_only = read_only
        named = {"project_id": "" if project_id is None else str(project_id)}
        self._begin = [Statement(_READ, named)] if read_only else [_BEGIN, Statement(_NAME, named)]
        self._posted = [*self._begin]
        self._asked: list[_Asked] | None = None
        self._sent = asyncio.Event()
        self._is_committed = False

    async def post(self, statement: TextClause, parameters: Mapping[str, Any]) -> None:
        """Execute a statement whose answer is not needed. What it raises, the next one executed raises, or the commit."""
        posted = Statement(spelled(statement.text), parameters)
        self._posted.append(posted) if self._asked is None else self._asked.append((posted, None))

    async def sent(self) -> None:
        """In a function of `together`: until what all of them ask is on its way. What it does then, while Postgres works,
        takes no time of its own."""
        await self._sent.wait()

    async def together(self, reads: asyncio.Future[_Results], *, commit: bool = False) -> _Results:
        """Of functions in an `asyncio.gather`, what each posts and its first statement, in their order and in one round
        trip. Only one of them may have a second.

        Nothing is sent when one of them raises before it asks. On request the commit goes with them: then they have their
        answers when it is done, nothing may be executed any more, and what they raise from then on undoes nothing."""
        asked: list[_Asked] = []
        failure: Exception | None = None
        self._asked = asked
        self._sent.clear()
        try:
            await asyncio.sleep(0)  # until each has said what it asks
            self._asked = None
            await asyncio.sleep(0)  # until it is known of one that raised instead
            if reads.done() and (error := reads.exception()):
                raise error
            last = [_COMMIT] if commit else []
            self._sent.set()  # whoever waits for it is woken when this waits for the answers
            answers = await self._send(*(statement for statement, _ in asked), *last)
            self._is_committed = commit
        except asyncio.CancelledError:
            reads.cancel()
            await asyncio.gather(reads, return_exceptions=True)  # else asyncio logs that nobody heard of it
            raise
        except Exception as error:
            failure = error
            for _, future in asked:
                if future:
                    future.set_exception(_again(error))
        else:
            for (_, future), answer in zip(asked, answers, strict=False):  # of the commit nobody waits for an answer
                if future:
                    future.set_result(answer)
        finally:
            self._asked = None
            self._sent.set()
        results = await reads  # whoever asked may say more of a failure
        if failure:
            raise failure
        return results

    async def execute(
        self,
        statement: TextClause,
        parameters: Mapping[str, Any] | None = None,
        *,
        execution_options: Mapping[str, Any] | None = None,
    ) -> Rows:
        """Raises SQLAlchemy's errors."""
        answer = await self._ask(statement, parameters, binary=bool(execution_options))
        return Rows(map(_row(answer.names), answer.rows))

    async def rows(self, statement: TextClause, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """As `execute`, all rows as they come from the driver: for many of them."""
        return (await self._ask(statement, parameters)).rows

    async def scalar(
        self,
        statement: TextClause,
        parameters: Mapping[str, Any] | None = None,
        *,
        execution_options: Mapping[str, Any] | None = None,
    ) -> Any:
        """The first value of the first row; None when there is none."""
        rows = (await self._ask(statement, parameters, binary=bool(execution_options))).rows
        return rows[0][0] if rows else None

    async def flush(self) -> None:
        """Execute what is posted. Raises SQLAlchemy's errors."""
        if self._posted:
            await self._send()

    async def commit(self) -> None:
        """Of a transaction in which nothing was executed, nothing goes out. Raises SQLAlchemy's errors."""
        if self._posted != self._begin and not (self._is_committed and not self._posted):
            await self._send(_COMMIT)

    async def _ask(
        self, statement: TextClause, parameters: Mapping[str, Any] | None, *, binary: bool = False
    ) -> Answer:
        asked = Statement(spelled(statement.text), parameters or {}, binary)
        if self._asked is None:
            return (await self._send(asked))[-1]
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked.append((asked, answer))
        return await answer

    async def _send(self, *statements: Statement) -> list[Answer]:
        """Behind what was posted."""
        assert not self._is_committed
        posted, self._posted = self._posted, [*self._begin] if self._read_only else []
        answers = await send(self.connection, *posted, *statements)
        # Where a statement failed and somebody went on, COMMIT makes a ROLLBACK, and is no error.
        if statements[-1:] == (_COMMIT,) and answers[-1].result.command_status != b"COMMIT":
            raise RuntimeError("A statement of this transaction failed, so nothing of it was committed.")
        return answers[len(posted) :]


def on_commit(session: Session, note: Callable[[], None]) -> None:
    """Call `note` when what this transaction did is committed."""
    session.info.setdefault(_NOTES, []).append(note)


def noted(session: Session) -> list[Callable[[], None]]:
    """What is to be called when the transaction is committed."""
    return list(session.info.get(_NOTES, ()))


async def send(connection: Connection, *statements: Statement) -> list[Answer]:
    """Every statement goes through here, several in one round trip. Raises SQLAlchemy's errors: that of the first that
    failed, behind which nothing was executed."""
    try:
        return await connection.exchange(*statements)
    except psycopg.Error as error:
        raise wrapped(error, statements[-1].sql, is_lost=connection.closed) from error


def wrapped(error: psycopg.Error, sql: str | None = None, *, is_lost: bool = False) -> DBAPIError:
    """The error as SQLAlchemy spells it; without the parameters, which may be somebody's text."""
    instance = DBAPIError.instance(
        sql, None, error, psycopg.Error, hide_parameters=True, connection_invalidated=is_lost
    )
    assert isinstance(instance, DBAPIError)
    return instance


def _again(error: Exception) -> Exception:
    """The same error, to be raised in another place: that of one object would be the last in which it was raised."""
    other = copy(error)
    other.__cause__ = error.__cause__
    return other


@lru_cache(maxsize=1_000)
def spelled(statement: str) -> str:
    """`:name` as psycopg wants it."""
    return _PARAMETER.sub(r"%(\1)s", statement.replace("%", "%%")).replace("\\:", ":")


@lru_cache(maxsize=1_000)
def _row(names: tuple[bytes, ...]) -> Callable[[tuple[Any, ...]], Any]:
    made: Any = _named("Row", [name.decode() for name in names], rename=True)
    make: Callable[[tuple[Any, ...]], Any] = made._make
    return make
