"""Connections and transactions.

Every connection acts as a role that owns nothing and bypasses nothing: `memory_app` sees the rows of the project that the
transaction names, and none when it names no project; `memory_worker` (background loops, the command line) sees all. So a
query that forgets its project finds nothing instead of everything.

psycopg is in autocommit mode and we begin transactions ourselves, together with their first statement; what is one
statement, such as looking up a key, needs no transaction at all.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util.concurrency import greenlet_spawn

from memory_service.errors import DatabaseNotReady, InvalidInput, ThreadMoved, Unavailable
from memory_service.store.driver import OUTDATED, Connection, Statement
from memory_service.store.session import IN_BINARY, InBinary, Session, noted, on_commit, send, wrapped

__all__ = ["IN_BINARY", "ROLES", "SCHEMA", "Database", "InBinary", "PoolUsage", "Role", "Session", "on_commit"]

Role = Literal["memory_app", "memory_worker"]

SCHEMA = "memory"
ROLES: tuple[Role, ...] = ("memory_app", "memory_worker")
_CONNECT_TIMEOUT_SECONDS = 10
_POOL_TIMEOUT_SECONDS = 30.0
# Classes and codes of SQLSTATE that say nothing about the request: connection, operator, resources.
_AWAY = ("08", "57", "53")
# Lock timeout, deadlock, serialization failure: rolled back, and likely to work the next time.
_CROWDED = ("55P03", "40P01", "40001")
# What a server says that will serve soon. (An error at connecting has no SQLSTATE.)
_NOT_YET = ("starting up", "shutting down", "in recovery mode", "not accepting connections", "too many clients")
_MOVED = "MM001"  # raised by expect_thread()
_NOT_TEXT = ("22021", "22P05")  # what the encoding cannot hold


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """Connections at most, those a transaction has, and transactions that wait for one."""

    size: int
    in_use: int
    waiting: int


class Database:
    """A pool of connections acting as one role.

    The role is taken on with SET ROLE by the role of the URL, or, with `login`, is the one that logs in: then not even
    SET ROLE leads back to the owner.
    """

    def __init__(
        self,
        url: str,
        *,
        role: Role = "memory_app",
        login: bool = False,
        pool_size: int = 10,
        pool_timeout_seconds: float = _POOL_TIMEOUT_SECONDS,
    ) -> None:
        self._pool_size = pool_size
        self._pool_timeout_seconds = pool_timeout_seconds
        self._sessions = 0  # each has a connection, or waits for one
        # Waited for here, not in the pool: there nobody is woken when a connection that others wait for cannot be made.
        self._turns = asyncio.Semaphore(pool_size)
        self._engine = create_async_engine(
            sqlalchemy_url(url, login=role if login else None),
            isolation_level="AUTOCOMMIT",
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout_seconds,
            pool_pre_ping=False,
            pool_reset_on_return=None,  # a connection comes back with no transaction on it
            connect_args={
                "async_creator_fn": _connect,
                "options": connection_options(url, None if login else role),
                "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
                "application_name": "memory-service",
            },
        )

    @property
    def usage(self) -> PoolUsage:
        size = self._pool_size
        return PoolUsage(size, min(self._sessions, size), max(0, self._sessions - size))

    @asynccontextmanager
    async def transaction(self, project_id: int | None) -> AsyncIterator[Session]:
        """One transaction for one project, committed before this returns. None: no project's rows are visible.

        Raises Unavailable when the database cannot be reached; then nothing was committed, unless the connection broke
        during the commit itself.
        """
        async with self._session(project_id, read_only=False) as session:
            yield session

    @asynccontextmanager
    async def read_only(self, project_id: int | None) -> AsyncIterator[Session]:
        """A session that Postgres refuses to let write."""
        async with self._session(project_id, read_only=True) as session:
            yield session

    async def scalar(self, sql: str, parameters: Mapping[str, Any]) -> Any:
        """As `rows`: the first value of the first."""
        found = await self.rows(sql, parameters)
        return found[0][0] if found else None

    async def rows(self, sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows of a statement, in psycopg's spelling, that is a transaction by itself, in no project: it is done, and
        holds no lock, even if this process freezes now. It must be safe to repeat."""
        async with self._turn():
            pooled = await self._connection()
            try:
                (answer,) = await send(_driver(pooled), Statement(sql, parameters))
            except BaseException:
                await asyncio.shield(_abandon(pooled))
                raise
            pooled.close()
            return answer.rows

    @asynccontextmanager
    async def _session(self, project_id: int | None, *, read_only: bool) -> AsyncIterator[Session]:
        async with self._turn():
            pooled = await self._connection()
            session = Session(_driver(pooled), project_id, read_only=read_only)
            try:
                yield session
                await session.commit()
            except BaseException:
                await asyncio.shield(_abandon(pooled))
                raise
            pooled.close()
            for note in noted(session):
                note()

    async def _connection(self) -> PoolProxiedConnection:
        """From the pool. A server that went away has closed its connections, however many there are."""
        while _is_over(_driver(pooled := await self._engine.raw_connection())):
            await greenlet_spawn(pooled.invalidate)
            pooled.close()
        return pooled

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """For one of the connections."""
        self._sessions += 1
        try:
            with _explained():
                try:
                    async with asyncio.timeout(self._pool_timeout_seconds):
                        await self._turns.acquire()
                except TimeoutError as error:
                    raise PoolTimeout from error
                try:
                    yield
                finally:
                    self._turns.release()
        finally:
            self._sessions -= 1

    async def check(self, head_revision: str) -> None:
        """Raise DatabaseNotReady, saying what to do, unless this database can be served from."""
        try:
            async with self._engine.connect() as connection:
                version = await connection.scalar(text("SHOW server_version_num"))
                extension = await connection.scalar(
                    text("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
                )
                migrated = await connection.scalar(text(f"SELECT to_regclass('{SCHEMA}.alembic_version') IS NOT NULL"))
                revision = (
                    await connection.scalar(text(f"SELECT version_num FROM {SCHEMA}.alembic_version"))
                    if migrated
                    else None
                )
        except (SQLAlchemyError, OSError) as error:
            raise not_usable(error) from error
        if int(version or 0) < 150_000:
            raise DatabaseNotReady("Postgres 15 or newer is needed; this server is older.", reason="too_old")
        if revision != head_revision:
            raise DatabaseNotReady(
                f"The database is at migration {revision or 'none'}, this version needs {head_revision}; "
                "run `memory-service migrate` (or serve with --migrate).",
                reason="not_migrated",
            )
        if extension is None:
            raise DatabaseNotReady(
                "The database has lost its pgvector extension; let an administrator run CREATE EXTENSION vector in it.",
                reason="without_pgvector",
            )

    async def close(self) -> None:
        await self._engine.dispose()


async def _connect(*arguments: Any, **options: Any) -> Connection:
    """A new connection. Cancelled meanwhile, it is closed as soon as it is there; psycopg would leave it open until it is
    collected, beyond what the pool counts."""
    connecting = asyncio.create_task(Connection.connect(*arguments, **options))
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        connecting.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(connecting: asyncio.Task[Connection]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().pgconn.finish()


def _driver(pooled: PoolProxiedConnection) -> Connection:
    connection = pooled.driver_connection
    assert isinstance(connection, Connection)
    return connection


def _is_over(connection: Connection) -> bool:
    """Whether an idle connection was closed at the other end: then there is something to read, to no question of ours."""
    try:
        looking = select.poll()
        looking.register(connection.fileno(), select.POLLIN)
        while looking.poll(0):
            connection.pgconn.consume_input()  # a last word of the server; the end raises
    except psycopg.OperationalError:
        return True
    return False


async def _abandon(pooled: PoolProxiedConnection) -> None:
    """Undo what a connection was about, and give it back; or close it, where that cannot be."""
    connection = _driver(pooled)
    with suppress(psycopg.Error):
        await connection.rollback()
    if connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
        await greenlet_spawn(pooled.invalidate)
    pooled.close()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("All database connections are busy; try again.") from error
    except psycopg.Error as error:  # at connecting
        raise _explanation(wrapped(error)) from error
    except DBAPIError as error:
        if (explanation := _explanation(error)) is error:
            raise
        raise explanation from error


def _explanation(error: DBAPIError) -> Exception:
    """What a client is told of an error, or the error itself where it was no fault of the client or the surroundings."""
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    if error.connection_invalidated or _is_connection_error(error, sqlstate):
        return Unavailable("The database cannot be reached at the moment; try again.")
    if sqlstate == _MOVED:
        return ThreadMoved("The thread was written to meanwhile; try again.")
    if sqlstate in _CROWDED:
        return Unavailable("Too many requests wait for the same thread; try again.")
    if sqlstate in OUTDATED:
        return Unavailable("The database was changed meanwhile; try again.")
    if sqlstate in _NOT_TEXT:
        return InvalidInput("The request contains text that cannot be stored; send valid Unicode.")
    return error


def _is_connection_error(error: DBAPIError, sqlstate: str) -> bool:
    # What psycopg found without asking the server has no SQLSTATE.
    return sqlstate.startswith(_AWAY) if sqlstate else isinstance(error, (OperationalError, InterfaceError))


def sqlalchemy_url(url: str, *, login: str | None = None) -> URL:
    """`postgresql://…` in the spelling that selects psycopg 3, with `login` for its user.

    Raises DatabaseNotReady when it is no such URL. The message quotes nothing of it that could be of the password.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise DatabaseNotReady(
            f"MEMORY_DATABASE_URL begins with {parsed.drivername}://; only postgresql:// is supported."
        )
    if "@" in (parsed.host or ""):
        raise DatabaseNotReady(
            "MEMORY_DATABASE_URL has more than one @; write @ in a user name or password as %40 (and : / ? # % as "
            "%3A %2F %3F %23 %25)."
        )
    query = {key: value for key, value in parsed.query.items() if key != "options"}
    parsed = parsed.set(drivername="postgresql+psycopg", query=query)
    return parsed.set(username=login) if login else parsed


def connection_options(url: str, role: str | None) -> str:
    """libpq `options`: those of the URL, then ours."""
    given = _parse(url).query.get("options", "")
    own = [f"-c search_path={SCHEMA},public", "-c timezone=UTC", "-c lock_timeout=30s"]
    if role is not None:
        own.append(f"-c role={role}")
    return " ".join([given if isinstance(given, str) else " ".join(given), *own]).strip()


def _parse(url: str) -> URL:
    try:
        return make_url(url)
    except (SQLAlchemyError, ValueError):  # ValueError: the port is no number; its text would quote the URL
        raise DatabaseNotReady(
            "MEMORY_DATABASE_URL is not a URL; write postgresql://user:password@host:5432/db, and in a user name or "
            "password : / @ ? # % as %3A %2F %40 %3F %23 %25."
        ) from None


def not_usable(error: Exception) -> DatabaseNotReady:
    """For an error at connecting. `reason` is `unreachable` where no server has answered yet, or none that is ready."""
    cause = str(getattr(error, "orig", None) or error)
    answered = "FATAL:" in cause and not any(words in cause for words in _NOT_YET)
    is_away = isinstance(error, (OperationalError, OSError)) and not answered
    return DatabaseNotReady(why_unusable(error), reason="unreachable" if is_away else "refused")


def why_unusable(error: Exception) -> str:
    """One sentence and the remedy, for an error at connecting."""
    cause = str(getattr(error, "orig", None) or error).strip()
    reason = cause.splitlines()[0] if cause else type(error).__name__
    if "permission denied to set role" in cause:
        return (
            "The role of MEMORY_DATABASE_URL may not act as memory_app and memory_worker; let an administrator run "
            "GRANT memory_app, memory_worker TO that role (from Postgres 16 on: WITH SET TRUE)."
        )
    if '"memory_app"' in cause or '"memory_worker"' in cause:
        return "The database is not migrated yet; run `memory-service migrate` (or serve with --migrate)."
    return f"The database cannot be used: {reason}. Check MEMORY_DATABASE_URL and that Postgres is running."
