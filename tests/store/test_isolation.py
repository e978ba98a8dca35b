"""Projects are kept apart by Postgres, not by the care of those who write queries.

Two projects hold a row in every table. Then queries forget their project, and nothing of the other one is found.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx2
import numpy as np
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from memory_service.errors import NotFound
from memory_service.store import (
    edits,
    embedding,
    messages,
    projects,
    prompts,
    recall,
    run_events,
    runs,
    threads,
    usage,
    users,
    vectors,
)
from memory_service.store.db import Database, Session
from memory_service.store.driver import Statement
from memory_service.store.embedders import EmbedderRecord
from memory_service.store.idempotency import IdempotentCall, find
from memory_service.store.migrate import allow_login
from memory_service.store.pages import Page, PageQuery
from memory_service.store.session import send
from memory_service.store.tables import metadata
from tests.conftest import Service

T = TypeVar("T")
#: The number of its vectors' type matters only to writing.
BUILTIN = EmbedderRecord(1, "builtin:1", "{}", 384, "active", datetime.now(UTC), 0)
QUERY = np.full(384, 0.05, dtype=np.float32)
INSUFFICIENT_PRIVILEGE = "42501"
#: What holds no project's rows.
SHARED_TABLES = {"alembic_version", "embedders", "servers"}
#: `vectors_1` is of the built-in embedder; each further embedder has one made by the same function.
OWN_TABLES = ("vectors_1", *(name for name in metadata.tables if name not in {"projects"} | SHARED_TABLES))


@dataclass(frozen=True)
class Tenant:
    """A project with a row in every table."""

    pk: int
    key: str
    thread_pk: int
    thread_id: str
    message_ids: Sequence[str]
    assistant_id: str
    prompt_id: str
    run_id: str
    run_pk: int
    call: IdempotentCall


@pytest.fixture(scope="module")
def tenants(service: Service, database_url: str, new_key: Callable[[], str]) -> tuple[Tenant, Tenant]:
    return fill(service, database_url, new_key()), fill(service, database_url, new_key())


@pytest.fixture(scope="module")
def new_key(database_url: str) -> Callable[[], str]:
    from memory_service.services.lifecycle import create_key

    made = iter(("isolation-one", "isolation-two"))
    return lambda: asyncio.run(create_key(database_url, next(made), "test", datetime.now(UTC)))[1]


def fill(service: Service, database_url: str, key: str) -> Tenant:
    with httpx2.Client(base_url=service.url, headers={"authorization": f"Bearer {key}"}, timeout=30) as api:

        def post(path: str, body: Any, **headers: str) -> Any:
            answer = api.post("/v1" + path, json=body, headers=headers)
            assert answer.is_success, answer.text
            return answer.json()

        assistant = post("/assistants", {"model": "claude-sonnet-5", "instructions": "Be brief."})
        thread = post("/threads", {"user_id": "the same user", "assistant_id": assistant["id"]})
        path = f"/threads/{thread['id']}"
        call = [{"type": "tool_use", "id": "call_1", "name": "look", "input": {}}]
        result = [{"type": "tool_result", "tool_use_id": "call_1", "content": "a fishing rod"}]
        history = [
            {"role": "user", "content": "Where is the fishing rod?"},
            {"role": "assistant", "content": call},
            {"role": "user", "content": result},
            {"role": "assistant", "content": "In the shed."},
            {"role": "user", "content": "Thanks."},
        ]
        written = post(path + "/messages", {"messages": history}, **{"idempotency-key": "the same key"})["data"]
        assert api.patch(f"/v1{path}/messages/{written[3]['id']}", json={"content": "In the boat."}).is_success
        prompt = post(path + "/prompts", {})
        post(f"{path}/prompts/{prompt['id']}/usage", {"usage": {"input_tokens": 50, "output_tokens": 1}})
        run = {"provider": "echo", "model": "echo", "message": "And the bait?", "wait": True}
        run = post(path + "/runs", run)
        assert run["status"] == "completed"
        body = api.build_request("POST", "/", json={"messages": history}).content
    with psycopg.connect(database_url) as owner:
        found = owner.execute(
            "SELECT project_id, pk FROM memory.threads WHERE id = %s AND project_id ="
            " (SELECT project_id FROM memory.api_keys WHERE hash = %s)",
            [thread["id"], hashlib.sha256(key.encode()).digest()],
        ).fetchone()
        assert found
        owner.execute(
            "INSERT INTO memory.pending_embeddings (thread_pk, seq, embedder_pk, project_id, not_before)"
            " VALUES (%s, 1, 1, %s, 'infinity')",
            [found[1], found[0]],
        )
        run_pk = owner.execute(
            "SELECT pk FROM memory.runs WHERE project_id = %s AND id = %s", [found[0], run["id"]]
        ).fetchone()
        assert run_pk
        for table in OWN_TABLES:
            held = owner.execute(f"SELECT count(*) FROM memory.{table} WHERE project_id = %s", [found[0]]).fetchone()
            assert held != (0,), f"the test must have a row in {table}"
    return Tenant(
        *(found[0], key, found[1], thread["id"], [m["id"] for m in written], assistant["id"], prompt["id"]),
        run["id"],
        run_pk[0],
        IdempotentCall("POST", f"/v1{path}/messages", "the same key", body),
    )


def within(url: str, project_id: int | None, body: Callable[[Session], Awaitable[T]], **options: Any) -> T:
    """Run `body` in a transaction of a project and roll it back."""

    class RollBack(Exception):
        pass

    async def run() -> T:
        database = Database(url, pool_size=1, **options)
        try:
            async with database.transaction(project_id) as session:
                result = await body(session)
                raise RollBack
        except RollBack:
            return result
        finally:
            await database.close()

    return asyncio.run(run())


def rows(url: str, project_id: int | None, sql: str, **options: Any) -> list[Any]:
    async def body(session: Session) -> list[Any]:
        await session.flush()
        (done,) = await send(session.connection, Statement(sql))
        return done.rows if done.names else [done.result.command_tuples]

    return within(url, project_id, body, **options)


def refused(url: str, project_id: int | None, sql: str, **options: Any) -> str:
    """The message with which Postgres refuses a statement for want of a right."""
    with pytest.raises(DBAPIError) as error:
        rows(url, project_id, sql, **options)
    assert error.value.orig is not None
    assert getattr(error.value.orig, "sqlstate", None) == INSUFFICIENT_PRIVILEGE, error.value
    return str(error.value.orig)


def columns(table: str) -> list[str]:
    if table == "vectors_1":
        return ["thread_pk", "seq", "passage", "embedding"]
    return [c.name for c in metadata.tables[table].columns if c.identity is None and c.computed is None]


@pytest.mark.parametrize("table", OWN_TABLES)
def test_a_query_without_a_filter_finds_its_own_project_only(
    database_url: str, tenants: tuple[Tenant, Tenant], table: str
) -> None:
    for tenant in tenants:
        assert set(rows(database_url, tenant.pk, f"SELECT project_id FROM {table}")) == {(tenant.pk,)}
    assert rows(database_url, None, f"SELECT * FROM {table}") == []
    worker = set(rows(database_url, None, f"SELECT project_id FROM {table}", role="memory_worker"))
    assert worker >= {(tenant.pk,) for tenant in tenants}


def test_a_project_sees_itself_only(database_url: str, tenants: tuple[Tenant, Tenant]) -> None:
    for tenant in tenants:
        assert rows(database_url, tenant.pk, "SELECT pk FROM projects") == [(tenant.pk,)]
    assert rows(database_url, None, "SELECT pk FROM projects") == []


@pytest.mark.parametrize("table", sorted(set(OWN_TABLES) - {"api_keys"}))
def test_what_is_written_without_a_filter_stays_in_the_project(
    database_url: str, tenants: tuple[Tenant, Tenant], table: str
) -> None:
    one, other = tenants
    own = rows(database_url, one.pk, f"SELECT count(*) FROM {table}")[0][0]
    column = next(name for name in reversed(columns(table)) if name != "project_id")
    assert rows(database_url, one.pk, f"UPDATE {table} SET {column} = {column}") == [own]
    assert rows(database_url, one.pk, f"DELETE FROM {table}") == [own]
    assert rows(database_url, None, f"UPDATE {table} SET {column} = {column}") == [0]
    assert rows(database_url, None, f"DELETE FROM {table}") == [0]
    everything = rows(database_url, None, f"SELECT count(*) FROM {table}", role="memory_worker")
    assert everything[0][0] > own, "there was more to hit"
    # The policy is asked before the constraints, so the other columns do not matter.
    insert = f"INSERT INTO {table} (project_id) VALUES ({other.pk})"
    for project_id in (one.pk, None):
        assert "new row violates row-level security policy" in refused(database_url, project_id, insert)
    move = f"UPDATE {table} SET project_id = {other.pk}"
    assert "new row violates row-level security policy" in refused(database_url, one.pk, move)


@pytest.mark.parametrize("table", ["projects", "api_keys", "alembic_version", "embedders"])
def test_what_a_service_may_only_read(database_url: str, tenants: tuple[Tenant, Tenant], table: str) -> None:
    for verb in (f"DELETE FROM {table}", f"INSERT INTO {table} DEFAULT VALUES", f"TRUNCATE {table}"):
        assert "permission denied" in refused(database_url, tenants[0].pk, verb)


async def gone(awaitable: Awaitable[object]) -> None:
    with pytest.raises(NotFound):
        await awaitable


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The store's statements lose their project on the way to Postgres. Returns what they were."""
    forgotten: list[str] = []

    async def forget(connection: Any, *statements: Statement) -> Any:
        sent = []
        for statement in statements:
            without = re.sub(r"(\w+\.)?project_id = %\(project_id\)s(::\w+)?", "true", statement.sql)
            if without != statement.sql:
                forgotten.append(statement.sql)
            sent.append(statement._replace(sql=without))
        return await send(connection, *sent)

    monkeypatch.setattr("memory_service.store.session.send", forget)
    return forgotten


def test_the_stores_own_queries_with_their_project_filter_dropped(
    database_url: str, tenants: tuple[Tenant, Tenant], forgetful: list[str]
) -> None:
    one, other = tenants
    now, newest = datetime.now(UTC), PageQuery(100, "desc")

    async def look(session: Session, tenant: Tenant) -> dict[str, Any]:
        """What there is to find of a tenant, by each query of the store."""
        pk = tenant.thread_pk

        async def or_none(awaitable: Awaitable[Any]) -> Any:
            try:
                return await awaitable
            except NotFound:
                return None

        page = await threads.list_threads(session, newest, user_id=None, metadata={})
        of_user = await threads.list_threads(session, newest, user_id="the same user", metadata={})
        assistants = await threads.list_assistants(session, newest)
        return {
            "thread": await or_none(threads.get_thread(session, tenant.thread_id)),
            "locked": await or_none(threads.get_thread(session, tenant.thread_id, lock=True)),
            "threads": [t for t in page.items if t.pk == pk],
            "threads of user": [t for t in of_user.items if t.pk == pk],
            "assistant": await or_none(threads.get_assistant(session, tenant.assistant_id)),
            "assistants": [a for a in assistants.items if a.id == tenant.assistant_id],
            "message": await or_none(messages.get_message(session, pk, tenant.message_ids[0])),
            "messages": (await messages.list_messages(session, pk, newest)).items,
            "range": await messages.range_of(session, pk),
            "by seq": await messages.with_seqs(session, [pk], [1]),
            "to quote": await recall.said_at(session, pk, [1]),
            "revisions": await messages.revisions_at(session, pk, 0),
            "ids": await messages.taken_ids(session, tenant.message_ids),
            "index": await recall.thread_index(session, pk),
            "vectors": await vectors.similarities(session, BUILTIN, [pk], QUERY),
            "signs": await vectors.sign_similarities(session, BUILTIN, [pk], QUERY),
            "single vectors": (await vectors.similarities_at(session, BUILTIN, QUERY, [pk], [1], [1])) > -2,
            "held vectors": (await vectors.thread_vectors(session, BUILTIN, pk, 1, 9, signs=False)).seq.tolist(),
            "held signs": (await vectors.thread_vectors(session, BUILTIN, pk, 1, 9, signs=True)).seq.tolist(),
            "waiting": await embedding.count_pending(session, [pk]),
            "user index": [i for i in await recall.user_indexes(session, "the same user") if i.thread_pk == pk],
            "prompt": await or_none(prompts.get_prompt(session, pk, tenant.prompt_id)),
            "prompts": (await prompts.list_prompts(session, pk, newest)).items,
            "run": await or_none(runs.get_run(session, pk, tenant.run_id)),
            "runs": (await runs.list_runs(session, pk, newest)).items,
            "events": await run_events.events_after(session, [(tenant.run_pk, 0)]),
            "estimates": (await prompts.list_estimates(session))[int(tenant is other) :],
            "answer": await find(session, tenant.call, now),
            "used": (await usage.sum_all(session, usage.Selection(thread_id=tenant.thread_id))).calls,
            "used by thread": [g for g in (await by_thread(session)).items if g.id == tenant.thread_id],
            "entries": [
                e
                for _, e in await usage.entries_after(session, "the same user", usage.BEGINNING, 9)
                if e.thread_id == tenant.thread_id
            ],
            "misses": await usage.count_misses(session, usage.Selection(thread_id=tenant.thread_id)),
        }

    async def by_thread(session: Session) -> Page[usage.Group]:
        return await usage.sum_groups(session, usage.Selection(), "thread", newest)

    async def get_first(session: Session) -> tuple[threads.ThreadRecord, messages.MessageRecord]:
        thread = await threads.get_thread(session, other.thread_id)
        return thread, await messages.get_message(session, thread.pk, other.message_ids[0])

    thread, message = within(database_url, other.pk, get_first)

    async def look_and_touch(session: Session) -> tuple[dict[str, Any], dict[str, Any]]:
        found = await look(session, one), await look(session, other)
        await gone(threads.delete_thread(session, other.thread_id))
        await gone(threads.update_assistant(session, other.assistant_id, fields={}, metadata={}))
        await gone(threads.delete_assistant(session, other.assistant_id))
        await edits.bury(session, thread, message, now)
        await vectors.forget(session, other.thread_pk, 5)
        await vectors.copy(session, other.thread_pk, other.thread_pk, 5)
        await prompts.mark_edited(session, other.thread_pk, 1, deleted=True)
        await usage.forget_threads(session, [other.thread_id])
        assert (await users.count(session, "the same user")).calls == 2, "of either project's users of that name"
        assert await usage.forget_user(session, "the same user", 10) == 2
        return found

    own, foreign = within(database_url, one.pk, look_and_touch)
    assert [name for name, found in own.items() if not found] == [], "each query finds what is its own"
    assert {name: found for name, found in foreign.items() if found} == {}
    assert len(forgotten_kinds(forgetful)) >= 7, forgetful
    kept = rows(database_url, other.pk, "SELECT count(*) FROM messages WHERE content IS NOT NULL")
    assert kept == [(len(other.message_ids) + 2,)]  # those of the run
    assert rows(database_url, other.pk, "SELECT count(*) FROM vectors_1 WHERE seq IN (1, 5)") == [(2,)]


def forgotten_kinds(statements: Sequence[str]) -> set[str]:
    return {re.sub(r"\s+", " ", statement)[:60] for statement in statements}


def test_a_key_is_found_by_its_hash_or_by_its_project(database_url: str, tenants: tuple[Tenant, Tenant]) -> None:
    one, other = tenants
    digest = projects.hash_key(one.key).hex()

    async def ask() -> None:
        database = Database(database_url, pool_size=1)
        found = [await projects.authenticate(database, t.key) for t in tenants]
        assert [key and key.project_id for key in found] == [one.pk, other.pk]
        assert await projects.authenticate(database, "msk_unknown") is None
        async with database.transaction(None) as session:  # the same connection: it remembers no key
            assert await session.execute(text("SELECT * FROM api_keys")) == []
            await session.execute(text(f"SELECT set_config('memory.key_hash', '{digest}', true)"))
            found = await session.execute(text("SELECT project_id, encode(hash, 'hex') FROM api_keys"))
            assert [tuple(row) for row in found] == [(one.pk, digest)]
        await database.close()

    asyncio.run(ask())
    assert set(rows(database_url, other.pk, "SELECT project_id FROM api_keys")) == {(other.pk,)}


UNPROTECTED = """
SELECT c.relname,
       c.relrowsecurity AND c.relforcerowsecurity AS forced,
       ARRAY(SELECT r.rolname::text || ':' || p.polcmd::text || ':' || p.polpermissive
             FROM pg_policy p, unnest(p.polroles) AS role JOIN pg_roles r ON r.oid = role
             WHERE p.polrelid = c.oid ORDER BY 1) AS policies,
       (SELECT pg_get_expr(p.polqual, c.oid) FROM pg_policy p JOIN pg_roles r ON p.polroles = ARRAY[r.oid]
        WHERE p.polrelid = c.oid AND r.rolname = 'memory_app') AS condition
FROM pg_class c WHERE c.relnamespace = 'memory'::regnamespace AND c.relkind IN ('r', 'p', 'f', 'm', 'v')
"""
OF_THIS_PROJECT = (
    "= ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS \"nullif\")"
)


def unprotected(owner: psycopg.Connection) -> set[str]:
    """Tables, views and the like that a project's rows could be read from in another project."""
    found = set()
    for table, forced, policies, condition in owner.execute(UNPROTECTED).fetchall():
        whose = f"({'pk' if table == 'projects' else 'project_id'} {OF_THIS_PROJECT})"
        if table not in ("projects", "api_keys"):
            whose = f"COALESCE({whose}, false)"
        if table not in SHARED_TABLES and not (
            forced
            and policies == ["memory_app:*:true", "memory_worker:*:true"]
            and condition is not None
            and (condition == whose or (table == "api_keys" and condition.startswith(f"({whose} OR (hash = ")))
        ):
            found.add(table)
    return found


def test_every_table_is_protected(database_url: str) -> None:
    with psycopg.connect(database_url) as owner:
        assert unprotected(owner) == set()
        secure = owner.execute("SELECT proname FROM pg_proc WHERE prosecdef AND pronamespace = 'memory'::regnamespace")
        assert secure.fetchall() == [], "a SECURITY DEFINER function acts as the owner"


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE memory.forgotten (project_id bigint)",
        "CREATE VIEW memory.forgotten AS SELECT * FROM memory.threads",
        "CREATE TABLE memory.forgotten (project_id bigint); ALTER TABLE memory.forgotten ENABLE ROW LEVEL SECURITY;"
        " CREATE POLICY project ON memory.forgotten TO memory_app USING (true)",
    ],
)
def test_a_table_without_a_policy_would_be_noticed(database_url: str, sql: str) -> None:
    with psycopg.connect(database_url) as owner:
        owner.execute(sql)
        assert unprotected(owner) == {"forgotten"}
        owner.rollback()


def test_the_roles_are_powerless(database_url: str) -> None:
    with psycopg.connect(database_url) as owner:
        for role in ("memory_app", "memory_worker"):
            powers = owner.execute(
                "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication,"
                " EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid),"
                " EXISTS (SELECT FROM pg_shdepend WHERE refobjid = r.oid AND deptype = 'o'),"
                " has_schema_privilege(oid, 'memory', 'CREATE'), has_schema_privilege(oid, 'public', 'CREATE')"
                " FROM pg_roles r WHERE rolname = %s",
                [role],
            ).fetchone()
            assert powers == (False,) * 9, role


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE memory.threads DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE memory.threads NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY project ON memory.threads",
        "ALTER ROLE memory_app SUPERUSER",
        "ALTER ROLE memory_app BYPASSRLS",
        "GRANT memory_worker TO memory_app",
        "SET ROLE memory_worker",
        "SET ROLE postgres",
        "SELECT set_config('role', 'postgres', false)",
        "SET SESSION AUTHORIZATION postgres",
        "SET session_replication_role = replica",
        "CREATE TABLE memory.mine (a int)",
        "CREATE FUNCTION memory.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "COPY (SELECT 1) TO PROGRAM 'cat'",
        "SELECT pg_read_file('PG_VERSION')",
    ],
)
def test_no_statement_leads_out_of_the_role(database_url: str, tenants: tuple[Tenant, Tenant], sql: str) -> None:
    allow_login(database_url)
    refused(database_url, tenants[0].pk, sql, login=True)


def test_a_role_that_logged_in_has_nothing_to_go_back_to(database_url: str, tenants: tuple[Tenant, Tenant]) -> None:
    allow_login(database_url)

    async def escape(session: Session) -> Any:
        for statement in ("SET ROLE NONE", "RESET ROLE", "RESET SESSION AUTHORIZATION"):
            await session.execute(text(statement))
        return (await session.execute(text("SELECT session_user, current_user, count(*) FROM threads"))).one()

    assert tuple(within(database_url, None, escape, login=True)) == ("memory_app", "memory_app", 0)


def test_row_security_cannot_be_switched_off(database_url: str, tenants: tuple[Tenant, Tenant]) -> None:
    async def switch_off(session: Session) -> Any:
        await session.execute(text("SET LOCAL row_security = off"))
        await session.execute(text("SELECT * FROM threads"))

    with pytest.raises(DBAPIError, match="would be affected by row-level security policy"):
        within(database_url, tenants[0].pk, switch_off)


def test_a_read_only_transaction_cannot_write(database_url: str, tenants: tuple[Tenant, Tenant]) -> None:
    async def write() -> None:
        database = Database(database_url, pool_size=1)
        try:
            async with database.read_only(tenants[0].pk) as session:
                await session.execute(text("UPDATE threads SET user_id = NULL"))
        finally:
            await database.close()

    with pytest.raises(DBAPIError, match="read-only transaction"):
        asyncio.run(write())
