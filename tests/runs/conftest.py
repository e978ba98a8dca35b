"""A service whose providers are all one scripted server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from tests.conftest import Service
from tests.providers.scripted import ScriptedProvider, ok, scripted

FORMS = {"anthropic": "claude-sonnet-5", "openai": "gpt-5.4"}


def settings_of(database_url: str, provider: ScriptedProvider) -> dict[str, str]:
    return {
        "MEMORY_DATABASE_URL": database_url,
        "MEMORY_COUNT_TOKENS": "off",
        "ANTHROPIC_API_KEY": "key",
        "ANTHROPIC_BASE_URL": provider.url,
        "OPENAI_API_KEY": "key",
        "OPENAI_BASE_URL": f"{provider.url}/v1",
    }


@pytest.fixture(scope="session")
def scripted_provider() -> Iterator[ScriptedProvider]:
    with scripted() as provider:
        yield provider


@pytest.fixture
def provider(scripted_provider: ScriptedProvider) -> ScriptedProvider:
    scripted_provider.asked.clear()
    scripted_provider.respond = lambda asked: ok()
    return scripted_provider


@pytest.fixture(scope="session")
def service(database_url: str, scripted_provider: ScriptedProvider) -> Iterator[Service]:
    served = Service.start(env=settings_of(database_url, scripted_provider))
    yield served
    served.stop()


Call = Callable[..., Any]


class Runs:
    """A thread of a project, and what one does with its runs."""

    def __init__(self, api: httpx2.Client, model: str = FORMS["anthropic"]) -> None:
        self.api = api
        self.model = model
        self.path = f"/v1/threads/{self.ask('POST', '/v1/threads', {})['id']}"

    def ask(self, method: str, path: str, body: Any = None, *, status: int | None = None, **headers: str) -> Any:
        answer = self.api.request(method, path, json=body, headers=headers)
        assert answer.is_success if status is None else answer.status_code == status, answer.text
        return answer.json()

    def run(self, message: Any = "Hello?", *, status: int | None = None, **fields: Any) -> Any:
        body = {"model": self.model, **({"message": message} if message else {}), **fields}
        return self.ask("POST", f"{self.path}/runs", body, status=status)

    def answer(
        self, run: Mapping[str, Any], outputs: Mapping[str, str], *, status: int | None = None, **fields: Any
    ) -> Any:
        sent = [{"tool_use_id": id_, "content": content} for id_, content in outputs.items()]
        return self.ask(
            "POST", f"{self.path}/runs/{run['id']}/tool_outputs", {"tool_outputs": sent, **fields}, status=status
        )

    def cancel(self, run: Mapping[str, Any], *, status: int | None = None) -> Any:
        return self.ask("POST", f"{self.path}/runs/{run['id']}/cancel", status=status)

    def get(self, run: Mapping[str, Any]) -> Any:
        return self.ask("GET", f"{self.path}/runs/{run['id']}")

    def messages(self) -> list[Any]:
        found: list[Any] = self.ask("GET", f"{self.path}/messages?limit=100")["data"]
        return found

    def texts(self) -> list[tuple[str, str, str]]:
        return [(m["role"], "".join(b.get("text", "") for b in m["content"]), m["status"]) for m in self.messages()]

    def until(self, run: Mapping[str, Any], *statuses: str) -> Any:
        """The run, once it is in one of these states."""
        deadline = time.monotonic() + 30
        while (found := self.get(run))["status"] not in statuses:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return found

    @contextmanager
    def stream(self, message: Any = "Hello?", **fields: Any) -> Iterator[Iterator[tuple[int, str, Any]]]:
        body = {"model": self.model, **({"message": message} if message else {}), **fields, "stream": True}
        with self.api.stream("POST", f"{self.path}/runs", json=body) as answer:
            yield events(answer)

    def follow(self, run: Mapping[str, Any], after: int | None = None) -> list[tuple[int, str, Any]]:
        headers = {} if after is None else {"last-event-id": str(after)}
        with self.api.stream("GET", f"{self.path}/runs/{run['id']}?stream=true", headers=headers) as answer:
            return list(events(answer))


def events(answer: httpx2.Response) -> Iterator[tuple[int, str, Any]]:
    """`(id, event, data)` of each event of a stream."""
    assert answer.status_code in (200, 201), answer.read()
    assert answer.headers["content-type"].startswith("text/event-stream")
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield int(fields.get("id", "0")), fields["event"], json.loads(fields["data"])
            fields = {}


@pytest.fixture(params=FORMS)
def runs(api: httpx2.Client, provider: ScriptedProvider, request: pytest.FixtureRequest) -> Runs:
    """With each form of request."""
    assert provider
    return Runs(api, FORMS[request.param])


@pytest.fixture
def thread(api: httpx2.Client, provider: ScriptedProvider) -> Runs:
    """With one form of request, where the form does not matter."""
    assert provider
    return Runs(api)
