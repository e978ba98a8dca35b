"""What is measured: an embedded Postgres in a directory of its own and a served process on it, as `serve` makes them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
from pydantic import SecretStr

from bench.load import Answer, Connection, Target, http_request
from memory_service.config import Settings
from memory_service.runtime import Runtime
from memory_service.services.lifecycle import OpenDatabase, create_key, open_runtime
from memory_service.store.embedded import EmbeddedPostgres
from memory_service.store.migrate import migrate

_IDLE_SECONDS = 3


@dataclass(frozen=True, slots=True)
class Stack:
    """A running service with a key of one project. `service` is its process."""

    postgres: EmbeddedPostgres
    service: subprocess.Popen[str]
    target: Target
    key: str

    def open_runtime(self) -> Runtime:
        """The service's own parts in this process, over the same database."""
        settings = Settings(database_url=SecretStr(self.postgres.uri))
        return open_runtime(settings, OpenDatabase(self.postgres.uri, embedded=False, described="the benchmark's"))

    def service_cpu_seconds(self) -> float:
        """What the service's process has used so far: steadier than wall time where others work on the machine."""
        used = psutil.Process(self.service.pid).cpu_times()
        return float(used.user + used.system)

    def service_rss_mib(self) -> float:
        return float(psutil.Process(self.service.pid).memory_info().rss) / (1 << 20)

    def analyse(self) -> None:
        with psycopg.connect(self.postgres.uri, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")

    def connect(self) -> Api:
        return Api(self.target, self.key)


class Api:
    """JSON in, JSON out, over one connection. Anything but a 2xx ends the benchmark."""

    def __init__(self, target: Target, key: str) -> None:
        self._target = target
        self._key = key
        self._connection: Connection | None = None
        self._used_at = 0.0

    def post(self, path: str, body: Any, *, idempotency_key: str | None = None) -> Any:
        return json.loads(self.call("POST", path, json.dumps(body).encode(), idempotency_key).body)

    def timed_post(self, path: str, body: Any) -> tuple[Any, float]:
        """The answer, and the milliseconds that the service says it took."""
        answer = self.call("POST", path, json.dumps(body).encode())
        assert answer.server_ms is not None
        return json.loads(answer.body), answer.server_ms

    def get(self, path: str) -> Any:
        return json.loads(self.call("GET", path).body)

    def call(self, method: str, path: str, body: bytes = b"", idempotency_key: str | None = None) -> Answer:
        connection = self._open()
        connection.send(http_request(method, path, key=self._key, body=body, idempotency_key=idempotency_key))
        answer = connection.receive()
        self._used_at = time.monotonic()
        return answer

    def _open(self) -> Connection:
        # The service closes what was idle for five seconds.
        if self._connection is None or time.monotonic() - self._used_at > _IDLE_SECONDS:
            self.close()
            self._connection = Connection(self._target)
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def new_thread(self, **fields: Any) -> str:
        return str(self.post("/v1/threads", fields)["id"])


@contextmanager
def temporary_dir() -> Iterator[Path]:
    """Readable by the account that Postgres runs as when we are root."""
    path = Path(tempfile.mkdtemp(prefix="memory-service-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running_stack(settings: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """`settings` are environment variables of the service."""
    with temporary_dir() as directory:
        postgres = EmbeddedPostgres.start(directory / "data")
        try:
            migrate(postgres.uri)
            key = asyncio.run(create_key(postgres.uri, "bench", "bench", datetime.now(UTC)))[1]
            with served(env={"MEMORY_DATABASE_URL": postgres.uri, **(settings or {})}) as (process, target):
                yield Stack(postgres, process, target, key)
        finally:
            postgres.stop()


def service_environment() -> dict[str, str]:
    """Ours without the settings of a service that the user has."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MEMORY_")}


@contextmanager
def served(*arguments: str, env: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], Target]]:
    """`memory-service serve`; it logs as it always does, but nobody reads it."""
    with listening([sys.executable, "-m", "memory_service", "serve", "--port", "0", *arguments], env=env) as running:
        yield running


@contextmanager
def listening(command: list[str], *, env: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], Target]]:
    """A server that prints a line with its `http://…` address when it listens. Ended with the block."""
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed below
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=service_environment() | env,
        cwd=Path(__file__).parents[1],
    )
    try:
        assert process.stdout
        for line in process.stdout:
            if "http://" in line:
                parts = urlsplit("http://" + line.split("http://")[1].strip())
                assert parts.hostname
                assert parts.port
                yield process, Target(parts.hostname, parts.port)
                break
        else:
            log.seek(0)
            raise RuntimeError(f"{' '.join(command)} did not start: {log.read()[-2000:]}")
    finally:
        process.terminate()
        process.communicate(timeout=30)
        log.close()
