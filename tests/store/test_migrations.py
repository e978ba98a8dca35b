"""From nothing, or from any earlier revision with rows in it, to the schema that the code is written for."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlmodel import SQLModel

from memory_service.errors import DatabaseNotReady
from memory_service.providers.embeddings.builtin import BuiltinEmbedder
from memory_service.providers.embeddings.registry import EmbedderSpec
from memory_service.services.lifecycle import check_database, create_key
from memory_service.store.db import sqlalchemy_url
from memory_service.store.embedded import EmbeddedPostgres
from memory_service.store.migrate import head_revision, migrate, migrations_dir
from memory_service.store.tables import metadata
from tests.conftest import REPOSITORY, Service
from tests.store.conftest import database
from tests.store.schema import schema_sql

REVISIONS = [revision.revision for revision in ScriptDirectory(str(migrations_dir())).walk_revisions()][::-1]
#: Rows for each revision, written as a service of that revision would have. A new revision adds its own, if it needs them.
ROWS = {
    "0001": """
        INSERT INTO projects (name, created_at) VALUES ('p', now());
        INSERT INTO api_keys VALUES ('key_1', 1, 'k', '\\x00', 'abcd', now());
        INSERT INTO assistants (project_id, id, created_at) VALUES (1, 'asst_1', now());
        INSERT INTO threads (project_id, id, user_id, created_at, last_seq) VALUES (1, 'thread_1', 'u', now(), 2);
        INSERT INTO messages (thread_pk, seq, project_id, id, role, content, created_at, deleted_at) VALUES
            (1, 1, 1, 'msg_1', 'user', '[{"type":"text","text":"hi"}]', now(), NULL),
            (1, 2, 1, 'msg_2', 'assistant', NULL, now(), now());
        INSERT INTO message_revisions VALUES (1, 1, 1, 1, '[]');
        INSERT INTO message_terms (thread_pk, seq, project_id, terms) VALUES (1, 1, 1, '\\x00');
        INSERT INTO tool_uses VALUES (1, 'call_1', 1, 1);
        INSERT INTO lanes VALUES (1, 'lane', 1, '{}', now());
        INSERT INTO stable_texts VALUES (1, 'digest', 1, '[]');
        INSERT INTO prompts (thread_pk, project_id, id, lane_key, thread_version, stable_digest, plan, built_at)
            VALUES (1, 1, 'prompt_1', 'lane', 1, 'digest', '{}', now());
        INSERT INTO token_estimates VALUES (1, 'anthropic', 'm', '{}', now());
        INSERT INTO idempotency_records VALUES (1, 'POST', '/v1/threads', 'k', '\\x00', 201, '{}', now());
    """,
    "0004": """
        INSERT INTO pending_embeddings (thread_pk, seq, embedder_pk, project_id) VALUES (1, 1, 1, 1);
        INSERT INTO vectors_1 (thread_pk, seq, passage, project_id, embedding)
            VALUES (1, 1, 1, 1, array_fill(0.1, ARRAY[384])::halfvec);
    """,
    "0006": """
        INSERT INTO usage_entries (project_id, kind, called_at, thread_id, provider, model, cache_read_tokens,
            cache_write_5m_tokens, cache_write_1h_tokens, uncached_tokens, output_tokens, cost_usd)
            VALUES (1, 'report', now(), 'thread_1', 'anthropic', 'm', 1, 2, 3, 4, 5, 0.0000000012);
    """,
    "0007": """
        INSERT INTO runs (project_id, thread_pk, id, status, provider, model, spec, created_at)
            VALUES (1, 1, 'run_1', 'completed', 'echo', 'm', '{}', now());
        INSERT INTO run_events (run_pk, seq, project_id, type, content) VALUES (1, 1, 1, 'run.created', '{}');
        INSERT INTO servers (id) VALUES ('00000000-0000-0000-0000-000000000001');
    """,
}


def execute(url: str, statements: str) -> None:
    with psycopg.connect(url, options="-c search_path=memory,public") as connection:
        connection.execute(statements.encode())


def counts(url: str) -> dict[str, int]:
    with psycopg.connect(url, options="-c search_path=memory,public") as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'memory'::regnamespace AND relkind = 'r'"
        ).fetchall()
        found = {}
        for (table,) in tables:
            row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
            assert row
            found[table] = row[0]
        return found


def usable(url: str) -> None:
    asyncio.run(check_database(url))
    asyncio.run(create_key(url, "p", "k", datetime.now(UTC)))


def unusable(url: str) -> str:
    with pytest.raises(DatabaseNotReady) as error:
        asyncio.run(check_database(url))
    return error.value.message


def refused(url: str) -> str:
    with pytest.raises(DatabaseNotReady) as error:
        migrate(url)
    return error.value.message


def test_from_nothing(empty_url: str) -> None:
    assert "memory-service migrate" in unusable(empty_url)
    migrate(empty_url)
    usable(empty_url)
    before = counts(empty_url)
    migrate(empty_url)
    assert counts(empty_url) == before, "once more: nothing happens"


@pytest.mark.parametrize("revision", REVISIONS)
def test_from_each_revision_with_rows_in_it(empty_url: str, revision: str) -> None:
    migrate(empty_url, revision)
    for earlier in REVISIONS[: REVISIONS.index(revision) + 1]:
        execute(empty_url, ROWS.get(earlier, "SELECT 1"))
    before = counts(empty_url)
    assert all(before.values()), f"the rows of this test leave tables empty: {before}"
    migrate(empty_url)
    after = counts(empty_url)
    assert {table: after[table] for table in before} == before
    usable(empty_url)


def test_what_was_written_before_vectors_is_queued_for_them(empty_url: str) -> None:
    """The message that has text, and not the deleted one."""
    migrate(empty_url, "0003")
    execute(empty_url, ROWS["0001"])
    migrate(empty_url)
    with psycopg.connect(empty_url, options="-c search_path=memory,public") as connection:
        queued = connection.execute(
            "SELECT p.thread_pk, p.seq, p.project_id, p.attempts, p.not_before <= now(), e.name, e.status, e.dimensions"
            " FROM pending_embeddings p JOIN embedders e ON e.pk = p.embedder_pk"
        ).fetchall()
        assert queued == [(1, 1, 1, 0, True, BuiltinEmbedder.name, "active", BuiltinEmbedder.dimensions)]
        assert connection.execute("SELECT spec FROM embedders").fetchone() == (EmbedderSpec.parse("builtin").to_json(),)


def has_a_class(name: str | None, kind: str, _parents: object) -> bool:
    """Each embedder's table of vectors is made by a function of the schema."""
    return kind != "table" or not (name == "alembic_version" or (name or "").startswith("vectors_"))


def test_the_tables_are_what_the_classes_say(database_url: str) -> None:
    """As `alembic check` does; what that does not see is in schema.sql."""
    assert SQLModel.metadata.tables == {}, "a table of ours is in the wrong metadata"
    engine = create_engine(sqlalchemy_url(database_url), connect_args={"options": "-c search_path=memory"})
    with engine.connect() as connection:
        opts = {"compare_type": True, "compare_server_default": True, "include_name": has_a_class}
        differences = compare_metadata(MigrationContext.configure(connection, opts=opts), metadata)
    engine.dispose()
    assert differences == []


def test_the_schema_is_the_committed_one(postgres: EmbeddedPostgres, database_url: str) -> None:
    committed = (REPOSITORY / "migrations" / "schema.sql").read_text()
    assert schema_sql(postgres, database_url) == committed, "run `python -m tests.store.schema > migrations/schema.sql`"


def test_replicas_migrate_at_once(empty_url: str) -> None:
    program = "import sys; from memory_service.store.migrate import migrate; migrate(sys.argv[1])"
    command = [sys.executable, "-W", "error", "-c", program, empty_url]
    replicas = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    assert [(r.communicate(timeout=60)[1], r.returncode) for r in replicas] == [("", 0)] * 6
    usable(empty_url)


# Databases that others administer.


@contextmanager
def role(postgres: EmbeddedPostgres, name: str, attributes: str) -> Iterator[str]:
    execute(postgres.uri, f"CREATE ROLE {name} LOGIN NOSUPERUSER {attributes}")
    try:
        yield name
    finally:
        execute(postgres.uri, f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
def plain(postgres: EmbeddedPostgres, database_url: str) -> Iterator[str]:
    """A role that is nothing special. memory_app and memory_worker exist: the fixture's database was migrated."""
    with role(postgres, "plain", "NOCREATEROLE") as name:
        yield name


@pytest.fixture
def own_cluster(temporary_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A server in which memory_app and memory_worker were never made."""
    server = EmbeddedPostgres.start(temporary_dir / "never-migrated")
    yield server
    server.stop()


def test_owner_without_superuser_but_with_createrole(own_cluster: EmbeddedPostgres) -> None:
    with role(own_cluster, "creator", "CREATEROLE"), database(own_cluster, owner="creator", extension=True) as url:
        migrate(url)
        usable(url)
        with database(own_cluster, owner="creator", extension=True) as second:
            migrate(second)
            usable(second)
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (
                False,
            )
        # Only one who made a role can drop it.
        execute(own_cluster.uri, "DROP OWNED BY memory_app, memory_worker")
    with role(own_cluster, "humble", "NOCREATEROLE"), database(own_cluster, owner="humble", extension=True) as url:
        refusal = refused(url)
        assert "permission denied to grant role" in refusal
        assert "GRANT memory_app, memory_worker TO" in refusal
        assert "\n" not in refusal
        execute(own_cluster.uri, "DROP ROLE memory_app, memory_worker")
        refusal = refused(url)
        assert "permission denied to create role" in refusal
        assert "CREATE ROLE memory_app; CREATE ROLE memory_worker; GRANT memory_app, memory_worker TO" in refusal
        assert "not migrated" in unusable(url)
        execute(own_cluster.uri, "CREATE ROLE memory_app; CREATE ROLE memory_worker")
        execute(own_cluster.uri, "GRANT memory_app, memory_worker TO humble WITH SET FALSE")
        assert "WITH SET TRUE" in refused(url)
        execute(own_cluster.uri, "GRANT memory_app, memory_worker TO humble WITH SET TRUE, INHERIT FALSE")
        migrate(url)
        usable(url)
        with role(own_cluster, "another", ""):
            other = make_url(url).set(username="another").render_as_string(hide_password=False)
            assert "GRANT memory_app, memory_worker TO" in unusable(other), "served under a role that did not migrate"


def test_the_owner_is_held_by_the_policies_too(
    plain: str, postgres: EmbeddedPostgres, new_database: Callable[[str], str]
) -> None:
    """FORCE ROW LEVEL SECURITY: an owner that is no superuser and no worker sees nothing, and is told so in a migration."""
    url = new_database(plain)
    execute(postgres.uri, f"GRANT memory_app, memory_worker TO {plain} WITH SET TRUE, INHERIT FALSE")
    migrate(url)
    usable(url)
    assert counts(url)["projects"] == 0
    with psycopg.connect(url, options="-c search_path=memory -c row_security=off") as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            connection.execute("UPDATE projects SET name = 'lost'")
        connection.rollback()
        connection.execute("SET LOCAL row_security = on; SET LOCAL ROLE memory_worker")
        assert connection.execute("UPDATE projects SET name = 'found'").rowcount == 1


def test_no_pgvector_on_the_server(plain: str, postgres: EmbeddedPostgres, new_database: Callable[[str], str]) -> None:
    url = new_database(plain)
    execute(postgres.uri, f"GRANT memory_app, memory_worker TO {plain}")
    execute(postgres.uri, f"ALTER ROLE {plain} SET extension_control_path = '/nonexistent'")
    execute(postgres.uri.replace("/memory?", f"/{make_url(url).database}?"), "DROP EXTENSION vector")
    refusal = refused(url)
    assert 'extension "vector" is not available' in refusal
    assert "Install pgvector" in refusal


def test_what_a_role_may_not_do_itself(plain: str, postgres: EmbeddedPostgres, empty_url: str) -> None:
    admin = empty_url
    url = make_url(admin).set(username=plain).render_as_string(hide_password=False)
    execute(postgres.uri, f"GRANT memory_app, memory_worker TO {plain}")
    refusal = refused(url)
    assert "permission denied for database" in refusal
    assert "own the database, or have CREATE on it" in refusal
    execute(admin, f"CREATE SCHEMA memory AUTHORIZATION {plain}")
    refusal = refused(url)
    assert "Let an administrator run CREATE EXTENSION vector" in refusal
    execute(admin, "CREATE EXTENSION vector")
    migrate(url)
    usable(url)
    execute(admin, "DROP EXTENSION vector CASCADE")
    assert "lost its pgvector extension" in unusable(url)


# What `serve` and `migrate` say.

SECRET = "s3cret-w0rd"


def command(
    *arguments: str, url: str, cwd: Path | None = None, python: str = sys.executable, **settings: str
) -> tuple[int, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MEMORY_", "PYTHON"))}
    done = subprocess.run(
        [python, "-m", "memory_service", *arguments],
        env=env | {"MEMORY_DATABASE_URL": url} | settings,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert SECRET not in said
    return done.returncode, said


def test_serve_refuses_a_database_that_is_not_migrated(empty_url: str) -> None:
    status, said = command("serve", "--port", "0", url=empty_url)
    assert status == 1
    assert "`memory-service migrate`" in said
    assert "--migrate" in said
    served = Service.start("--migrate", env={"MEMORY_DATABASE_URL": empty_url})
    assert served.stop() == 0
    served = Service.start(env={"MEMORY_DATABASE_URL": empty_url})
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(30) == 0


def test_migrate_command(empty_url: str) -> None:
    status, said = command("migrate", url=empty_url)
    assert (status, said) == (0, "the Postgres of MEMORY_DATABASE_URL: migrated\n")
    status, said = command("migrate", url=empty_url)
    assert status == 0
    assert said == "the Postgres of MEMORY_DATABASE_URL: migrated already; there was nothing to do\n"
    usable(empty_url)


def test_a_database_of_a_newer_version_is_refused(empty_url: str) -> None:
    migrate(empty_url)
    execute(empty_url, "UPDATE memory.alembic_version SET version_num = '9999'")
    assert f"is at migration 9999, this version needs {head_revision()}" in unusable(empty_url)
    refusal = refused(empty_url)
    assert "9999" in refusal
    assert "newer" in refusal


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "is not a URL"),
        (f"host=localhost password={SECRET}", "is not a URL"),
        (f"postgresql:/user:{SECRET}@localhost/db", "is not a URL"),
        (f"postgresql://user:{SECRET}@localhost:port/db", "is not a URL"),
        (f"postgresql://user:{SECRET}@[::1/db", "is not a URL"),
        (f"postgresql://user:p@{SECRET}@localhost/db", "more than one @"),
        (f"mysql://user:{SECRET}@localhost/db", "only postgresql:// is supported"),
        (f"postgresql://user:{SECRET}@localhost:1/db", "Check MEMORY_DATABASE_URL and that Postgres is running"),
        (f"postgresql://user:{SECRET}@no-such-host.invalid/db", "Check MEMORY_DATABASE_URL"),
        (f"postgresql://user:{SECRET}@localhost:99999/db", "Check MEMORY_DATABASE_URL"),
        (f"postgresql://user:{SECRET}@localhost/db?no_such_option=1", "Check MEMORY_DATABASE_URL"),
    ],
)
@pytest.mark.parametrize("migrating", [False, True])
def test_a_url_that_leads_nowhere_is_explained(url: str, said: str, migrating: bool) -> None:
    message = refused(url) if migrating else unusable(url)
    assert said in message
    assert SECRET not in message
    assert "\n" not in message


@pytest.mark.parametrize("option", [(), ("--migrate",)])
def test_serve_explains_an_unreachable_database(option: tuple[str, ...]) -> None:
    url = f"postgresql://user:{SECRET}@localhost:1/db"
    status, said = command("serve", "--port", "0", *option, url=url, MEMORY_DATABASE_WAIT_SECONDS="0.1")
    assert status == 1
    assert "the database cannot be reached yet; trying again" in said
    assert "Check MEMORY_DATABASE_URL and that Postgres is running." in said


def test_wrong_password_and_missing_database(temporary_dir: Path) -> None:
    """With a server that asks for passwords; the embedded one does not."""
    data_dir = temporary_dir / "with-passwords"
    server = EmbeddedPostgres.start(data_dir)
    try:
        execute(server.uri, "CREATE ROLE someone LOGIN PASSWORD 'right'")
        hba = data_dir / "postgres" / "pg_hba.conf"
        hba.write_text("local all postgres trust\nlocal all all scram-sha-256\n")
        execute(server.uri, "SELECT pg_reload_conf()")
        url = make_url(server.uri).set(username="someone", password=SECRET)
        status, said = command("serve", "--port", "0", url=url.render_as_string(hide_password=False))
        assert status == 1
        assert 'password authentication failed for user "someone"' in said
        assert "trying again" not in said, "it would not help"
        assert "Check MEMORY_DATABASE_URL" in said
        url = make_url(server.uri).set(database="missing")
        status, said = command("migrate", url=url.render_as_string(hide_password=False))
        assert status == 1
        assert 'database "missing" does not exist' in said
    finally:
        server.stop()


def test_the_wheel_migrates_by_itself(empty_url: str, tmp_path: Path) -> None:
    """Nothing of the checkout is on the path: the wheel is unpacked into an environment that has the dependencies."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {
            f"memory_service/_migrations/versions/{p.name}" for p in migrations_dir().glob("versions/*.py")
        } <= names
        assert {"memory_service/assets/models.json", "memory_service/assets/o200k_base.tiktoken.xz"} <= names
        assert not [name for name in names if name.startswith(("tests/", "bench/")) or "__pycache__" in name]
        archive.extractall(tmp_path / "unpacked")
    program = (
        "import sys, memory_service; sys.path[:] = [p for p in sys.path if p != sys.argv[2]];"
        " from memory_service.store.migrate import migrate, migrations_dir;"
        " assert str(migrations_dir()).startswith(sys.argv[1]), migrations_dir();"
        " from memory_service.providers.tokenizers import O200kCounter; assert O200kCounter().count('hi').latin == 1;"
        " migrate(sys.argv[3])"
    )
    unpacked = str(tmp_path / "unpacked")
    done = subprocess.run(
        [sys.executable, "-c", program, unpacked, str(REPOSITORY), empty_url],
        env={**os.environ, "PYTHONPATH": unpacked},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    usable(empty_url)
