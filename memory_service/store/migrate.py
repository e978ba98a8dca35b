"""Running the migrations, and knowing whether they ran."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from memory_service.errors import DatabaseNotReady
from memory_service.store.db import SCHEMA, connection_options, sqlalchemy_url

# Any number will do, as long as every replica uses the same.
_MIGRATION_LOCK = 7_301_546_120_441


def migrations_dir() -> Path:
    """In a wheel the migrations lie inside the package, in a checkout beside it."""
    packaged = Path(__file__).parents[1] / "_migrations"
    return packaged if packaged.exists() else Path(__file__).parents[2] / "migrations"


@lru_cache
def head_revision() -> str:
    head = ScriptDirectory(str(migrations_dir())).get_current_head()
    assert head is not None
    return head


def migrate(url: str, revision: str = "head") -> None:
    """Bring the database to `revision`. Replicas that start together wait for one another.

    Connects as the role of the URL, which must be allowed to create the schema, the extension and the two roles.
    Raises DatabaseNotReady with the remedy.
    """
    engine = create_engine(
        sqlalchemy_url(url), connect_args={"options": connection_options(url, None), "connect_timeout": 10}
    )
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
            connection.commit()
            config = Config()
            config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            connection.commit()
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _MIGRATION_LOCK})
            connection.commit()
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise DatabaseNotReady(
            f"The database could not be migrated: {cause}. The role of MEMORY_DATABASE_URL must own the database, "
            "be allowed to create roles (or find memory_app and memory_worker made and granted to it), and pgvector "
            "must be installed on the server."
        ) from error
    finally:
        engine.dispose()
