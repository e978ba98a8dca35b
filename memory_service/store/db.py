"""Connections and transactions.

Every connection acts as a role that owns nothing and bypasses nothing: `memory_app` sees the rows of the project that the
transaction names, and none when it names no project; `memory_worker` (background loops, the command line) sees all. So a
query that forgets its project finds nothing instead of everything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.sql.elements import TextClause

from memory_service.errors import DatabaseNotReady, InvalidInput, Unavailable

Role = Literal["memory_app", "memory_worker"]
#: What the store's functions work in: one transaction of one project.
Session = AsyncSession

SCHEMA = "memory"
_BEGIN = text("SELECT set_config('memory.project_id', :project_id, true)")
_BEGIN_READ_ONLY = text(
    "SELECT set_config('memory.project_id', :project_id, true), set_config('transaction_read_only', 'on', true)"
)
_CONNECT_TIMEOUT_SECONDS = 10
_POOL_TIMEOUT_SECONDS = 30


class Database:
    """A pool of connections acting as one role."""

    def __init__(self, url: str, *, role: Role = "memory_app", pool_size: int = 10) -> None:
        self._engine = create_async_engine(
            sqlalchemy_url(url),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=_POOL_TIMEOUT_SECONDS,
            pool_pre_ping=False,
            connect_args={
                "options": connection_options(url, role),
                "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
                "application_name": "memory-service",
            },
        )

    @asynccontextmanager
    async def transaction(self, project_id: int | None) -> AsyncIterator[AsyncSession]:
        """One transaction for one project, committed before this returns. None: no project's rows are visible.

        Raises Unavailable when the database cannot be reached; then nothing was committed, unless the connection broke
        during the commit itself.
        """
        async with self._session(project_id, _BEGIN) as session:
            yield session

    @asynccontextmanager
    async def read_only(self, project_id: int | None) -> AsyncIterator[AsyncSession]:
        """A transaction that Postgres refuses to let write."""
        async with self._session(project_id, _BEGIN_READ_ONLY) as session:
            yield session

    @asynccontextmanager
    async def _session(self, project_id: int | None, begin: TextClause) -> AsyncIterator[AsyncSession]:
        try:
            async with AsyncSession(self._engine, expire_on_commit=False) as session, session.begin():
                await session.execute(begin, {"project_id": "" if project_id is None else str(project_id)})
                session.info["project_id"] = project_id
                yield session
        except PoolTimeout as error:
            raise Unavailable("All database connections are busy; try again.") from error
        except DBAPIError as error:
            if error.connection_invalidated or _is_connection_error(error):
                raise Unavailable("The database cannot be reached at the moment; try again.") from error
            if getattr(error.orig, "sqlstate", None) in (
                "22021",
                "22P05",
            ):  # text that the encoding cannot hold
                raise InvalidInput("The request contains text that cannot be stored; send valid Unicode.") from error
            raise

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
            raise DatabaseNotReady(_why_unreachable(error)) from error
        if int(version or 0) < 150_000:
            raise DatabaseNotReady("Postgres 15 or newer is needed; this server is older.")
        if extension is None:
            raise DatabaseNotReady(
                "The database has no pgvector extension; install pgvector on the server and run "
                "`memory-service migrate`, which creates the extension."
            )
        if revision != head_revision:
            raise DatabaseNotReady(
                f"The database is at migration {revision or 'none'}, this version needs {head_revision}; "
                "run `memory-service migrate` (or serve with --migrate)."
            )

    async def close(self) -> None:
        await self._engine.dispose()


def sqlalchemy_url(url: str) -> str:
    """`postgresql://…` in the spelling that selects psycopg 3. Raises DatabaseNotReady when it is no such URL."""
    try:
        parsed = make_url(url)
    except SQLAlchemyError as error:
        raise DatabaseNotReady("MEMORY_DATABASE_URL is not a URL; write postgresql://user:password@host/db.") from error
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise DatabaseNotReady(
            f"MEMORY_DATABASE_URL begins with {parsed.drivername}://; only postgresql:// is supported."
        )
    query = {key: value for key, value in parsed.query.items() if key != "options"}
    return parsed.set(drivername="postgresql+psycopg", query=query).render_as_string(hide_password=False)


def connection_options(url: str, role: str | None) -> str:
    """libpq `options`: those of the URL, then ours."""
    given = make_url(url).query.get("options", "")
    own = [f"-c search_path={SCHEMA},public", "-c timezone=UTC", "-c lock_timeout=30s"]
    if role is not None:
        own.append(f"-c role={role}")
    return " ".join([given if isinstance(given, str) else " ".join(given), *own]).strip()


def _is_connection_error(error: DBAPIError) -> bool:
    sqlstate = getattr(error.orig, "sqlstate", None)
    return sqlstate is None or sqlstate[:2] in ("08", "57") or sqlstate == "53300"


def _why_unreachable(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    if 'role "memory_app"' in str(cause) or 'role "memory_worker"' in str(cause):
        return "The database is not migrated yet; run `memory-service migrate` (or serve with --migrate)."
    return f"The database cannot be used: {reason}. Check MEMORY_DATABASE_URL and that Postgres is running."
