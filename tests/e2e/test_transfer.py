"""`memory-service export` and `import`, as processes: bytes, pipes, and being cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import psycopg
import pytest
from typer.testing import CliRunner, Result

from memory_service.cli import app
from memory_service.store.embedded import EmbeddedPostgres
from memory_service.store.migrate import migrate
from tests.conftest import Service, ended

COMMAND = [sys.executable, "-m", "memory_service"]
TIME = "2026-01-01T00:00:00Z"
LARGE_THREADS, LARGE_MESSAGES = 12, 1_000


def run(url: str, *arguments: str, stdin: bytes | None = None) -> Result:
    """In this process: a process takes two seconds to start. Those that are ended by signals have one."""
    return CliRunner().invoke(app, arguments, input=stdin, env={"MEMORY_DATABASE_URL": url})


def environment(url: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("MEMORY_")} | {"MEMORY_DATABASE_URL": url}


def done(ran: Result) -> Result:
    assert ran.exit_code == 0, ran.stderr
    return ran


def jsonl(*lines: Mapping[str, Any]) -> bytes:
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


def thread(id_: str, **fields: Any) -> dict[str, Any]:
    return {"type": "thread", "id": id_, "created_at": TIME, **fields}


def message(id_: str, number: int, content: Any) -> dict[str, Any]:
    role = "user" if number % 2 else "assistant"
    return {"type": "message", "id": id_, "seq": number, "role": role, "content": content, "created_at": TIME}


@pytest.fixture(scope="module")
def sample() -> bytes:
    """All that a line can say, in forms that are easily lost."""
    call = {"type": "tool_use", "id": "call", "name": "f", "input": {"b": "1.10", "a": ["1e400", "-0", "\u2028"]}}
    return jsonl(
        {"type": "assistant", "id": "asst_1", "name": "a", "instructions": "  i\n", "created_at": TIME},
        {"type": "assistant", "id": "asst_unused", "metadata": {"k": "v"}, "created_at": TIME},
        thread("thread_1", user_id="mina", assistant_id="asst_1", metadata={"z": "1", "a": "2"}),
        message("msg_1", 1, '안녕 \u0001 \\ "'),
        message("msg_2", 2, [{"type": "text", "text": "t"}, call]),
        message("msg_3", 7, [{"type": "tool_result", "tool_use_id": "call", "content": "r", "later": {"x": 1.0}}]),
        thread("thread_2", user_id="jun", truncation_strategy={"type": "last_messages", "last_messages": 4}),
        message("msg_4", 1, [{"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}]),
        thread("thread_empty", user_id="mina"),
    ).replace(b'"1.10", "a": ["1e400", "-0"', b'1.10, "a": [1e400, -0')


@pytest.fixture
def other_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A second installation: a database of its own."""
    name = f"other_{os.getpid()}"
    with psycopg.connect(postgres.uri, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        url = urlsplit(postgres.uri)._replace(path=f"/{name}").geturl()
        migrate(url)
        yield url
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def large_file(temporary_dir: Path) -> Path:
    """Enough for the processes that prepare lines on every core to be started."""
    path = temporary_dir / "large.ndjson"
    with path.open("wb") as file:
        for t in range(LARGE_THREADS):
            file.write(jsonl(thread(f"thread_{t}")))
            file.writelines(
                jsonl(message(f"msg_{t}_{n}", n, f"thread {t} says word{n} for the {n}th time"))
                for n in range(1, LARGE_MESSAGES + 1)
            )
    return path


def test_into_another_installation(
    database_url: str, other_url: str, sample: bytes, project: str, temporary_dir: Path
) -> None:
    """`export | import`, and every byte is there again."""
    imported = done(run(database_url, "import", "-", "--project", project, "--json", stdin=sample))
    counts = json.loads(imported.stdout)
    assert {name: counts[name] for name in ("assistants", "threads", "messages", "skipped")} == {
        "assistants": 2,
        "threads": 3,
        "messages": 4,
        "skipped": 0,
    }
    exported = done(run(database_url, "export", "--project", project)).stdout_bytes
    assert exported.count(b"\n") == 9
    assert b'"input":{"b":1.10,"a":[1e400,-0,' in exported
    done(run(other_url, "import", "-", stdin=exported))
    file = temporary_dir / "again.ndjson"
    summary = json.loads(done(run(other_url, "export", "--out", str(file), "--json")).stdout)
    assert file.read_bytes() == exported
    assert (summary["threads"], summary["messages"], summary["bytes"]) == (3, 4, len(exported))


def test_selections(database_url: str, sample: bytes, project: str) -> None:
    done(run(database_url, "import", "-", "--project", project, stdin=sample))

    def ids(*options: str) -> list[str]:
        lines = done(run(database_url, "export", "--project", project, *options)).stdout_bytes.splitlines()
        return [json.loads(line)["id"] for line in lines]

    assert ids("--thread", "thread_2", "--thread", "thread_empty") == ["thread_2", "msg_4", "thread_empty"]
    assert ids("--user", "mina") == ["asst_1", "thread_1", "msg_1", "msg_2", "msg_3", "thread_empty"]
    for options, says in (
        (["--thread", "thread_9"], "no thread 'thread_9'"),
        (["--thread", "thread_1", "--user", "mina"], "not both"),
        (["--project", "nobody's"], "no project"),
        (["--out", "/nowhere/at/all"], "Cannot write /nowhere/at/all: No such file"),
    ):
        ran = run(database_url, "export", "--project", project, *options)
        assert ran.exit_code == 1
        assert says in ran.stderr
        assert ran.stdout == ""


def test_a_bad_line_is_named_and_the_rest_can_follow(
    database_url: str, sample: bytes, project: str, temporary_dir: Path
) -> None:
    file = temporary_dir / "bad.ndjson"
    file.write_bytes(sample + b'{"type":"thread"}\n')
    ran = run(database_url, "import", str(file), "--project", project)
    assert ran.exit_code == 1
    assert f"{file}: Line 10: " in ran.stderr
    assert "`id`" in ran.stderr
    file.write_bytes(sample)
    done(run(database_url, "import", str(file), "--project", project))
    missing = run(database_url, "import", "/nowhere/at/all", "--project", project)
    assert missing.exit_code == 1
    assert "Cannot read /nowhere/at/all" in missing.stderr


def test_killed_and_run_again(
    database_url: str, large_file: Path, project: str, service: Service, project_key: str
) -> None:
    """Nothing is lost or doubled, the processes that helped are gone, and what was written can be found."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        killed = subprocess.Popen(
            [*COMMAND, "import", str(large_file), "--project", project],
            stderr=subprocess.DEVNULL,
            env=environment(database_url),
        )
        helpers: set[psutil.Process] = set()
        try:
            while stored(connection, project) == 0 or not helpers:
                helpers |= set(psutil.Process(killed.pid).children())
                assert killed.poll() is None, "it was through before it could be killed"
        finally:
            killed.kill()
            killed.wait()
        psutil.wait_procs(list(helpers), timeout=30)
        assert not [helper for helper in helpers if helper.is_running() and helper.status() != psutil.STATUS_ZOMBIE]
        before = stored(connection, project)
        again = json.loads(done(run(database_url, "import", str(large_file), "--project", project, "--json")).stdout)
        assert again["messages"] + again["skipped"] == LARGE_THREADS * LARGE_MESSAGES
        assert again["skipped"] >= before > 0
        assert stored(connection, project) == LARGE_THREADS * LARGE_MESSAGES
    exported = done(run(database_url, "export", "--project", project)).stdout_bytes.splitlines()
    order = [(line["thread_id"], line["seq"]) for line in map(json.loads, exported) if line["type"] == "message"]
    assert order == [(f"thread_{t}", n) for t in range(LARGE_THREADS) for n in range(1, LARGE_MESSAGES + 1)]
    headers = {"authorization": f"Bearer {project_key}"}
    found = httpx2.get(f"{service.url}/v1/threads/thread_11/search", params={"q": "word999"}, headers=headers).json()
    assert found["data"][0]["message_id"] == "msg_11_999"


def test_asked_to_end(database_url: str, large_file: Path, project: str) -> None:
    """An import from a pipe that stays open ends at once, and keeps what it has."""
    running = subprocess.Popen(
        [*COMMAND, "import", "-", "--project", project],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(database_url),
    )
    assert running.stdin
    with psycopg.connect(database_url, autocommit=True) as connection, running:
        try:
            running.stdin.write(large_file.read_bytes())
            running.stdin.flush()
            while stored(connection, project) == 0:
                assert running.poll() is None
            running.send_signal(signal.SIGTERM)
        finally:
            status = ended(running, 60)  # it waits for the pipe, which stays open
        assert status == 128 + signal.SIGTERM
        assert running.stderr
        assert running.stderr.read() == b""
        assert stored(connection, project) > 0


def test_a_cut_export_leaves_no_file(database_url: str, sample: bytes, project: str, temporary_dir: Path) -> None:
    """No room to write is said in one line, and what was there before stays."""
    done(run(database_url, "import", "-", "--project", project, stdin=sample))
    file = temporary_dir / "kept.ndjson"
    file.write_bytes(b"older")
    limited = ["sh", "-c", 'ulimit -f 1 && exec "$@"', "sh"]  # a block: less than the sample
    ran = subprocess.run(
        [*limited, *COMMAND, "export", "--project", project, "--out", str(file)],
        capture_output=True,
        env=environment(database_url) | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert ran.returncode == 1
    assert f"Cannot write {file}: File too large.".encode() in ran.stderr
    assert ran.stderr.count(b"\n") == 1
    assert file.read_bytes() == b"older"
    assert list(temporary_dir.glob("kept.ndjson*")) == [file]


def stored(connection: psycopg.Connection, project: str) -> int:
    row = connection.execute(
        "SELECT count(*) FROM memory.messages m JOIN memory.projects p ON p.pk = m.project_id WHERE p.name = %s",
        [project],
    ).fetchone()
    assert row
    return int(row[0])


@pytest.fixture
def project(new_project: Callable[[], str], database_url: str, project_key: str) -> str:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT name FROM memory.projects ORDER BY pk DESC LIMIT 1").fetchone()
    assert row
    return str(row[0])


@pytest.fixture
def project_key(new_project: Callable[[], str]) -> str:
    return new_project()
