"""Connections that are kept open between transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from memory_service.errors import Unavailable
from memory_service.store.driver import Connection
from memory_service.store.session import wrapped


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """Connections at most, those a transaction has, and transactions that wait for one."""

    size: int
    in_use: int
    waiting: int


class Pool:
    """At most `size` connections, opened when they are needed; the one that came back last goes out first."""

    def __init__(self, arguments: Mapping[str, Any], *, size: int, timeout_seconds: float) -> None:
        self._arguments = arguments
        self._size = size
        self._timeout_seconds = timeout_seconds
        self._turns = asyncio.Semaphore(size)  # each is for a connection that is out, or being opened
        self._idle: list[Connection] = []
        self._is_closed = False
        self._wanted = 0  # connections that are out or being opened, and those that are waited for

    @property
    def usage(self) -> PoolUsage:
        return PoolUsage(self._size, min(self._wanted, self._size), max(0, self._wanted - self._size))

    def lent(self) -> _Lent:
        """A connection for as long as the context lasts. Raises Unavailable when all stay out for too long, SQLAlchemy's
        error when none can be opened."""
        return _Lent(self)

    async def take(self) -> Connection:
        self._wanted += 1
        try:
            await self._turn()
        except BaseException:
            self._wanted -= 1
            raise
        try:
            return self._kept() or await _opened(self._arguments)
        except BaseException:
            self._end_turn()
            raise

    def give_back(self, connection: Connection) -> None:
        """It is closed where it may not be as good as new."""
        if self._is_closed or connection.pgconn.transaction_status != TransactionStatus.IDLE:
            connection.pgconn.finish()
        else:
            self._idle.append(connection)
        self._end_turn()

    async def undo(self, connection: Connection) -> None:
        """Roll back what a connection was about, and give it back; also when whoever waits for it is cancelled."""
        await asyncio.shield(self._undo(connection))

    def close(self) -> None:
        """Connections that are out are closed when they come back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().pgconn.finish()

    async def _turn(self) -> None:
        if not self._turns.locked():
            await self._turns.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._turns.acquire()
        except TimeoutError as error:
            raise Unavailable("All database connections are busy; try again.") from error

    async def _undo(self, connection: Connection) -> None:
        try:
            with suppress(psycopg.Error):
                await connection.rollback()
        finally:
            self.give_back(connection)

    def _end_turn(self) -> None:
        self._turns.release()
        self._wanted -= 1

    def _kept(self) -> Connection | None:
        """A server that went away has closed its connections, however many there are."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_over():
                return connection
            connection.pgconn.finish()
        return None


class _Lent:
    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.take()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._pool.give_back(self._connection)
        else:
            await self._pool.undo(self._connection)


async def _opened(arguments: Mapping[str, Any]) -> Connection:
    """A new connection. Cancelled meanwhile, it is closed as soon as it is there; psycopg would leave it open until it is
    collected, beyond what the pool counts."""
    opening = asyncio.create_task(Connection.connect(**arguments))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise
    except psycopg.Error as error:
        raise wrapped(error) from error


def _close_unwanted(opening: asyncio.Task[Connection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().pgconn.finish()
