"""Databases of their own for the tests that migrate, fill or break one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from memory_service.store.embedded import EmbeddedPostgres

_numbers = count(1)


@contextmanager
def database(
    postgres: EmbeddedPostgres, *, owner: str = "postgres", extension: bool = False, template: str = "template1"
) -> Iterator[str]:
    """An empty database, or a copy of one that nobody uses; its URL for `owner`. Only a superuser makes the extension."""
    name = f"made_{next(_numbers)}"
    with psycopg.connect(postgres.uri, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(*map(sql.Identifier, (name, owner, template)))
        )
        try:
            if extension:
                with psycopg.connect(str(make_url(postgres.uri).set(database=name))) as inside:
                    inside.execute("CREATE EXTENSION vector")
            yield make_url(postgres.uri).set(database=name, username=owner).render_as_string(hide_password=False)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def new_database(postgres: EmbeddedPostgres) -> Iterator[Callable[[str], str]]:
    """Make a database that holds only the extension, owned by a role; returns its URL for that role."""
    with ExitStack() as stack:
        yield lambda owner: stack.enter_context(database(postgres, owner=owner, extension=True))


@pytest.fixture
def empty_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    with database(postgres) as url:
        yield url
