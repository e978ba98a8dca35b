"""Running the migrations, and knowing whether they ran."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from memory_service.errors import DatabaseNotReady
from memory_service.store.db import ROLES, SCHEMA, connection_options, sqlalchemy_url, why_unusable

# Any number will do, as long as every replica uses the same.
_MIGRATION_LOCK = 7_301_546_120_441
# Policies hide rows from an owner that is no superuser. So that no migration misses rows, it fails where it would; one that
# changes rows does so between SET LOCAL row_security = on; SET LOCAL ROLE memory_worker and RESET ROLE.
_OPTIONS = " -c row_security=off"
_REMEDIES = (
    (
        "permission denied to create role",
        "Let an administrator run: CREATE ROLE memory_app; CREATE ROLE memory_worker; GRANT memory_app, memory_worker TO "
        "the role of MEMORY_DATABASE_URL (from Postgres 16 on: WITH SET TRUE, INHERIT TRUE). Or give that role CREATEROLE.",
    ),
    (
        "permission denied to grant role",
        "Let an administrator run GRANT memory_app, memory_worker TO the role of "
        "MEMORY_DATABASE_URL (from Postgres 16 on: WITH SET TRUE, INHERIT TRUE).",
    ),
    (
        'extension "vector" is not available',
        "Install pgvector (https://github.com/pgvector/pgvector) on the database server, then migrate again.",
    ),
    (
        'permission denied to create extension "vector"',
        "Let an administrator run CREATE EXTENSION vector in this database.",
    ),
    ("permission denied for database", "The role of MEMORY_DATABASE_URL must own the database, or have CREATE on it."),
    (
        "",
        "The role of MEMORY_DATABASE_URL must own the database, be allowed to create roles, and pgvector must be "
        "installed on the server.",
    ),
)


def migrations_dir() -> Path:
    """In a wheel the migrations lie inside the package, in a checkout beside it."""
    packaged = Path(__file__).parents[1] / "_migrations"
    return packaged if packaged.exists() else Path(__file__).parents[2] / "migrations"


@lru_cache
def head_revision() -> str:
    head = ScriptDirectory(str(migrations_dir())).get_current_head()
    assert head is not None
    return head


def migrate(url: str, revision: str = "head") -> bool:
    """Bring the database to `revision`. Returns whether that changed anything.

    Replicas that start together wait for one another, however long it takes. Connects as the role of the URL, which must be
    allowed to create the schema, the extension and the two roles, or find them made.
    Raises DatabaseNotReady with the remedy.
    """
    engine = create_engine(
        sqlalchemy_url(url), connect_args={"options": connection_options(url, None) + _OPTIONS, "connect_timeout": 10}
    )
    try:
        with _connect(engine) as connection:
            connection.execute(text("SET lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            connection.execute(text("RESET lock_timeout"))
            connection.commit()
            before = _revision(connection)
            _upgrade(connection, revision)
            has_changed = _revision(connection) != before
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _MIGRATION_LOCK})
            connection.commit()
            return has_changed
    except SQLAlchemyError as error:
        raise DatabaseNotReady(_why_not_migrated(error)) from error
    except CommandError as error:
        raise DatabaseNotReady(
            f"The database cannot be migrated: {error}. A newer memory-service has migrated it; run that version."
        ) from error
    finally:
        engine.dispose()


def allow_login(url: str) -> None:
    """Let the two roles log in themselves, where nobody but the service reaches the server: the embedded one."""
    engine = create_engine(sqlalchemy_url(url))
    try:
        with engine.begin() as connection:
            for role in ROLES:
                connection.execute(text(f"ALTER ROLE {role} LOGIN"))
    finally:
        engine.dispose()


def _connect(engine: Engine) -> Connection:
    try:
        return engine.connect()
    except SQLAlchemyError as error:
        raise DatabaseNotReady(why_unusable(error)) from error


def _revision(connection: Connection) -> str | None:
    is_there = connection.scalar(text("SELECT to_regclass(:table) IS NOT NULL"), {"table": f"{SCHEMA}.alembic_version"})
    found = connection.scalar(text(f"SELECT version_num FROM {SCHEMA}.alembic_version")) if is_there else None
    connection.commit()
    return found


def _upgrade(connection: Connection, revision: str) -> None:
    # CREATE SCHEMA IF NOT EXISTS asks for the right to create one even when there is nothing to create.
    if not connection.scalar(text("SELECT to_regnamespace(:schema) IS NOT NULL"), {"schema": SCHEMA}):
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        connection.commit()
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
    connection.commit()


def _why_not_migrated(error: SQLAlchemyError) -> str:
    cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    remedy = next(remedy for sign, remedy in _REMEDIES if sign in cause)
    return f"The database could not be migrated: {cause}. {remedy}"
