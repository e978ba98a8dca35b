"""The chat backend as it is run, on a real service whose models are scripted."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest

from memory_service.services.lifecycle import create_key
from tests.conftest import REPOSITORY, Service, ended
from tests.runs.conftest import FORMS, provider, scripted_provider, service

__all__ = ["provider", "scripted_provider", "service"]
PASSPHRASE = "correct horse"
_numbers = count(1)


@contextmanager
def serving(memory_url: str, api_key: str, data: Path) -> Iterator[str]:
    """Its address. Accounts are kept in `data`."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "app:app", "--fd", str(listener.fileno()), "--log-level", "warning"],
            cwd=REPOSITORY / "clients" / "chat",
            pass_fds=[listener.fileno()],
            env={
                **os.environ,
                "MEMORY_BASE_URL": memory_url,
                "MEMORY_API_KEY": api_key,
                "CHAT_MODEL": FORMS["anthropic"],
                "CHAT_DATA_DIR": str(data),
            },
        )
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.terminate()
            assert ended(process, 30) in (0, -15)


@pytest.fixture(scope="session")
def chat_key(database_url: str) -> str:
    return asyncio.run(create_key(database_url, f"chat-{os.getpid()}", "test", datetime.now(UTC)))[1]


@pytest.fixture(scope="session")
def chat_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chat")


@pytest.fixture(scope="session")
def chat(service: Service, chat_key: str, chat_data: Path) -> Iterator[str]:
    with serving(service.url, chat_key, chat_data) as url:
        yield url


class Person:
    """Somebody with an account, and one conversation."""

    def __init__(self, url: str) -> None:
        self.name = f"Person {os.getpid()} {next(_numbers)}"
        self.api = httpx2.Client(base_url=url, timeout=30)
        self.sign_in(new=True)
        self.thread = self.api.post("/api/threads", json={"text": "Hello"}).json()["id"]

    def sign_in(self, *, new: bool = False, passphrase: str = PASSPHRASE) -> httpx2.Response:
        body = {"name": self.name, "passphrase": passphrase, "new": new}
        return self.api.post("/api/session", json=body)

    def say(self, text: str | None) -> list[dict[str, Any]]:
        with closing(self.hear(text)) as heard:
            return list(heard)

    def hear(self, text: str | None) -> Iterator[dict[str, Any]]:
        path = f"/api/threads/{self.thread}/messages"
        with self.api.stream("POST", path, json={"text": text}) as answer:
            yield from told(answer)

    def follow(self, run: str, after: int | None = None) -> list[dict[str, Any]]:
        query = {} if after is None else {"after": after}
        with self.api.stream("GET", f"/api/threads/{self.thread}/runs/{run}", params=query) as answer:
            return list(told(answer))

    def read(self) -> dict[str, Any]:
        return dict(self.api.get(f"/api/threads/{self.thread}").json())


def told(answer: httpx2.Response) -> Iterator[dict[str, Any]]:
    assert answer.status_code == 200, answer.read()
    assert answer.headers["content-type"].startswith("text/event-stream")
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line[6:])


@pytest.fixture
def new_person(chat: str) -> Iterator[Callable[[], Person]]:
    with ExitStack() as open_:

        def make() -> Person:
            person = Person(chat)
            open_.callback(person.api.close)
            return person

        yield make


@pytest.fixture
def person(new_person: Callable[[], Person]) -> Person:
    return new_person()
