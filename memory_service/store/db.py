"""Connections and transactions.

Every connection acts as a role that owns nothing and bypasses nothing: `memory_app` sees the rows of the project that the
transaction names, and none when it names no project; `memory_worker` (background loops, the command line) sees all. So a
query that forgets its project finds nothing instead of everything.

psycopg is in autocommit mode and we begin transactions ourselves, together with their first statement; what is one
statement, such as looking up a key, needs no transaction at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Literal

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from memory_service.errors import DatabaseNotReady, InvalidInput, ThreadMoved, Unavailable
from memory_service.store.driver import OUTDATED, Statement
from memory_service.store.pool import Pool, PoolUsage
from memory_service.store.session import IN_BINARY, InBinary, Session, noted, on_commit, send

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
_MOVED = "MM001"  # raised by expect_thread() and expect()
_NOT_TEXT = ("22021", "22P05")  # what the encoding cannot hold
_STATE = Statement(
    "SELECT current_setting('server_version_num')::int, (SELECT extversion FROM pg_extension WHERE extname = 'vector'),"
    f" to_regclass('{SCHEMA}.alembic_version') IS NOT NULL"
)
_REVISION = Statement(f"SELECT version_num FROM {SCHEMA}.alembic_version")


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
        arguments = _connect_arguments(url, role, login=login)
        self._pool = Pool(arguments, size=pool_size, timeout_seconds=pool_timeout_seconds)

    @property
    def usage(self) -> PoolUsage:
        return self._pool.usage

    def transaction(self, project_id: int | None) -> AbstractAsyncContextManager[Session]:
        """One transaction for one project, committed before this returns. None: no project's rows are visible.

        Raises Unavailable when the database cannot be reached; then nothing was committed, unless the connection broke
        during the commit itself.
        """
        return _Transaction(self._pool, project_id, read_only=False)

    def read_only(self, project_id: int | None) -> AbstractAsyncContextManager[Session]:
        """A session that Postgres refuses to let write."""
        return _Transaction(self._pool, project_id, read_only=True)

    async def scalar(self, sql: str, parameters: Mapping[str, Any]) -> Any:
        """As `rows`: the first value of the first."""
        found = await self.rows(sql, parameters)
        return found[0][0] if found else None

    async def rows(self, sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows of a statement, in psycopg's spelling, that is a transaction by itself, in no project: it is done, and
        holds no lock, even if this process freezes now. It must be safe to repeat."""
        try:
            async with self._pool.lent() as connection:
                (answer,) = await send(connection, Statement(sql, parameters))
                return answer.rows
        except DBAPIError as error:
            _explain(error)
            raise

    async def check(self, head_revision: str) -> None:
        """Raise DatabaseNotReady, saying what to do, unless this database can be served from."""
        try:
            async with self._pool.lent() as connection:
                ((version, extension, is_migrated),) = (await send(connection, _STATE))[0].rows
                revision = (await send(connection, _REVISION))[0].rows[0][0] if is_migrated else None
        except (SQLAlchemyError, OSError) as error:
            raise not_usable(error) from error
        if version < 150_000:
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
        self._pool.close()


class _Transaction(AbstractAsyncContextManager[Session]):
    """A session, for which there is a connection from the beginning to the commit."""

    # Not a generator, which takes longer, several times a request.
    def __init__(self, pool: Pool, project_id: int | None, *, read_only: bool) -> None:
        self._pool = pool
        self._project_id = project_id
        self._read_only = read_only

    async def __aenter__(self) -> Session:
        try:
            connection = await self._pool.take()
        except DBAPIError as error:
            _explain(error)
            raise
        self._session = Session(connection, self._project_id, read_only=self._read_only)
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            await self._undo(error)
            return
        try:
            await self._session.commit()
        except BaseException as failure:
            await self._undo(failure)
            raise
        self._pool.give_back(self._session.connection)
        for note in noted(self._session):
            note()

    async def _undo(self, error: BaseException) -> None:
        await self._pool.undo(self._session.connection)
        _explain(error)


def _explain(error: BaseException) -> None:
    """Raise what a client is told instead, if anything."""
    if isinstance(error, DBAPIError) and (explanation := _explanation(error)) is not None:
        raise explanation from error


def _explanation(error: DBAPIError) -> Exception | None:
    """None where it was no fault of the client or the surroundings."""
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
    return None


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


def _connect_arguments(url: str, role: Role, *, login: bool) -> dict[str, Any]:
    """For psycopg; of the URL what SQLAlchemy makes of it when it migrates the same database."""
    given = sqlalchemy_url(url, login=role if login else None)
    _, arguments = given.get_dialect()().create_connect_args(given)
    return {
        **arguments,
        "options": connection_options(url, None if login else role),
        "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
        "application_name": "memory-service",
        "autocommit": True,
    }


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
