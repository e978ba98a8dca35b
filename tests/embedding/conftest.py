"""A database of its own for each test, because which embedder is active is the database's, and a runtime on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
import pytest
from sqlalchemy.engine import make_url

from memory_service.config import Settings
from memory_service.runtime import Runtime, new_id
from memory_service.services import ingest, threads
from memory_service.services.ingest import Draft
from memory_service.services.lifecycle import OpenDatabase, create_key, open_runtime
from memory_service.store.embedded import EmbeddedPostgres
from memory_service.store.embedders import EmbedderRecord
from memory_service.store.migrate import migrate
from memory_service.store.projects import authenticate
from memory_service.store.threads import ThreadRecord, get_thread
from tests.embedding.hashing import HashingEmbedder
from tests.store.conftest import database

T = TypeVar("T")
NOW = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass
class Home:
    """A project in a database of its own. `run` gives what it is called with a runtime whose embedders are these."""

    url: str
    key: str
    project_id: int

    def run(self, use: Callable[[Runtime], Awaitable[T]], *embedders: HashingEmbedder) -> T:
        """The first embedder stands for the built-in one, the others are known by their names."""

        async def within() -> T:
            runtime = self.runtime(*embedders)
            try:
                return await use(runtime)
            finally:
                await runtime.close()

        return asyncio.run(within())

    def runtime(self, *embedders: HashingEmbedder) -> Runtime:
        first, named = embedders[0], {e.name: e for e in embedders}

        async def open_embedder(record: EmbedderRecord) -> HashingEmbedder:
            return first if record.pk == 1 else named[record.name]

        return open_runtime(Settings(), OpenDatabase(self.url, False, "the test's"), open_embedder)

    def rows(self, statement: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.url, options="-c search_path=memory,public") as owner:
            return owner.execute(statement.encode(), values).fetchall()

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])

    async def write(self, runtime: Runtime, *texts: str, thread: ThreadRecord | None = None) -> ThreadRecord:
        """Append messages, one turn each, to a thread or a new one."""
        messages = await ingest.prepare(runtime, drafts(texts), NOW)
        async with runtime.db.transaction(self.project_id) as session:
            if thread is None:
                return await threads.create(
                    session,
                    fields={"user_id": "ada"},
                    metadata={},
                    messages=messages,
                    now=NOW,
                    id=new_id("thread", NOW),
                )
            thread = await get_thread(session, thread.id, lock=True)
            await ingest.append(session, thread, messages, [""] * len(messages))
            return await get_thread(session, thread.id)


def drafts(texts: Sequence[str]) -> list[Draft]:
    return [Draft("user", text, "", {}) for text in texts]


@pytest.fixture(scope="session")
def migrated(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The name of a migrated database to copy."""
    with database(postgres) as url:
        migrate(url)
        yield str(make_url(url).database)


@pytest.fixture
def home(postgres: EmbeddedPostgres, migrated: str) -> Iterator[Home]:
    with database(postgres, template=migrated) as url:
        _, key = asyncio.run(create_key(url, "p", "k", NOW))
        asked = Home(url, key, 0)

        async def project(runtime: Runtime) -> int:
            found = await authenticate(runtime.db, key)
            assert found
            return found.project_id

        asked.project_id = asked.run(project, HashingEmbedder())
        yield asked
