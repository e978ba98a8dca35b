"""What the tests of the HTTP API share: a view of the tables that goes around the service, and helpers to refuse."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import psycopg
import pytest
from psycopg import sql

from memory_service.store.tables import PROJECT_TABLES
from tests.conftest import Service

Rows = dict[str, list[str]]
PATIENCE_SECONDS = 10


@pytest.fixture(scope="session")
def database(database_url: str) -> Iterator[psycopg.Connection]:
    """The database, as its owner, whom no policy binds."""
    with psycopg.connect(database_url, autocommit=True, options="-c search_path=memory,public") as connection:
        yield connection


@pytest.fixture
def rows(database: psycopg.Connection, api_key: str) -> Callable[[], Rows]:
    """All that is stored for the test's project: every table's rows as text."""
    digest = hashlib.sha256(api_key.encode()).digest()
    found = database.execute("SELECT project_id FROM api_keys WHERE hash = %s", [digest]).fetchone()
    assert found

    def read() -> Rows:
        query = "SELECT t::text FROM {} t WHERE project_id = %s ORDER BY 1"
        return {
            table: [row[0] for row in database.execute(sql.SQL(query).format(sql.Identifier(table)), found)]
            for table in PROJECT_TABLES
        }

    return read


@pytest.fixture
def unchanged(rows: Callable[[], Rows]) -> Callable[[], AbstractContextManager[None]]:
    """`with unchanged(): …`: nothing of the project's may be different afterwards."""

    @contextmanager
    def check() -> Iterator[None]:
        before = rows()
        yield
        assert rows() == before

    return check


@pytest.fixture
def log_of(service: Service) -> Callable[[str], list[str]]:
    """All lines of the log up to the one about a request, which is written after the answer went out."""

    def read(request_id: str) -> list[str]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            lines = list(service.log)
            if any(request_id in line and '"message": "request"' in line for line in lines):
                return lines
        raise AssertionError("the request was not logged")

    return read
