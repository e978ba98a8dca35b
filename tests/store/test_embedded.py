"""The embedded Postgres, with real servers: it starts, survives every kind of kill, and says what is wrong.

The data directories are made straight under the temporary directory, because as root the server runs under
another account, and pytest closes its own directory to every other account whenever a new session begins.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import LiteralString

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest

from memory_service.store.embedded import EmbeddedPostgres, EmbeddedPostgresError

SERVICE = """
import sys, time
from pathlib import Path
from memory_service.store.embedded import EmbeddedPostgres
server = EmbeddedPostgres.start(Path(sys.argv[1]), owner="http://127.0.0.1:8080")
print(server.uri, flush=True)
time.sleep(600)
"""


@contextmanager
def temporary_data_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="memory-test-")).resolve()
    try:
        yield path
    finally:
        for process in cluster_processes(path):
            process.kill()
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def empty_dir() -> Iterator[Path]:
    with temporary_data_dir() as path:
        yield path


@pytest.fixture(scope="module")
def made_once() -> Iterator[Path]:
    with temporary_data_dir() as path:
        with running(path):
            pass
        yield path


@pytest.fixture
def data_dir(made_once: Path) -> Iterator[Path]:
    """A data directory that has had its first start; copying one is quicker than making one."""
    with temporary_data_dir() as path:
        subprocess.run(["cp", "-a", f"{made_once}/.", path], check=True)
        yield path


@contextmanager
def running(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres.start(data_dir)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def service(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service in a process of its own, and the URI it printed."""
    command = [sys.executable, "-W", "error", "-c", SERVICE, str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def cluster_processes(data_dir: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd().startswith(str(data_dir)):
                found.append(process)
    return found


def postmaster_pid(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def execute(uri: str, sql: LiteralString) -> list[tuple[object, ...]]:
    with psycopg.connect(uri, autocommit=True) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []


def keep_a_row(uri: str) -> None:
    execute(uri, "CREATE TABLE kept (word text)")
    execute(uri, "INSERT INTO kept VALUES ('안녕')")


def rows(uri: str) -> list[tuple[object, ...]]:
    return execute(uri, "SELECT word FROM kept")


@contextmanager
def busy_backend(uri: str) -> Iterator[None]:
    """A backend that computes, so that it does not notice when its postmaster dies."""

    def compute() -> None:
        with suppress(psycopg.Error):
            execute(uri, "SELECT count(*) FROM generate_series(1, 100000000000)")

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        sql = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
        while not execute(uri, sql) and time.monotonic() < deadline:
            time.sleep(0.02)
        yield
    finally:
        thread.join(20)
        assert not thread.is_alive()


def test_first_start_gives_a_utf8_database_with_pgvector(empty_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")  # of some other Postgres of the user's
    with running(empty_dir) as server:
        assert server.uri.startswith(f"postgresql://postgres@/memory?host={empty_dir}/postgres")
        assert execute(server.uri, "SHOW server_encoding") == [("UTF8",)]
        execute(server.uri, "CREATE EXTENSION vector")
        assert {"psql", "pg_dump", "pgbench"} <= {path.name for path in server.bin_dir.iterdir()}


def test_settings(data_dir: Path) -> None:
    expected = {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "max_connections": "100",
        "jit": "off",
        "random_page_cost": "1.1",
        "listen_addresses": "",
        "log_statement": "none",
        "log_min_duration_statement": "-1",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
        "log_parameter_max_length": "0",
        "log_parameter_max_length_on_error": "0",
    }
    with running(data_dir) as server:
        shown = {name: execute(server.uri, f"SHOW {name}")[0][0] for name in expected}
        execute(server.uri, "ALTER SYSTEM SET random_page_cost = 2.5")
        execute(server.uri, "ALTER SYSTEM SET log_statement = 'all'")
    assert shown == expected
    with running(data_dir) as server:
        assert execute(server.uri, "SHOW random_page_cost") == [("2.5",)], "an operator may tune"
        assert execute(server.uri, "SHOW log_statement") == [("none",)], "but not open the log to what users wrote"


def test_only_the_service_can_reach_the_socket(data_dir: Path) -> None:
    with running(data_dir):
        cluster = data_dir / "postgres"
        assert stat.S_IMODE(cluster.stat().st_mode) == 0o700
        assert stat.S_IMODE((cluster / ".s.PGSQL.5432").stat().st_mode) == 0o700


def test_restart_keeps_rows_and_a_clean_stop_leaves_nothing(data_dir: Path) -> None:
    with running(data_dir) as server:
        keep_a_row(server.uri)
    assert cluster_processes(data_dir) == []
    assert not (data_dir / "postgres" / "postmaster.pid").exists()
    server.stop()  # once more: nothing happens
    with running(data_dir) as server:
        assert rows(server.uri) == [("안녕",)]
    assert "not properly shut down" not in (data_dir / "postgres.log").read_text()


def test_stop_does_not_wait_for_open_connections(data_dir: Path) -> None:
    with running(data_dir) as server:
        connection = psycopg.connect(server.uri)
        connection.execute("SELECT 1")
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 5
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        connection.close()


def test_ctrl_c_does_not_reach_postgres(data_dir: Path) -> None:
    with running(data_dir):
        assert os.getsid(postmaster_pid(data_dir)) != os.getsid(0)


def test_postmaster_killed_while_a_backend_computes(data_dir: Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    keep_a_row(server.uri)
    with busy_backend(server.uri):
        os.kill(postmaster_pid(data_dir), signal.SIGKILL)
        time.sleep(0.1)
        assert cluster_processes(data_dir), "the backend outlives its postmaster"
        server.stop()
    assert cluster_processes(data_dir) == []
    with running(data_dir) as server:
        assert rows(server.uri) == [("안녕",)]


def test_service_and_postmaster_killed_while_a_backend_computes(data_dir: Path) -> None:
    with service(data_dir) as (process, uri):
        keep_a_row(uri)
        with busy_backend(uri):
            process.kill()
            process.wait()
            os.kill(postmaster_pid(data_dir), signal.SIGKILL)
            with running(data_dir) as server:
                assert rows(server.uri) == [("안녕",)]


def test_service_killed_while_postgres_goes_on(data_dir: Path) -> None:
    with service(data_dir) as (process, uri):
        keep_a_row(uri)
        left_behind = postmaster_pid(data_dir)
        process.kill()
        process.wait()
        assert psutil.pid_exists(left_behind)
        with running(data_dir) as server:
            assert rows(server.uri) == [("안녕",)]
            assert postmaster_pid(data_dir) != left_behind
    assert "not properly shut down" not in (data_dir / "postgres.log").read_text()


def test_pid_file_names_a_zombie(data_dir: Path) -> None:
    """Postgres itself would refuse: to kill(pid, 0) a zombie is alive."""
    with running(data_dir):
        cluster = data_dir / "postgres"
        pid_file = (cluster / "postmaster.pid").read_text()
        pid = pid_file.splitlines()[0]
    zombie = subprocess.Popen(["true"], user=cluster.stat().st_uid)
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    (cluster / "postmaster.pid").write_text(pid_file.replace(pid, str(zombie.pid), 1))
    (cluster / ".s.PGSQL.5432.lock").write_text(pid_file.replace(pid, str(zombie.pid), 1))
    try:
        with running(data_dir) as server:
            assert execute(server.uri, "SELECT 1") == [(1,)]
    finally:
        zombie.wait()


def test_second_service_is_refused_at_once(data_dir: Path) -> None:
    with service(data_dir) as (process, _):
        started = time.monotonic()
        with pytest.raises(EmbeddedPostgresError) as refused:
            EmbeddedPostgres.start(data_dir)
        assert time.monotonic() - started < 1
        for part in (f"process {process.pid}", "http://127.0.0.1:8080", "--data-dir", "MEMORY_DATABASE_URL"):
            assert part in str(refused.value)


def test_lock_file_of_a_dead_process_does_not_block(data_dir: Path) -> None:
    (data_dir / "lock").write_text("process 1, http://127.0.0.1:8080\n")
    with running(data_dir):
        assert (data_dir / "lock").read_text() == f"process {os.getpid()}\n"


def test_failed_start_releases_the_lock(empty_dir: Path) -> None:
    cluster = empty_dir / "postgres"
    cluster.mkdir()
    (cluster / "notes.txt").write_text("not a cluster")
    with pytest.raises(EmbeddedPostgresError, match="no Postgres cluster"):
        EmbeddedPostgres.start(empty_dir)
    assert (cluster / "notes.txt").exists()
    shutil.rmtree(cluster)
    with running(empty_dir):
        pass


def test_postgres_that_cannot_start_is_reported_with_its_own_words(data_dir: Path) -> None:
    with running(data_dir):
        pass
    (data_dir / "postgres" / "postgresql.auto.conf").write_text("shared_buffers = 'a lot'\n")
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "shared_buffers"'):
        EmbeddedPostgres.start(data_dir)


def test_postgres_that_ends_as_soon_as_it_answers(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts it again and again must hear of that as of any other failure."""
    wait = EmbeddedPostgres._wait_until_it_answers

    def wait_and_kill(server: EmbeddedPostgres) -> None:
        wait(server)
        os.kill(postmaster_pid(data_dir), signal.SIGKILL)
        psutil.wait_procs(cluster_processes(data_dir), timeout=10)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedPostgres, "_wait_until_it_answers", wait_and_kill)
        with pytest.raises(EmbeddedPostgresError, match="as soon as it had started"):
            EmbeddedPostgres.start(data_dir)
    with running(data_dir) as server:
        assert execute(server.uri, "SELECT 1") == [(1,)]


def test_cluster_of_another_major_version_is_refused(empty_dir: Path) -> None:
    (empty_dir / "postgres").mkdir()
    (empty_dir / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match=r"Postgres 16, and this is Postgres 18.*pg_dump.*restore"):
        EmbeddedPostgres.start(empty_dir)


def test_interrupted_initdb_is_done_again(empty_dir: Path) -> None:
    (empty_dir / "postgres.new").mkdir()
    (empty_dir / "postgres.new" / "PG_VERSION").write_text("18\n")
    with running(empty_dir) as server:
        assert execute(server.uri, "SELECT 1") == [(1,)]


@pytest.mark.parametrize("name", ["long" * 40, "with, comma & 한글 'quote'"])
def test_paths_a_socket_cannot_have(empty_dir: Path, name: str) -> None:
    with service(empty_dir / name) as (process, uri):
        keep_a_row(uri)
        socket_dir = Path((empty_dir / name / "postgres" / "postmaster.pid").read_text().splitlines()[4])
        assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700
        process.kill()
        process.wait()
        with running(empty_dir / name) as server:
            assert rows(server.uri) == [("안녕",)]
    assert not socket_dir.exists(), "the killed service's socket directory is cleared as well"


def test_data_dir_that_is_a_file(empty_dir: Path) -> None:
    (empty_dir / "file").write_text("")
    for path in (empty_dir / "file", empty_dir / "file" / "below"):
        with pytest.raises(EmbeddedPostgresError, match=r"Cannot use .*file.*--data-dir"):
            EmbeddedPostgres.start(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_data_dir_that_is_not_writable(empty_dir: Path) -> None:
    empty_dir.chmod(0o500)
    with pytest.raises(EmbeddedPostgresError, match=r"Permission denied.*--data-dir"):
        EmbeddedPostgres.start(empty_dir)
    empty_dir.chmod(0o700)


def test_log_never_holds_what_users_wrote(data_dir: Path) -> None:
    secret = "somebody's own words"
    with running(data_dir) as server:
        with psycopg.connect(server.uri, autocommit=True) as connection:
            connection.execute("CREATE TABLE words (word text UNIQUE)")
            connection.execute("INSERT INTO words VALUES (%s)", [secret])
            for sql in ("INSERT INTO words VALUES (%s)", "SELECT CAST(%s AS integer)", "SELEC %s"):
                with pytest.raises(psycopg.Error):
                    connection.execute(sql, [secret])
        backend = crash_a_backend(server.uri, "SELECT pg_sleep(10), 'own words'")
        wait_until_it_answers(server.uri)
    log = (data_dir / "postgres.log").read_text()
    assert f"(PID {backend}) was terminated by signal 11" in log
    assert "own words" not in log


def crash_a_backend(uri: str, while_it_runs: LiteralString) -> int:
    """As a bug in Postgres would: the server ends every connection, recovers, and goes on."""
    with psycopg.connect(uri, autocommit=True) as connection:
        pid = connection.info.backend_pid
        crash = threading.Timer(0.3, os.kill, (pid, signal.SIGSEGV))
        crash.start()
        with pytest.raises(psycopg.OperationalError):
            connection.execute(while_it_runs)
        crash.join()
    return pid


def wait_until_it_answers(uri: str) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(psycopg.OperationalError):
            execute(uri, "SELECT 1")
            return
        time.sleep(0.05)


def test_stop_ends_a_server_that_does_not_obey(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory_service.store.cluster.STOP_TIMEOUT_SECONDS", 0.5)
    with running(data_dir) as server:
        keep_a_row(server.uri)
        os.kill(postmaster_pid(data_dir), signal.SIGSTOP)
        server.stop()
        assert cluster_processes(data_dir) == []
    with running(data_dir) as server:
        assert rows(server.uri) == [("안녕",)]


def test_large_log_is_moved_aside(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory_service.store.embedded.LOG_LIMIT_BYTES", 10)
    (data_dir / "postgres.log").write_text("yesterday's lines")
    with running(data_dir):
        assert (data_dir / "postgres.log.1").read_text() == "yesterday's lines"
        assert "yesterday" not in (data_dir / "postgres.log").read_text()
