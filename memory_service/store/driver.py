"""Statements to Postgres and their rows, several in one round trip, through psycopg's libpq.

psycopg's own pipeline mode writes each statement to the socket by itself, which wakes Postgres for each, and makes a cursor
for each: four times the CPU time here, and twice in Postgres. Connecting, waiting, cancelling, errors, and how values are
spelled are psycopg's.
"""

from __future__ import annotations

import re
import select
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple, Self

import psycopg
from psycopg import AsyncConnection, abc, adapt
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import PyFormat
from psycopg.errors import error_from_result
from psycopg.generators import fetch_many
from psycopg.generators import send as flush
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult

#: On one connection; two or three times what a service asks in its life. Each takes some of the server's memory.
MAX_PREPARED = 500
# Prepared before a table changed, or no longer known to the server.
OUTDATED = ("0A000", "26000")
_PARAMETER = re.compile(r"%\((\w+)\)s|%%")


class Statement(NamedTuple):
    """In psycopg's spelling, with named parameters; rows come `binary` on request."""

    sql: str
    parameters: Mapping[str, Any] = {}
    binary: bool = False


class Answer(NamedTuple):
    rows: list[tuple[Any, ...]]
    result: PGresult

    @property
    def names(self) -> tuple[bytes | None, ...]:
        return tuple(map(self.result.fname, range(self.result.nfields)))


# What is prepared: a statement, and its parameters' types by number.
_Key = tuple[bytes, tuple[int, ...]]


class _Asked(NamedTuple):
    key: _Key
    values: Sequence[Buffer | None]
    formats: Sequence[Format]
    answer_format: Format


class Connection(AsyncConnection[Any]):
    """Prepares a statement when it first comes, which takes no round trip of its own, and keeps it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._known: dict[_Key, bytes] = {}
        self._numbers = count(1)  # never the same name again: what a trip that broke off has prepared is not known
        self._values = adapt.Transformer(self)  # knows how values of each type are spelled
        self._arrivals = select.poll()
        self._arrivals.register(self.pgconn.socket, select.POLLIN)

    @classmethod
    async def connect(cls, *arguments: Any, **options: Any) -> Self:
        # What psycopg prepares itself, it forgets at the next rollback, by letting the server forget all, ours too.
        return await super().connect(*arguments, **{**options, "prepare_threshold": None})

    def is_over(self) -> bool:
        """Whether it was closed at the other end while idle: then there is something to read, to no question of ours."""
        try:
            while self._arrivals.poll(0):
                self.pgconn.consume_input()  # a last word of the server; the end raises
        except psycopg.OperationalError:
            return True
        return False

    async def exchange(self, *statements: Statement) -> list[Answer]:
        """One round trip. Raises psycopg's error of the first that failed, behind which nothing was executed. Cancelled, it
        may have closed the connection."""
        asked = [_asked(statement, self._values) for statement in statements]
        async with self.lock:
            self.pgconn.enter_pipeline_mode()
            try:
                results = await self.wait(self._exchange(asked))
            finally:
                self._leave_pipeline_mode()
        try:
            return [_answer(result, self._values) for result in results]
        finally:
            self._values.set_pgresult(None)  # it would be kept until the next

    def _exchange(self, asked: Sequence[_Asked]) -> PQGen[list[PGresult]]:
        expected = list(self._put(asked))
        self.pgconn.pipeline_sync()
        yield from flush(self.pgconn)
        answers: list[PGresult] = []
        failed: PGresult | None = None
        for prepared in expected:
            results = yield from fetch_many(self.pgconn)
            if not results:
                break
            if results[0].status in (ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED):
                failed = failed or results[0]
            elif prepared:
                self._known.update([prepared])
            else:
                answers.append(results[0])
        yield from fetch_many(self.pgconn)  # that this is all
        if failed:
            raise self._error(failed)
        if len(answers) < len(asked):
            raise psycopg.OperationalError("the connection was lost")
        return answers

    def _put(self, asked: Sequence[_Asked]) -> Iterator[tuple[_Key, bytes] | None]:
        """For each answer that will come: what is prepared then, if it is not the answer to a statement."""
        new: dict[_Key, bytes] = {}
        for key, values, formats, answer_format in asked:
            name = self._known.get(key) or new.get(key)
            if name is None and len(self._known) < MAX_PREPARED:
                name = new[key] = b"memory_%d" % next(self._numbers)
                self.pgconn.send_prepare(name, key[0], param_types=key[1])
                yield key, name
            if name is None:
                self.pgconn.send_query_params(key[0], values, key[1], formats, answer_format)
            else:
                self.pgconn.send_query_prepared(name, values, formats, answer_format)
            yield None

    def _error(self, failed: PGresult) -> psycopg.Error:
        error = error_from_result(failed, encoding=self.info.encoding)
        if error.sqlstate in OUTDATED:
            self._known.clear()
        return error

    def _leave_pipeline_mode(self) -> None:
        if self.pgconn.status == ConnStatus.OK:
            try:
                self.pgconn.exit_pipeline_mode()
            except psycopg.OperationalError:  # cancelled, and not all answers came
                self.pgconn.finish()


def _asked(statement: Statement, values: abc.Transformer) -> _Asked:
    sql, names, formats = _numbered(statement.sql)
    dumped = values.dump_sequence([statement.parameters[name] for name in names], formats)
    key = sql, values.types or ()
    return _Asked(key, dumped, values.formats or (), Format.BINARY if statement.binary else Format.TEXT)


def _answer(result: PGresult, values: abc.Transformer) -> Answer:
    values.set_pgresult(result)
    return Answer(values.load_rows(0, result.ntuples, tuple), result)


@lru_cache(maxsize=1_000)
def _numbered(sql: str) -> tuple[bytes, tuple[str, ...], list[PyFormat]]:
    """With `$1` instead of `%(name)s`, the names in this order, and as many times no wish for a format."""
    places: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${places.setdefault(match[1], len(places) + 1)}" if match[1] else "%"

    return _PARAMETER.sub(number, sql).encode(), tuple(places), [PyFormat.AUTO] * len(places)
