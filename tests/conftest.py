"""Real parts for every test: an embedded Postgres and a served process for each test worker, a project for each test.

A test gets a project and a key of its own, so nothing has to be cleaned between tests.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest

from memory_service.services.lifecycle import create_key
from memory_service.store.embedded import EmbeddedPostgres
from memory_service.store.migrate import migrate

REPOSITORY = Path(__file__).parents[1]
_numbers = count(1)


def evaluation_data() -> Path:
    """Where the evaluation data lies; a test that needs it skips, saying so, when it is absent."""
    path = Path(os.environ.get("MEMORY_EVAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"evaluation data not found at {path}; set MEMORY_EVAL_DATA")
    return path


@dataclass
class Service:
    """A `memory-service serve` process."""

    process: subprocess.Popen[str]
    url: str
    log: list[str]
    greeting: list[str]
    readers: list[threading.Thread]

    @classmethod
    def start(cls, *arguments: str, env: Mapping[str, str] | None = None, port: int = 0) -> Service:
        # Whoever runs the tests may have settings, and a key with which prompts would be counted.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MEMORY_", "ANTHROPIC_"))}
        environment = inherited | dict(env or {})
        process = subprocess.Popen(
            [sys.executable, "-m", "memory_service", "serve", "--port", str(port), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        log: list[str] = []
        assert process.stdout
        assert process.stderr
        readers = [threading.Thread(target=_drain, args=(process.stderr, log), daemon=True)]
        readers[0].start()
        first = process.stdout.readline()
        if " on http" not in first:
            ended(process, 10)
            process.stdout.close()
            readers[0].join(10)
            raise RuntimeError(f"the service did not start: {first}{''.join(log)}")
        greeting = [first]
        readers.append(threading.Thread(target=_drain, args=(process.stdout, greeting), daemon=True))
        readers[1].start()
        return cls(process, first.split(" on ")[1].strip(), log, greeting, readers)

    def stop(self) -> int:
        self.process.terminate()
        return self._wait()

    def kill(self) -> None:
        self.process.kill()
        self._wait()

    def _wait(self) -> int:
        try:
            return ended(self.process, 30)
        finally:
            for reader in self.readers:
                reader.join(10)


def ended(process: subprocess.Popen[Any], seconds: float) -> int:
    """The status a process ends with. One that does not end is killed, so that none is left behind, and a failure."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def _drain(stream: Any, lines: list[str]) -> None:
    with stream:
        lines.extend(iter(stream.readline, ""))


@pytest.fixture(scope="session")
def temporary_dir() -> Iterator[Path]:
    """Outside pytest's own directories, whose permissions keep the account that Postgres runs as out."""
    path = Path(tempfile.mkdtemp(prefix="memory-service-test-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(temporary_dir: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres.start(temporary_dir / "data")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def database_url(postgres: EmbeddedPostgres) -> str:
    """A migrated database, reached as its owner."""
    migrate(postgres.uri)
    return postgres.uri


@pytest.fixture(scope="session")
def service(database_url: str) -> Iterator[Service]:
    """One served process for the worker. Its clock follows the header x-memory-now."""
    # Tests try many wrong keys, all from one address.
    env = {"MEMORY_DATABASE_URL": database_url, "MEMORY_CLOCK": "request", "MEMORY_WRONG_KEYS_PER_MINUTE": "0"}
    served = Service.start(env=env)
    yield served
    served.stop()


@pytest.fixture
def new_named(database_url: str) -> Callable[[], tuple[str, str]]:
    """Make a project; returns its name and a key of it."""

    def make() -> tuple[str, str]:
        name = f"project-{os.getpid()}-{next(_numbers)}"
        return name, asyncio.run(create_key(database_url, name, "test", datetime.now(UTC)))[1]

    return make


@pytest.fixture
def new_project(new_named: Callable[[], tuple[str, str]]) -> Callable[[], str]:
    """Make a project; returns a key of it."""
    return lambda: new_named()[1]


@pytest.fixture
def api_key(new_project: Callable[[], str]) -> str:
    return new_project()


@pytest.fixture
def api(service: Service, api_key: str) -> Iterator[httpx2.Client]:
    """An HTTP client with the key of the test's own project."""
    with httpx2.Client(base_url=service.url, headers={"authorization": f"Bearer {api_key}"}, timeout=30) as client:
        yield client


@pytest.fixture
def other_api(service: Service, new_project: Callable[[], str]) -> Iterator[httpx2.Client]:
    """A client of another project."""
    headers = {"authorization": f"Bearer {new_project()}"}
    with httpx2.Client(base_url=service.url, headers=headers, timeout=30) as client:
        yield client
