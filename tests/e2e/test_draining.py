"""A service that is told to stop: what is in flight is finished, nothing else is begun."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest

from tests.conftest import Service

DEADLINE_SECONDS = 60


def until(condition: Callable[[], Any]) -> Any:
    deadline = monotonic() + DEADLINE_SECONDS
    while not (met := condition()):
        assert monotonic() < deadline, "waited too long"
        sleep(0.01)
    return met


@pytest.fixture
def serve(database_url: str) -> Iterator[Callable[..., Service]]:
    """Start a service with settings of its own on the worker's database."""
    with ExitStack() as stack:

        def start(**env: str) -> Service:
            service = Service.start(env={"MEMORY_DATABASE_URL": database_url, **env})
            stack.callback(lambda: service.process.poll() is None and service.kill())
            return service

        yield start


class Appends:
    """Appends that wait for their thread's row, which this test holds."""

    def __init__(self, service: Service, api_key: str, database_url: str, texts: list[str]) -> None:
        self.answers: list[Any] = []
        self._headers = {"authorization": f"Bearer {api_key}"}
        self._url = service.url
        self.thread = httpx2.post(f"{self._url}/v1/threads", headers=self._headers).json()["id"]
        self.holder = psycopg.connect(database_url)
        self.holder.execute("SELECT FROM memory.threads WHERE id = %s FOR UPDATE", [self.thread])
        self._sending: list[threading.Thread] = []
        self.add(*texts)
        with psycopg.connect(database_url, autocommit=True) as watcher:
            pid = self.holder.info.backend_pid
            # Those behind the first wait for it and not for the holder.
            waiting = """
                WITH RECURSIVE behind AS (
                    SELECT pid FROM pg_stat_activity WHERE %(pid)s = ANY (pg_blocking_pids(pid))
                    UNION SELECT a.pid FROM pg_stat_activity a JOIN behind b ON b.pid = ANY (pg_blocking_pids(a.pid)))
                SELECT count(*) FROM behind"""
            until(lambda: watcher.execute(waiting, {"pid": pid}).fetchone() == (len(texts),))

    def add(self, *texts: str) -> None:
        """Send more, without waiting until they wait."""
        more = [threading.Thread(target=self._send, args=(text,)) for text in texts]
        for sending in more:
            sending.start()
        self._sending += more

    def _send(self, text: str) -> None:
        body = {"role": "user", "content": text}
        path = f"{self._url}/v1/threads/{self.thread}/messages"
        try:
            self.answers.append(httpx2.post(path, json=body, headers=self._headers, timeout=DEADLINE_SECONDS))
        except httpx2.TransportError as error:
            self.answers.append(error)

    def let_go(self) -> None:
        self.holder.rollback()
        self.join()

    def join(self) -> None:
        for sending in self._sending:
            sending.join(DEADLINE_SECONDS)


@contextmanager
def appends(service: Service, api_key: str, database_url: str, *texts: str) -> Iterator[Appends]:
    waiting = Appends(service, api_key, database_url, list(texts))
    try:
        yield waiting
    finally:
        waiting.holder.close()
        waiting.join()


def test_in_flight_is_finished_and_the_rest_is_refused(
    serve: Callable[..., Service], database_url: str, api_key: str
) -> None:
    service = serve()
    host, port = httpx2.URL(service.url).host, httpx2.URL(service.url).port
    idle = socket.create_connection((host, port), DEADLINE_SECONDS)
    idle.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    answered = idle.makefile("rb")
    assert b" 200 " in answered.readline()
    quiet = socket.create_connection((host, port), DEADLINE_SECONDS)
    assert httpx2.get(f"{service.url}/readyz").status_code == 200
    with appends(service, api_key, database_url, "one", "two", "three") as waiting, idle, answered, quiet:
        service.process.terminate()
        until(lambda: (ready := httpx2.get(f"{service.url}/readyz")).status_code == 503 and ready)
        not_ready = httpx2.get(f"{service.url}/readyz")
        assert not_ready.json()["error"]["code"] == "draining"
        assert not_ready.headers["connection"] == "close"
        assert httpx2.get(f"{service.url}/healthz").status_code == 200, "it is alive"
        late = httpx2.get(f"{service.url}/v1/threads", headers={"authorization": f"Bearer {api_key}"})
        assert (late.status_code, late.json()["error"]["code"]) == (503, "unavailable")
        assert late.headers["retry-after"]
        assert answered.read().endswith(b"}"), "the idle connection is closed, and nothing else is in it"
        quiet.sendall(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b" 503 " in quiet.recv(100), "who had connected and not asked is told"
        assert service.process.poll() is None
        waiting.let_go()
        assert [answer.status_code for answer in waiting.answers] == [201, 201, 201]
    assert service.process.wait(DEADLINE_SECONDS) == 0


def test_draining_ends(serve: Callable[..., Service], database_url: str, api_key: str) -> None:
    """What does not finish in time is told so, and has no effect."""
    service = serve(MEMORY_DRAIN_SECONDS="0.2")
    canary = f"canary{uuid4().hex}"
    with appends(service, api_key, database_url, canary) as waiting:
        service.process.terminate()
        assert service.process.wait(DEADLINE_SECONDS) == 0
        waiting.join()
        (answer,) = waiting.answers
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    with psycopg.connect(database_url) as connection:
        stored = connection.execute("SELECT last_seq FROM memory.threads WHERE id = %s", [waiting.thread]).fetchone()
        assert stored == (0,)
    for reader in service.readers:
        reader.join(DEADLINE_SECONDS)
    log = "".join(service.log)
    assert canary not in log
    assert api_key not in log
    assert "Traceback" not in log
    cut = next(json.loads(line) for line in service.log if '"status": 503' in line and '"POST"' in line)
    assert (cut["level"], cut["route"]) == ("warning", "/v1/threads/{thread_id}/messages")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_with_nothing_in_flight_it_ends(serve: Callable[..., Service], number: int) -> None:
    service = serve(MEMORY_DRAIN_SECONDS="3600")
    service.process.send_signal(number)
    assert service.process.wait(DEADLINE_SECONDS) == 0
