"""Opening what the program runs on: a database that is migrated, and a first key."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, repeat
from pathlib import Path

from memory_service.config import Settings
from memory_service.errors import DatabaseNotReady, EmbedderUnavailable
from memory_service.providers.anthropic import AnthropicCounter
from memory_service.providers.base import Embedder
from memory_service.providers.chat.registry import ChatProviders
from memory_service.providers.embeddings.registry import EmbedderSpec, open_embedder, probe
from memory_service.providers.tokenizers import O200kCounter
from memory_service.runtime import (
    Embedders,
    OpenEmbedder,
    Runtime,
    embedder_access,
    load_models,
    new_api_key,
    new_id,
    now_utc,
)
from memory_service.store import projects
from memory_service.store.db import ROLES, Database
from memory_service.store.embedded import EmbeddedPostgres, EmbeddedPostgresError, running_uri
from memory_service.store.embedders import EmbedderRecord, list_embedders
from memory_service.store.migrate import allow_login, head_revision, migrate
from memory_service.telemetry import logger

DEFAULT_PROJECT = "default"
_WORKER_CONNECTIONS = 2
# A server that lived this long and then ended is started again at once; below it, ever more slowly.
_STEADY_SECONDS = 60
_CONNECT_DELAYS_SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0)
_RESTART_DELAYS_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class OpenDatabase:
    """Where the database is. `shared`: a running service has it. `described` is fit to be printed."""

    url: str
    embedded: bool
    described: str
    shared: bool = False


@contextmanager
def open_database(settings: Settings, *, address: str | None = None, share: bool = False) -> Iterator[OpenDatabase]:
    """The database of the settings. The embedded one is started, and stopped at the end.

    With `address`, where it is served from, it is also started again whenever it ends by itself. `share` joins the
    embedded database of a service that is running, for short commands. Raises EmbeddedPostgresError.
    """
    if settings.database_url is not None:
        yield OpenDatabase(settings.database_url.get_secret_value(), False, "the Postgres of MEMORY_DATABASE_URL")
        return
    data_dir = settings.resolved_data_dir
    if share and (uri := running_uri(data_dir)):
        yield OpenDatabase(uri, True, f"the embedded Postgres in {data_dir}", shared=True)
        return
    server = EmbeddedPostgres.start(data_dir, owner=address)
    reviver = threading.Thread(target=_revive, args=(server,), name="embedded Postgres")
    try:
        if address is not None:
            reviver.start()
        yield OpenDatabase(server.uri, True, f"embedded Postgres in {data_dir}")
    finally:
        server.stop()
        if address is not None:
            reviver.join()


def _revive(server: EmbeddedPostgres) -> None:
    """Start the server again whenever it ends by itself; its data is safe, and requests are answered 503 meanwhile."""
    attempt = 0
    while True:
        started = time.monotonic()
        status = server.wait()
        if server.stopping.is_set():
            return
        if time.monotonic() - started > _STEADY_SECONDS:
            attempt = 0
        logger.error("the embedded Postgres has ended; starting it again", extra={"fields": {"status": status}})
        while not server.stopping.wait(_RESTART_DELAYS_SECONDS[min(attempt, len(_RESTART_DELAYS_SECONDS) - 1)]):
            attempt += 1
            try:
                server.restart()
                logger.warning("the embedded Postgres runs again", extra={"fields": {"attempt": attempt}})
                break
            except EmbeddedPostgresError as error:
                logger.error("the embedded Postgres did not start", extra={"fields": {"reason": error.message}})


def open_runtime(settings: Settings, database: OpenDatabase, opener: OpenEmbedder | None = None) -> Runtime:
    """Raises InvalidInput for a price table that cannot be read."""
    url, login = database.url, database.embedded
    worker_db = Database(url, role="memory_worker", login=login, pool_size=_WORKER_CONNECTIONS)
    counter = O200kCounter()
    return Runtime(
        settings=settings,
        db=Database(url, login=login, pool_size=settings.database_connections),
        worker_db=worker_db,
        counter=counter,
        models=load_models(settings.models_file),
        # Whoever asks for them may have a connection for requests already: waiting for another, all could wait for ever.
        embedders=Embedders(worker_db, opener or _recorded_embedder(settings)),
        chat=ChatProviders(
            counter,
            os.environ,
            idle_seconds=settings.provider_idle_seconds,
            sends_cache_salt=settings.openai_cache_salt,
        ),
        token_counter=AnthropicCounter.of(settings.count_tokens, os.environ),
    )


def _recorded_embedder(settings: Settings) -> OpenEmbedder:
    """Opens what the database says, as this process may reach it."""

    async def open_recorded(record: EmbedderRecord) -> Embedder:
        spec = EmbedderSpec.from_json(record.spec)
        embedder = await open_embedder(spec, embedder_access(settings), dimensions=record.dimensions)
        if embedder.name != record.name:
            await embedder.close()
            raise EmbedderUnavailable(
                f"{record.name} is {embedder.name} in this version; run `memory-service embedder switch`.",
                is_retryable=False,
            )
        return embedder

    return open_recorded


async def probe_switched_embedder(settings: Settings, url: str) -> str | None:
    """The active embedder's name, once it has answered; None for the built-in one. Raises EmbedderUnavailable."""
    db = Database(url, role="memory_worker", pool_size=1)
    try:
        async with db.read_only(None) as session:
            active = next(record for record in await list_embedders(session) if record.status == "active")
    finally:
        await db.close()
    if EmbedderSpec.from_json(active.spec).provider == "builtin":
        return None
    embedder = await _recorded_embedder(settings)(active)
    try:
        await probe(embedder)
    finally:
        await embedder.close()
    return active.name


async def check_database(url: str) -> None:
    """Raise DatabaseNotReady, saying what to do, unless the service can run on this database."""
    for role in ROLES:
        database = Database(url, role=role, pool_size=1)
        try:
            await database.check(head_revision())
        finally:
            await database.close()


async def wait_for_database(url: str, seconds: float) -> None:
    """Until a server answers, for `seconds` at most: it may be started at the same time. Whatever else is wrong with it is
    for those to tell who need it."""
    deadline = time.monotonic() + seconds
    for delay in chain(_CONNECT_DELAYS_SECONDS, repeat(_CONNECT_DELAYS_SECONDS[-1])):
        try:
            await check_database(url)
            break
        except DatabaseNotReady as error:
            left = deadline - time.monotonic()
            if error.details.get("reason") != "unreachable" or left <= 0:
                break
            fields = {"reason": error.message, "gives_up_in_seconds": round(left, 1)}
            logger.warning("the database cannot be reached yet; trying again", extra={"fields": fields})
            await asyncio.sleep(min(delay, left))


async def find_project(runtime: Runtime, name: str) -> int:
    """Raises NotFound."""
    async with runtime.worker_db.read_only(None) as session:
        return await projects.get_project(session, name)


async def make_project(runtime: Runtime, name: str) -> int:
    """The project of that name, made if need be."""
    async with runtime.worker_db.transaction(None) as session:
        return await projects.ensure_project(session, name, now_utc())


async def create_key(
    url: str,
    project: str,
    name: str,
    now: datetime,
    *,
    requests_per_minute: int | None = None,
    max_body_bytes: int | None = None,
) -> tuple[str, str]:
    """Make a key, and the project if need be. Returns (id, key); the key is not kept anywhere."""
    key, id_ = new_api_key(), new_id("key", now)
    database = Database(url, role="memory_worker", pool_size=1)
    try:
        async with database.transaction(None) as session:
            project_id = await projects.ensure_project(session, project, now)
            await projects.add_key(
                session,
                project_id=project_id,
                id=id_,
                name=name,
                key=key,
                now=now,
                requests_per_minute=requests_per_minute,
                max_body_bytes=max_body_bytes,
            )
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
        path.chmod(0o600)  # a copy or a backup may have come back readable to all
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


def prepare_database(database: OpenDatabase, *, migrate_used: bool) -> bool:
    """Migrate the embedded database; one that a service may be using only when asked. Whether there was anything to do.

    Raises DatabaseNotReady.
    """
    if not migrate_used and (not database.embedded or database.shared):
        return False
    has_migrated = migrate(database.url)
    if database.embedded:
        allow_login(database.url)
    return has_migrated
