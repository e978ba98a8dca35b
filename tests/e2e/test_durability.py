"""What was acknowledged is there, whatever was killed; and how a service starts, stops and is administered."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
from click.testing import Result
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from memory_service.cli import app
from memory_service.services.lifecycle import ensure_first_key
from memory_service.store.embedded import running_uri
from tests.conftest import Service
from tests.e2e.proxy import Break, proxied

WRITERS = 8
MESSAGES_BETWEEN_KILLS = 60
DEADLINE_SECONDS = 60


@pytest.fixture(scope="module")
def made_once() -> Iterator[Path]:
    """A data directory that has had its first start; copying one is quicker than making one."""
    with temporary_data_dir() as path:
        assert Service.start("--data-dir", str(path)).stop() == 0
        yield path


@pytest.fixture
def data_dir(made_once: Path) -> Iterator[Path]:
    with temporary_data_dir() as path:
        subprocess.run(["cp", "-a", f"{made_once}/.", path], check=True)
        yield path


@contextmanager
def temporary_data_dir() -> Iterator[Path]:
    """Outside pytest's own directories, whose permissions keep the account that Postgres runs as out."""
    path = Path(tempfile.mkdtemp(prefix="memory-service-test-")).resolve()
    try:
        yield path
    finally:
        for process in postgres_processes(path):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(path, ignore_errors=True)


def postgres_processes(data_dir: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            if process.info["name"] == "postgres" and process.cwd() == str(data_dir / "postgres"):
                found.append(process)
    return found


@contextmanager
def serving(data_dir: Path, *options: str) -> Iterator[Service]:
    service = Service.start("--data-dir", str(data_dir), *options)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.stop()


def key_of(data_dir: Path) -> dict[str, str]:
    return {"authorization": f"Bearer {(data_dir / 'api_key').read_text().strip()}"}


def until(condition: Callable[[], Any]) -> Any:
    deadline = monotonic() + DEADLINE_SECONDS
    while not (met := condition()):
        assert monotonic() < deadline, "waited too long"
        sleep(0.01)
    return met


# Kill rounds


class Load:
    """Writers that send each message until it is acknowledged, with the same key each time."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._url, self._headers = url, headers
        self._ending = threading.Event()
        self.sent = 0
        self.acknowledged: list[tuple[str, str]] = []
        self.other_answers: Counter[tuple[int, str]] = Counter()
        self.failure: BaseException | None = None
        with httpx2.Client(base_url=url, headers=headers) as client:
            self.threads = [client.post("/v1/threads").json()["id"] for _ in range(2)]
        self._writing = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._writing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._writing.join()

    def _run(self) -> None:
        async def write_all() -> None:
            async with (
                httpx2.AsyncClient(base_url=self._url, headers=self._headers, timeout=30) as client,
                asyncio.TaskGroup() as group,
            ):
                for n in range(WRITERS):
                    group.create_task(self._write(client, n))

        try:
            asyncio.run(write_all())
        except BaseException as error:
            self.failure = error

    async def _write(self, client: httpx2.AsyncClient, writer: int) -> None:
        number = 0
        while not self._ending.is_set():
            content, thread = f"{writer}:{number}", self.threads[writer % 2]
            self.sent += 1
            await self._insist(client, thread, content)
            self.acknowledged.append((thread, content))
            number += 1

    async def _insist(self, client: httpx2.AsyncClient, thread: str, content: str) -> None:
        while True:
            with suppress(httpx2.TransportError):
                answer = await client.post(
                    f"/v1/threads/{thread}/messages",
                    json={"role": "user", "content": content},
                    headers={"idempotency-key": content},
                )
                if answer.status_code == 201:
                    return
                code = answer.json()["error"]["code"]
                self.other_answers[answer.status_code, code] += 1
                assert answer.headers.get("retry-after"), answer.text
            await asyncio.sleep(0.02)

    def go_on(self) -> None:
        """Returns when the writers have got further, after whatever was done to them."""
        wanted = len(self.acknowledged) + MESSAGES_BETWEEN_KILLS
        until(lambda: len(self.acknowledged) >= wanted or self.failure)
        assert self.failure is None


def check_all_there(load: Load) -> None:
    assert set(load.other_answers) <= {(503, "unavailable"), (409, "idempotency_in_progress")}, load.other_answers
    with httpx2.Client(base_url=load._url, headers=load._headers, timeout=30) as client:
        for thread in load.threads:
            found: list[dict[str, Any]] = []
            more = True
            while more:
                after = {"after": found[-1]["id"]} if found else {}
                page = client.get(f"/v1/threads/{thread}/messages", params={"limit": 100, **after}).json()
                found, more = found + page["data"], page["has_more"]
            assert [message["seq"] for message in found] == list(range(1, len(found) + 1))
            written = Counter(message["content"][0]["text"] for message in found)
            assert [content for content, times in written.items() if times > 1] == []
            acknowledged = {content for at, content in load.acknowledged if at == thread}
            assert acknowledged - set(written) == set()
            assert len(found) == len(acknowledged), "every writer insisted until it was acknowledged"


def kill_postgres(data_dir: Path) -> None:
    """All of it at once, as when the machine's memory ran out. The postmaster first: it would tidy up after the others."""
    postmaster = psutil.Process(int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0]))
    for process in [postmaster, *postmaster.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.parametrize("rounds", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_the_service_is_killed_under_load(data_dir: Path, rounds: int) -> None:
    service = Service.start("--data-dir", str(data_dir))
    port = str(urlsplit(service.url).port)
    try:
        with Load(service.url, key_of(data_dir)) as load:
            for _ in range(rounds):
                load.go_on()
                service.kill()
                service = Service.start("--data-dir", str(data_dir), port=int(port))
            load.go_on()
        check_all_there(load)
    finally:
        assert service.stop() == 0
    assert postgres_processes(data_dir) == []


@pytest.mark.parametrize("rounds", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_postgres_is_killed_under_load(data_dir: Path, rounds: int) -> None:
    with serving(data_dir) as service:
        with Load(service.url, key_of(data_dir)) as load:
            for _ in range(rounds):
                load.go_on()
                kill_postgres(data_dir)
            load.go_on()
        check_all_there(load)
        assert load.other_answers[503, "unavailable"] > 0, "somebody noticed"
        assert service.stop() == 0
        assert sum("runs again" in line for line in service.log) == rounds
        assert [line for line in service.log if "unforeseen" in line] == []
    assert postgres_processes(data_dir) == []


def test_postgres_that_cannot_start_again_is_tried_again(data_dir: Path) -> None:
    """The service answers 503 meanwhile, and stops when it is told to."""
    with serving(data_dir) as service, httpx2.Client(base_url=service.url, headers=key_of(data_dir)) as client:
        assert client.get("/v1/threads").status_code == 200
        broken = data_dir / "postgres" / "postgresql.auto.conf"
        before = broken.read_text()
        broken.write_text("shared_buffers = 'a lot'\n")
        kill_postgres(data_dir)
        until(lambda: any("did not start" in line for line in service.log))
        answer = client.get("/v1/threads")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"]
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        broken.write_text(before)
        until(lambda: client.get("/v1/threads").status_code == 200)
        broken.write_text("shared_buffers = 'a lot'\n")
        kill_postgres(data_dir)
        until(lambda: sum("did not start" in line for line in service.log) >= 2)
        assert service.stop() == 0
    assert postgres_processes(data_dir) == []


def test_a_database_that_comes_later_is_waited_for(database_url: str, temporary_dir: Path) -> None:
    socket_dir = temporary_dir / "later"
    through = make_url(database_url).update_query_dict({"host": str(socket_dir)})
    settings = {"MEMORY_DATABASE_URL": through.render_as_string(hide_password=False)}
    with subprocess.Popen(
        [sys.executable, "-m", "memory_service", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("MEMORY_")} | settings,
    ) as process:
        assert process.stdout
        assert process.stderr
        try:
            assert "the database cannot be reached yet; trying again" in process.stderr.readline()
            with proxied(database_url, socket_dir):
                assert " on http" in process.stdout.readline()
                process.terminate()
                process.communicate(timeout=DEADLINE_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0


@pytest.mark.parametrize(("when", "stored"), [("before", 0), ("after", 1)])
def test_connection_that_breaks_at_the_commit(
    database_url: str, api_key: str, temporary_dir: Path, when: Break, stored: int
) -> None:
    """The client cannot know whether it was stored. The same key makes it safe to send it again."""
    with proxied(database_url, temporary_dir / f"commit-{when}") as (proxy, through):
        service = Service.start(env={"MEMORY_DATABASE_URL": through})
        try:
            headers = {"authorization": f"Bearer {api_key}"}
            with httpx2.Client(base_url=service.url, headers=headers) as client:
                path = f"/v1/threads/{client.post('/v1/threads').json()['id']}/messages"
                message, key = {"role": "user", "content": "once"}, {"idempotency-key": "k"}
                proxy.break_next_commit(when)
                answer = client.post(path, json=message, headers=key)
                assert proxy.broken == 1
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
                assert answer.headers["retry-after"]
                assert len(client.get(path).json()["data"]) == stored
                assert client.post(path, json=message, headers=key).status_code == 201
                assert [m["seq"] for m in client.get(path).json()["data"]] == [1]
        finally:
            service.stop()


# Start and stop


@contextmanager
def blocked_request(service: Service, data_dir: Path) -> Iterator[tuple[Callable[[], Any], Callable[[], None]]]:
    """An append that waits for its thread's row. Yields what returns its answer (or its error), and what lets it go on."""
    outcome: list[Any] = []
    uri = running_uri(data_dir)
    assert uri
    with httpx2.Client(base_url=service.url, headers=key_of(data_dir), timeout=30) as client:
        thread = client.post("/v1/threads").json()["id"]

        def post() -> None:
            try:
                body = {"role": "user", "content": "in flight"}
                outcome.append(client.post(f"/v1/threads/{thread}/messages", json=body))
            except httpx2.TransportError as error:
                outcome.append(error)

        holder = psycopg.connect(uri)
        holder.execute("SELECT 1 FROM memory.threads WHERE id = %s FOR UPDATE", [thread])
        request = threading.Thread(target=post)
        request.start()
        with psycopg.connect(uri, autocommit=True) as watcher:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            until(lambda: watcher.execute(waiting).fetchone() == (1,))

        def answer() -> Any:
            request.join(DEADLINE_SECONDS)
            return outcome[0]

        try:
            yield answer, holder.rollback
        finally:
            holder.close()
            request.join(DEADLINE_SECONDS)


def draining(service: Service) -> bool:
    return httpx2.get(f"{service.url}/readyz").status_code == 503


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_stops_postgres(data_dir: Path, number: int) -> None:
    with serving(data_dir) as service:
        with blocked_request(service, data_dir) as (answer, let_go):
            service.process.send_signal(number)
            until(lambda: draining(service))
            assert service.process.poll() is None
            let_go()
            assert answer().status_code == 201
        assert service.process.wait(DEADLINE_SECONDS) == 0
    assert postgres_processes(data_dir) == []
    assert not (data_dir / "postgres" / "postmaster.pid").exists()
    assert "Traceback" not in "".join(service.log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_waits_for_nobody_and_stops_postgres(data_dir: Path, number: int) -> None:
    with serving(data_dir) as service, blocked_request(service, data_dir) as (answer, _):
        service.process.send_signal(number)
        until(lambda: draining(service))
        service.process.send_signal(number)
        assert service.process.wait(DEADLINE_SECONDS) == 0
        assert isinstance(answer(), httpx2.TransportError) or answer().json()["error"]["code"] == "unavailable"
    assert postgres_processes(data_dir) == []


def test_sigterm_while_starting_leaves_nothing_behind(data_dir: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "memory_service", "serve", "--port", "0", "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if not k.startswith("MEMORY_")},
    )
    until(lambda: postgres_processes(data_dir))
    process.terminate()
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM, out + err
    assert b"Traceback" not in err
    assert postgres_processes(data_dir) == []


def command(*arguments: str, data_dir: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "memory_service", *arguments, "--data-dir", str(data_dir)],
        env={k: v for k, v in os.environ.items() if not k.startswith("MEMORY_")},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_second_service_and_a_taken_port_are_explained(data_dir: Path) -> None:
    with serving(data_dir) as service:
        status, out, err = command("serve", "--port", "0", data_dir=data_dir)
        assert (status, out) == (1, "")
        for part in (str(data_dir), f"process {service.process.pid}", service.url, "--data-dir", "MEMORY_DATABASE_URL"):
            assert part in err
        port = str(urlsplit(service.url).port)
        with temporary_data_dir() as other:
            status, out, err = command("serve", "--port", port, data_dir=other)
            assert (status, out) == (1, "")
            assert f"Cannot listen on 127.0.0.1:{port}: Address already in use" in err
            assert "--port" in err
            assert list(other.iterdir()) == [], "no database was started for it"


def test_embedded_service_logs_in_as_the_roles_themselves(data_dir: Path) -> None:
    with serving(data_dir) as service, httpx2.Client(base_url=service.url, headers=key_of(data_dir)) as client:
        assert client.get("/v1/threads").status_code == 200
        uri = running_uri(data_dir)
        assert uri
        with psycopg.connect(uri) as owner:
            users = owner.execute(
                "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = 'memory-service'"
            ).fetchall()
        assert users
        assert {user for (user,) in users} <= {"memory_app", "memory_worker"}


# Keys


def test_keys_while_the_service_runs_and_while_it_does_not(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MEMORY_")]:
        monkeypatch.delenv(name)

    def keys(*arguments: str, columns: int = 80) -> Result:
        return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["keys", *arguments, "--data-dir", str(data_dir)])

    def as_json(*arguments: str) -> Any:
        done = keys(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    made = as_json("create", "--project", "offline", "--name", "made while it does not run")
    assert made["key"].startswith("msk_")
    with serving(data_dir) as service, httpx2.Client(base_url=service.url) as client:

        def status(key: str) -> int:
            return client.get("/v1/threads", headers={"x-api-key": key}).status_code

        assert status(made["key"]) == 200
        created = keys("create", "--project", "online")
        second = created.stdout.strip()
        assert "Keep it now" in created.stderr
        assert status(second) == 200
        listed = {key["project"]: key for key in as_json("list")}
        assert set(listed) == {"default", "offline", "online"}
        assert listed["online"]["hint"] == second[-4:]
        assert second not in json.dumps(listed)
        assert [key["id"] for key in as_json("list", "--project", "offline")] == [made["id"]]
        assert listed["online"]["created_at"].endswith("Z")
        assert datetime.fromisoformat(listed["online"]["created_at"]).tzinfo
        narrow = keys("list", columns=40).stdout
        assert f"msk_…{second[-4:]}" in narrow
        assert {line.split()[0] for line in narrow.splitlines()} == {"id", *(key["id"] for key in listed.values())}
        revoked = keys("revoke", made["id"])
        assert (revoked.exit_code, revoked.stdout) == (0, f"{made['id']} revoked\n")
        assert status(made["key"]) == 401
        assert status(second) == 200
        assert postgres_processes(data_dir), "short commands leave the service's database running"
    assert {key["id"] for key in as_json("list") if key["revoked_at"]} == {made["id"]}
    unknown = keys("revoke", "key_unknown")
    assert unknown.exit_code == 1
    assert "keys list" in unknown.stderr
    assert postgres_processes(data_dir) == []


def test_first_key_is_kept_and_made_anew_when_it_is_lost(data_dir: Path, database_url: str, tmp_path: Path) -> None:
    def ensure() -> tuple[str, bool]:
        key, is_new = asyncio.run(ensure_first_key(database_url, tmp_path))
        path = tmp_path / "api_key"
        assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (f"{key}\n", 0o600)
        return key, is_new

    first, is_new = ensure()
    assert is_new
    (tmp_path / "api_key").chmod(0o644)
    assert ensure() == (first, False)
    for spoilt in ("", "msk_of_another_database\n"):
        (tmp_path / "api_key").write_text(spoilt)
        (tmp_path / "api_key").chmod(0o644)
        key, is_new = ensure()
        assert is_new
        assert key != first

    held = key_of(data_dir)
    (data_dir / "api_key").unlink()
    with serving(data_dir) as service, httpx2.Client(base_url=service.url) as client:
        until(lambda: "API key" in "".join(service.greeting))
        assert key_of(data_dir) != held
        assert (data_dir / "api_key").read_text().strip() not in "".join(service.greeting), "it is no terminal"
        for headers in (held, key_of(data_dir)):
            assert client.get("/v1/threads", headers=headers).status_code == 200
