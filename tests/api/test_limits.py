"""Limits of a key's requests and bodies, and of wrong keys from one address."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from memory_client import MemoryClient, RateLimitError
from typer.testing import CliRunner

from memory_service.cli import app
from memory_service.services.lifecycle import create_key
from tests.conftest import Service

from .support import import_lines, new_thread, ok, refused

DEADLINE_SECONDS = 60
Client = Callable[..., httpx2.Client]


@pytest.fixture
def client(service: Service, database_url: str) -> Iterator[Client]:
    """A client with a key that has limits of its own."""
    made: list[httpx2.Client] = []

    def make(project: str = "limits", **limits: int) -> httpx2.Client:
        key = asyncio.run(create_key(database_url, project, "", datetime.now(UTC), **limits))[1]
        made.append(httpx2.Client(base_url=service.url, headers={"x-api-key": key}, timeout=30))
        return made[-1]

    yield make
    for each in made:
        each.close()


def left(answer: httpx2.Response) -> tuple[int, int]:
    headers = answer.headers
    assert 0 < int(headers["x-ratelimit-reset"]) <= 60
    return int(headers["x-ratelimit-limit"]), int(headers["x-ratelimit-remaining"])


def test_requests_a_minute(client: Client) -> None:
    """One comes back each minute, which no test waits for."""
    limited, other = client(requests_per_minute=1), client(requests_per_minute=1)
    first = limited.post("/v1/threads")
    ok(first, 201)
    assert left(first) == (1, 0)
    for _ in range(3):
        second = limited.post("/v1/threads")
        error = refused(second, 429, "rate_limited", says="1 requests a minute")
        assert left(second) == (1, 0)
        assert 1 <= int(second.headers["retry-after"]) <= 60
        assert error["details"]["retry_after_seconds"] == int(second.headers["retry-after"])
    ok(other.post("/v1/threads"), 201)  # each key has its own, in the same project too
    assert len(ok(client().get("/v1/threads", params={"limit": 100}))["data"]) >= 2


def test_refusals_count_too(client: Client) -> None:
    limited = client(requests_per_minute=2)
    assert left(refused_answer(limited.get("/v1/threads/none"), 404)) == (2, 1)
    assert left(refused_answer(limited.post("/v1/threads", content=b"{"), 415)) == (2, 0)
    refused(limited.get("/v1/threads/none"), 429)


def refused_answer(answer: httpx2.Response, status: int) -> httpx2.Response:
    refused(answer, status)
    return answer


def test_no_limit_by_default_nor_with_zero(client: Client) -> None:
    for unlimited in (client(), client(requests_per_minute=0)):
        for _ in range(3):
            answer = unlimited.get("/v1/threads")
            ok(answer)
            assert not [name for name in answer.headers if "ratelimit" in name]


def test_the_client_names_it(service: Service, client: Client) -> None:
    key = client(requests_per_minute=1).headers["x-api-key"]
    with MemoryClient(service.url, key, max_retries=0) as memory:
        memory.threads.create()
        with pytest.raises(RateLimitError):
            memory.threads.create()


def test_bodies(client: Client) -> None:
    limited = client(max_body_bytes=2_000)
    new_thread(limited, ("user", "short"))
    long = json.dumps({"instructions": "x" * 3_000}).encode()
    for body in (long, iter([long[:1_000], long[1_000:]])):  # declared, and in chunks
        headers = {"content-type": "application/json"}
        answer = limited.post("/v1/threads", content=body, headers=headers)
        assert refused(answer, 413, "payload_too_large")["details"] == {"limit_bytes": 2_000}
    ok(client(max_body_bytes=20_000_000).post("/v1/threads", json={"instructions": "x" * 3_000}), 201)
    # An import may be a hundred times as large.
    lines = [{"type": "thread", "id": "t"}, *[{"type": "message", "role": "user", "content": "x" * 900}] * 3]
    ok(import_lines(limited, lines), 201)
    refused(import_lines(limited, lines * 80), 413, "payload_too_large", says="`memory-service import` takes")


def test_settings_and_wrong_keys(database_url: str) -> None:
    """A setting for all keys; wrong ones are refused unheard, while a key that was right goes on."""
    env = {"MEMORY_REQUESTS_PER_MINUTE": "1000", "MEMORY_WRONG_KEYS_PER_MINUTE": "1"}
    good = asyncio.run(create_key(database_url, "limits", "", datetime.now(UTC)))[1]
    unheard = asyncio.run(create_key(database_url, "limits", "", datetime.now(UTC)))[1]
    service = Service.start(env={"MEMORY_DATABASE_URL": database_url, **env})
    try:

        def get(key: str, **headers: str) -> httpx2.Response:
            return httpx2.get(f"{service.url}/v1/threads", headers={"x-api-key": key, **headers})

        answer = get(good)
        ok(answer)
        assert left(answer) == (1000, 999)
        statuses: list[int] = []
        deadline = time.monotonic() + DEADLINE_SECONDS
        while 429 not in statuses:
            assert time.monotonic() < deadline, statuses
            answer = get("msk_wrong")
            statuses.append(answer.status_code)
        assert statuses[0] == 401
        error = refused(answer, 429, "rate_limited", says="wrong API key")
        assert int(answer.headers["retry-after"]) == error["details"]["retry_after_seconds"] <= 60
        ok(get(good))
        refused(get("msk_another"), 429)
        refused(httpx2.get(f"{service.url}/v1/threads"), 401)  # costs nothing, and helps nobody
        ok(get(unheard, **{"x-forwarded-for": "203.0.113.9"}))
        ok(get(unheard))
    finally:
        service.stop()


def test_command_line(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_DATABASE_URL", database_url)
    runner = CliRunner()

    def run(*arguments: str) -> Any:
        return runner.invoke(app, ["keys", *arguments])

    limits = ["--requests-per-minute", "120", "--max-body-bytes", "5000"]
    made = json.loads(run("create", "--project", "limits of keys", "--json", *limits).stdout)
    assert (made["requests_per_minute"], made["max_body_bytes"]) == (120, 5000)
    plain = json.loads(run("create", "--project", "limits of keys", "--json").stdout)
    assert (plain["requests_per_minute"], plain["max_body_bytes"]) == (None, None)
    listed = json.loads(run("list", "--project", "limits of keys", "--json").stdout)
    assert [(key["requests_per_minute"], key["max_body_bytes"]) for key in listed] == [(120, 5000), (None, None)]
    table = run("list", "--project", "limits of keys").stdout.splitlines()
    assert table[1].split()[-2:] == ["120", "5000"]
    assert run("create", "--max-body-bytes", "1").exit_code == 2
