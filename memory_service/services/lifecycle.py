"""Opening what the program runs on: a database that is migrated, and a first key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from memory_service.config import Settings
from memory_service.providers.tokenizers import O200kCounter
from memory_service.runtime import Runtime, load_models, new_api_key, new_id, now_utc
from memory_service.store import projects
from memory_service.store.db import Database
from memory_service.store.embedded import EmbeddedPostgres, running_uri
from memory_service.store.migrate import head_revision, migrate

DEFAULT_PROJECT = "default"
_WORKER_CONNECTIONS = 2


@dataclass(frozen=True, slots=True)
class OpenDatabase:
    """Where the database is. `described` is fit to be printed."""

    url: str
    embedded: bool
    described: str


@contextmanager
def open_database(settings: Settings, *, address: str | None = None, share: bool = False) -> Iterator[OpenDatabase]:
    """The database of the settings. The embedded one is started, and stopped at the end.

    `share` joins the embedded database of a service that is running, for short commands. Raises EmbeddedPostgresError.
    """
    if settings.database_url is not None:
        yield OpenDatabase(settings.database_url.get_secret_value(), False, "the Postgres of MEMORY_DATABASE_URL")
        return
    data_dir = settings.resolved_data_dir
    if share and (uri := running_uri(data_dir)):
        yield OpenDatabase(uri, True, f"the embedded Postgres in {data_dir}")
        return
    server = EmbeddedPostgres.start(data_dir, owner=address)
    try:
        yield OpenDatabase(server.uri, True, f"embedded Postgres in {data_dir}")
    finally:
        server.stop()


def open_runtime(settings: Settings, url: str) -> Runtime:
    """Raises InvalidInput for a price table that cannot be read."""
    return Runtime(
        settings=settings,
        db=Database(url, pool_size=settings.database_connections),
        worker_db=Database(url, role="memory_worker", pool_size=_WORKER_CONNECTIONS),
        counter=O200kCounter(),
        models=load_models(settings.models_file),
    )


async def check_database(url: str) -> None:
    """Raise DatabaseNotReady, saying what to do, unless the service can run on this database."""
    database = Database(url, pool_size=1)
    try:
        await database.check(head_revision())
    finally:
        await database.close()


async def create_key(url: str, project: str, name: str, now: datetime) -> tuple[str, str]:
    """Make a key, and the project if need be. Returns (id, key); the key is not kept anywhere."""
    key, id_ = new_api_key(), new_id("key", now)
    database = Database(url, role="memory_worker", pool_size=1)
    try:
        async with database.transaction(None) as session:
            project_id = await projects.ensure_project(session, project, now)
            await projects.add_key(session, project_id=project_id, id=id_, name=name, key=key, now=now)
    finally:
        await database.close()
    return id_, key


async def list_keys(url: str, project: str | None) -> list[projects.ApiKeyRecord]:
    database = Database(url, role="memory_worker", pool_size=1)
    try:
        async with database.read_only(None) as session:
            return await projects.list_keys(session, project)
    finally:
        await database.close()


async def revoke_key(url: str, id: str) -> None:
    """Raises NotFound."""
    database = Database(url, role="memory_worker", pool_size=1)
    try:
        async with database.transaction(None) as session:
            await projects.revoke_key(session, id, now_utc())
    finally:
        await database.close()


async def ensure_first_key(url: str, data_dir: Path) -> tuple[str, bool]:
    """The key in `<data_dir>/api_key`, made with the default project when there is none, and whether it is new."""
    path = data_dir / "api_key"
    if path.exists():
        key = path.read_text().strip()
        database = Database(url, role="memory_worker", pool_size=1)
        try:
            async with database.read_only(None) as session:
                if key and await projects.key_exists(session, key):
                    return key, False
        finally:
            await database.close()
    _, key = await create_key(url, DEFAULT_PROJECT, "first key", now_utc())
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(key + "\n")
    return key, True


def prepare_database(database: OpenDatabase, *, migrate_external: bool) -> None:
    """Migrate the embedded database; an external one only when asked. Raises DatabaseNotReady."""
    if database.embedded or migrate_external:
        migrate(database.url)
