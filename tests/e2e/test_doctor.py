"""`memory-service doctor` finds what is really broken, and says how to mend it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from typer.testing import CliRunner

from memory_service.cli import app
from memory_service.cli.doctor import disk_space
from memory_service.runtime import load_models
from memory_service.store.embedded import EmbeddedPostgres
from memory_service.store.migrate import migrate
from tests.conftest import REPOSITORY, Service
from tests.embedding.server import serving
from tests.store.conftest import database

Findings = dict[str, dict[str, str]]


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("MEMORY_", "ANTHROPIC_", "OPENAI_")):
            monkeypatch.delenv(name)


@pytest.fixture
def migrated(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database of the test's own, to break."""
    with database(postgres) as url:
        migrate(url)
        yield url


def examine(*arguments: str, url: str | None = None, **environment: str) -> tuple[int, Findings]:
    if url is not None:
        environment["MEMORY_DATABASE_URL"] = url
    ran = CliRunner().invoke(app, ["doctor", "--json", *arguments], env=environment)
    report: dict[str, Any] = json.loads(ran.stdout)
    findings = {finding["name"]: finding for finding in report["findings"]}
    statuses = {finding["status"] for finding in findings.values()}
    assert report["status"] == next(status for status in ("fail", "warn", "ok") if status in statuses)
    assert ran.exit_code == (1 if "fail" in statuses else 0)
    assert all(finding["remedy"] for finding in findings.values() if finding["status"] != "ok")
    return ran.exit_code, findings


def failing(findings: Findings) -> set[str]:
    return {name for name, finding in findings.items() if finding["status"] == "fail"}


def change(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[arg-type]


def test_all_well(database_url: str, service: Service, api_key: str) -> None:
    status, findings = examine(url=database_url, MEMORY_BASE_URL=service.url, MEMORY_API_KEY=api_key)
    assert status == 0
    assert {finding["status"] for finding in findings.values()} == {"ok"}
    assert {"database", "pgvector", "migrations", "row security", "tokenizer", "embedder", "service"} <= findings.keys()
    assert api_key not in json.dumps(findings)
    shown = CliRunner().invoke(app, ["doctor"], env={"MEMORY_DATABASE_URL": database_url})
    assert "ok    migrations" in shown.stdout


def test_the_embedded_database_of_a_running_service(postgres: EmbeddedPostgres, temporary_dir: Path) -> None:
    _, findings = examine("--data-dir", str(temporary_dir / "data"))
    assert findings["data directory"]["status"] == findings["database"]["status"] == "ok"


def test_before_the_first_start(temporary_dir: Path) -> None:
    status, findings = examine("--data-dir", str(temporary_dir / "not there"))
    assert status == 0
    assert findings["database"]["status"] == findings["data directory"]["status"] == "warn"
    assert not (temporary_dir / "not there").exists()


@pytest.mark.parametrize(
    ("url", "says", "remedy"),
    [
        ("postgresql://nobody@127.0.0.1:1/memory", "cannot be used", "Check MEMORY_DATABASE_URL"),
        ("postgresql://nobody@nowhere.invalid/memory", "cannot be used", "Check MEMORY_DATABASE_URL"),
        ("mysql://secret@127.0.0.1/memory", "begins with mysql://", "Only postgresql://"),
    ],
)
def test_no_database(url: str, says: str, remedy: str) -> None:
    ran = CliRunner().invoke(app, ["doctor", "--json"], env={"MEMORY_DATABASE_URL": url})
    found = next(f for f in json.loads(ran.stdout)["findings"] if f["name"] == "database")
    assert ran.exit_code == 1
    assert found["status"] == "fail"
    assert says in found["message"]
    assert remedy in found["remedy"]
    assert "secret" not in ran.stdout


def test_a_database_that_was_never_migrated(postgres: EmbeddedPostgres) -> None:
    with database(postgres) as url:
        _, findings = examine(url=url)
    assert failing(findings) == {"pgvector", "migrations"}
    assert "memory-service migrate" in findings["migrations"]["remedy"]


def test_a_database_of_another_version(migrated: str) -> None:
    change(migrated, "UPDATE memory.alembic_version SET version_num = '9999_later'")
    _, findings = examine(url=migrated)
    assert failing(findings) == {"migrations"}
    assert "9999_later" in findings["migrations"]["message"]


def test_without_pgvector(migrated: str) -> None:
    change(migrated, "DROP EXTENSION vector CASCADE")
    _, findings = examine(url=migrated)
    assert "pgvector" in failing(findings)
    assert "CREATE EXTENSION vector" in findings["pgvector"]["remedy"]


@pytest.mark.parametrize("statement", ["DISABLE ROW LEVEL SECURITY", "NO FORCE ROW LEVEL SECURITY"])
def test_projects_that_are_not_kept_apart(migrated: str, statement: str) -> None:
    change(migrated, f"ALTER TABLE memory.threads {statement}")
    _, findings = examine(url=migrated)
    assert failing(findings) == {"row security"}
    assert "threads" in findings["row security"]["message"]


def test_a_policy_that_lets_everything_through(migrated: str) -> None:
    change(
        migrated,
        "CREATE POLICY careless ON memory.messages TO memory_app USING (true)",
        "INSERT INTO memory.projects (name, created_at) VALUES ('p', now())",
        "INSERT INTO memory.threads (project_id, id, created_at) SELECT pk, 't', now() FROM memory.projects",
        "INSERT INTO memory.messages (thread_pk, seq, project_id, id, role, content, created_at)"
        " SELECT pk, 1, project_id, 'm', 'user', '[]', now() FROM memory.threads",
    )
    _, findings = examine(url=migrated)
    assert failing(findings) == {"row security"}


def test_a_role_that_no_policy_binds(migrated: str) -> None:
    change(migrated, "ALTER ROLE memory_app BYPASSRLS")
    try:
        _, findings = examine(url=migrated)
    finally:
        change(migrated, "ALTER ROLE memory_app NOBYPASSRLS")
    assert failing(findings) == {"row security"}
    assert "NOBYPASSRLS" in findings["row security"]["remedy"]


def test_a_login_that_may_not_act_as_the_service(migrated: str) -> None:
    change(migrated, "CREATE ROLE stranger LOGIN")
    change(migrated, "GRANT USAGE ON SCHEMA memory TO stranger", "GRANT SELECT ON memory.alembic_version TO stranger")
    parts = urlsplit(migrated)
    try:
        _, findings = examine(url=parts._replace(netloc=parts.netloc.replace("postgres@", "stranger@")).geturl())
    finally:
        change(migrated, "DROP OWNED BY stranger", "DROP ROLE stranger")
    assert failing(findings) == {"row security", "connections"}
    assert "GRANT memory_app" in findings["row security"]["remedy"]


@pytest.mark.parametrize(
    ("name", "finding"), [("o200k_base.tiktoken.xz", "tokenizer"), ("embedder/model.safetensors", "embedder")]
)
def test_a_damaged_installation(temporary_dir: Path, name: str, finding: str) -> None:
    installed = temporary_dir / finding
    for package in ("memory_service", "migrations"):
        shutil.copytree(REPOSITORY / package, installed / package, ignore=shutil.ignore_patterns("__pycache__"))
    asset = installed / "memory_service" / "assets" / name
    asset.write_bytes(asset.read_bytes()[:-1_000])
    ran = subprocess.run(
        [sys.executable, "-m", "memory_service", "doctor", "--json", "--data-dir", str(temporary_dir / "not there")],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 1, ran.stderr
    findings = {found["name"]: found for found in json.loads(ran.stdout)["findings"]}
    assert failing(findings) == {finding}
    assert "Install memory-service again" in findings[finding]["remedy"]


@contextmanager
def answering(status: int) -> Iterator[tuple[str, list[str]]]:
    """A provider's server; and what was asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://user:hidden@127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("prefix", "name", "more"), [("ANTHROPIC", "Anthropic", {"ANTHROPIC_AUTH_TOKEN": "t"}), ("OPENAI", "OpenAI", {})]
)
def test_providers_without_a_key(temporary_dir: Path, prefix: str, name: str, more: dict[str, str]) -> None:
    here = ("--data-dir", str(temporary_dir / "not there"))
    _, findings = examine(*here)
    assert findings[name]["message"] == f"not used: {prefix}_API_KEY is not set"
    with answering(200) as (url, asked):
        _, findings = examine(*here, **{f"{prefix}_BASE_URL": url, **more})
    assert (findings[name]["status"], len(asked)) == ("ok", 1)
    assert findings[name]["message"].endswith("answers")


@pytest.mark.parametrize(
    ("prefix", "name", "path"), [("ANTHROPIC", "Anthropic", "/v1/models"), ("OPENAI", "OpenAI", "/models")]
)
def test_providers(temporary_dir: Path, prefix: str, name: str, path: str) -> None:
    here = ("--data-dir", str(temporary_dir / "not there"))
    for status, expected in ((200, "ok"), (404, "ok"), (401, "fail"), (403, "fail"), (500, "warn")):
        with answering(status) as (url, asked):
            _, findings = examine(*here, **{f"{prefix}_API_KEY": "sk-hidden", f"{prefix}_BASE_URL": url})
        assert findings[name]["status"] == expected, status
        assert asked == [path]
        assert "hidden" not in json.dumps(findings)
    _, findings = examine(*here, **{f"{prefix}_API_KEY": "sk-hidden", f"{prefix}_BASE_URL": url})
    assert failing(findings) == {name}
    assert f"{prefix}_BASE_URL" in findings[name]["remedy"]


def test_another_embedder(migrated: str) -> None:
    with serving() as server:
        switch = ["embedder", "switch", "openai:hashing", "--base-url", server.url]
        ran = CliRunner().invoke(app, switch, env={"MEMORY_DATABASE_URL": migrated})
        assert ran.exit_code == 0, ran.output
        _, findings = examine(url=migrated)
        assert findings["active embedder"]["status"] == "ok"
        assert "openai:hashing" in findings["active embedder"]["message"]
    status, findings = examine(url=migrated)
    assert (status, findings["active embedder"]["status"]) == (0, "warn")
    assert "by words" in findings["active embedder"]["remedy"]
    CliRunner().invoke(app, ["embedder", "switch", "builtin"], env={"MEMORY_DATABASE_URL": migrated})
    assert "active embedder" not in examine(url=migrated)[1]


def test_a_price_table_of_ones_own(temporary_dir: Path) -> None:
    path = temporary_dir / "models.json"
    for text, status in (('{"models": []}', "ok"), ('{"models": [{"name": "mine"}]}', "fail")):
        path.write_text(text)
        load_models.cache_clear()  # each run of the command reads it anew
        _, findings = examine("--data-dir", str(temporary_dir / "none"), MEMORY_MODELS_FILE=str(path))
        assert findings["models"]["status"] == status


def test_a_misspelt_setting_is_named(temporary_dir: Path) -> None:
    environment = {"MEMORY_PROT": "1", "MEMORY_API_KEY": "msk_any"}
    ran = CliRunner().invoke(app, ["doctor", "--data-dir", str(temporary_dir / "none")], env=environment)
    assert ran.stderr.splitlines()[0] == "MEMORY_PROT is no setting; did you mean MEMORY_PORT?"
    assert "MEMORY_API_KEY is no setting" not in ran.stderr


def test_the_key_and_the_service(database_url: str, service: Service) -> None:
    _, findings = examine(url=database_url, MEMORY_BASE_URL=service.url, MEMORY_API_KEY="msk_wrong")
    assert failing(findings) == {"service"}
    assert "keys create" in findings["service"]["remedy"]
    _, findings = examine(url=database_url, MEMORY_BASE_URL="http://127.0.0.1:1", MEMORY_API_KEY="msk_any")
    assert failing(findings) == {"service"}
    assert "memory-service serve" in findings["service"]["remedy"]
    status, findings = examine(url=database_url, MEMORY_PORT="1", MEMORY_API_KEY="msk_any")
    assert (status, findings["service"]["status"]) == (0, "warn")


def test_the_data_directory(temporary_dir: Path) -> None:
    file = temporary_dir / "a file"
    file.write_text("")
    _, findings = examine("--data-dir", str(file))
    assert failing(findings) == {"data directory"}
    open_to_all = temporary_dir / "open"
    open_to_all.mkdir()
    (open_to_all / "api_key").write_text("msk_x\n")
    (open_to_all / "api_key").chmod(0o644)
    _, findings = examine("--data-dir", str(open_to_all))
    assert findings["data directory"]["status"] == "warn"
    assert "chmod 600" in findings["data directory"]["remedy"]


def test_a_full_disk() -> None:
    if not Path("/proc/self").exists():
        pytest.skip("there is no file system here that has no room")
    assert disk_space(Path("/proc/self")).status == "fail"
    assert disk_space(Path("/")).message.endswith("at /")
