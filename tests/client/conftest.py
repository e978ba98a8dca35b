from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from memory_client import _retry

from .driver import AsyncDriver, Driver, SyncDriver
from .peer import Peer, running_peer

API_KEY = "msk_a-very-secret-key"


@pytest.fixture(scope="session")
def running() -> Iterator[Peer]:
    with running_peer() as peer:
        yield peer


@pytest.fixture
def peer(running: Peer) -> Peer:
    running.plays()
    return running


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MEMORY_BASE_URL", "MEMORY_PORT", "MEMORY_API_KEY", "MEMORY_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retry, "FIRST_DELAY_SECONDS", 0.02)


@pytest.fixture(scope="session", params=[SyncDriver, AsyncDriver], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="session")
def shared_driver(kind: Any, running: Peer) -> Iterator[Driver]:
    driver: Driver = kind(base_url=running.url, api_key=API_KEY)
    yield driver
    driver.close()


@pytest.fixture
def driver(shared_driver: Driver, peer: Peer) -> Driver:
    """A client with default options, one for all tests: making one takes longer than most of them."""
    return shared_driver


@pytest.fixture
def new_driver(kind: Any, peer: Peer) -> Iterator[Callable[..., Driver]]:
    """Makes a client with options of the test's own."""
    drivers: list[Driver] = []

    def create(**options: Any) -> Driver:
        drivers.append(kind(**{"base_url": peer.url, "api_key": API_KEY, **options}))
        return drivers[-1]

    yield create
    for driver in drivers:
        driver.close()
