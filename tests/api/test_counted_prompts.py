"""Prompts whose tokens the provider counts: never over the budget by its own count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.conftest import Service
from tests.providers.counting_server import CountingServer, counted, counting, text_bytes

from .support import build, messages_of, new_thread, ok, refused

STORY = "Nothing of note happened on this day, and so it went on for longer than anybody had expected. "
LONG = [(role, f"{n}. {STORY * 4}") for n in range(20) for role in ("user", "assistant")]


@pytest.fixture(scope="module")
def served(database_url: str) -> Iterator[tuple[Service, CountingServer]]:
    with counting() as server:
        env = {"ANTHROPIC_API_KEY": "unused", "ANTHROPIC_BASE_URL": server.url}
        service = Service.start(env={"MEMORY_DATABASE_URL": database_url, **env})
        yield service, server
        service.stop()


@pytest.fixture
def server(served: tuple[Service, CountingServer]) -> CountingServer:
    served[1].answer = counted
    served[1].asked.clear()
    return served[1]


@pytest.fixture
def counting_api(served: tuple[Service, CountingServer], api_key: str) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {api_key}"}
    with httpx2.Client(base_url=served[0].url, headers=headers, timeout=30) as client:
        yield client


def observations(api: httpx2.Client) -> list[int]:
    return [estimate["observations"] for estimate in ok(api.get("/v1/estimates"))["data"]]


def test_a_count_is_shown_and_learnt_from_once(counting_api: httpx2.Client, server: CountingServer) -> None:
    api, thread = counting_api, new_thread(counting_api, ("user", "hi"), instructions="Be kind.")["id"]
    prompt = ok(build(api, thread), 201)
    tokens = text_bytes(prompt["request"])
    assert prompt["counted"] == {"tokens": tokens, "reason": None}
    assert observations(api) == [1]
    path = f"/v1/threads/{thread}/prompts/{prompt['id']}"
    assert ok(api.get(path)) == prompt
    ok(api.post(f"{path}/usage", json={"usage": {"input_tokens": tokens}}))
    assert observations(api) == [1]


def test_of_a_model_that_is_hardly_known_runs_are_counted(counting_api: httpx2.Client, server: CountingServer) -> None:
    thread = new_thread(counting_api)["id"]
    server.answer = lambda body: (400, {}) if body.get("stream") else counted(body)
    body = {"model": "claude-sonnet-5", "message": "hi", "wait": True}
    ok(counting_api.post(f"/v1/threads/{thread}/runs", json=body), 201)
    (prompt,) = ok(counting_api.get(f"/v1/threads/{thread}/prompts"))["data"]
    assert prompt["counted"] == {"tokens": 2, "reason": None}
    assert observations(counting_api) == [1]


def test_a_known_model_far_from_its_budget_is_not_counted(counting_api: httpx2.Client, server: CountingServer) -> None:
    thread = new_thread(counting_api, ("user", "hi"))["id"]
    counts = [ok(build(counting_api, thread), 201)["counted"] for _ in range(22)]
    assert [count is None for count in counts] == [False] * 20 + [True] * 2
    assert ok(build(counting_api, thread, provider="openai", model="gpt-4o"), 201)["counted"] is None


def test_nothing_of_a_dry_run_is_learnt(counting_api: httpx2.Client, server: CountingServer) -> None:
    thread = new_thread(counting_api, ("user", "hi"))["id"]
    assert ok(build(counting_api, thread, dry_run=True))["counted"]["tokens"] == 2
    assert observations(counting_api) == []


@pytest.mark.parametrize("limit", [1_500, 3_000, 6_000])
def test_a_prompt_that_is_over_is_planned_again(
    counting_api: httpx2.Client, server: CountingServer, limit: int
) -> None:
    """The estimate expects a token for four bytes, the provider counts one for each."""
    thread = new_thread(counting_api, *LONG, ("user", "And then?"))["id"]
    sliding = {"type": "sliding"}
    prompt = ok(build(counting_api, thread, max_prompt_tokens=limit, truncation_strategy=sliding), 201)
    assert len(server.asked) > 1
    assert 0.5 * limit < prompt["counted"]["tokens"] == text_bytes(prompt["request"]) <= limit
    assert prompt["tokens"]["total"] <= limit
    assert observations(counting_api) == [len(server.asked)]


def test_what_cannot_be_in_its_budget_is_refused(counting_api: httpx2.Client, server: CountingServer) -> None:
    """Whatever is left out, it stays over: refused after a few counts, and nothing is kept."""
    server.answer = lambda body: (200, {"input_tokens": 3_001})
    thread = new_thread(counting_api, *LONG[:8])["id"]
    message: dict[str, Any] = {"role": "user", "content": "And then?"}
    answer = build(counting_api, thread, max_prompt_tokens=3_000, message=message)
    error = refused(answer, 422, "prompt_too_large")
    assert error["details"]["max_prompt_tokens"] == 3_000 < error["details"]["needed_tokens"]
    assert 1 < len(server.asked) <= 3
    assert len(messages_of(counting_api, thread)) == 8
    assert ok(counting_api.get(f"/v1/threads/{thread}/prompts"))["data"] == []


def test_without_an_answer_it_is_estimated(database_url: str, api_key: str) -> None:
    """And said to be; the log has no text of it. Numbers that no tokenizer makes are no answer."""
    with counting() as server:
        env = {"ANTHROPIC_API_KEY": "unused", "ANTHROPIC_BASE_URL": server.url, "MEMORY_DATABASE_URL": database_url}
        service = Service.start(env=env)
        headers = {"authorization": f"Bearer {api_key}"}
        with httpx2.Client(base_url=service.url, headers=headers, timeout=30) as api:
            thread = new_thread(api, ("user", "zephyrine"))["id"]
            server.answer = lambda body: (200, {"input_tokens": 1_000_000})
            implausible = ok(build(api, thread), 201)
            server.answer = lambda body: (500, {"error": {"message": str(body)}})
            prompts = [ok(build(api, thread), 201) for _ in range(2)]
            assert observations(api) == []
        assert service.stop() in (0, -15)
        assert implausible["counted"] == {"tokens": None, "reason": "not a possible number of tokens"}
        reasons = [prompt["counted"]["reason"] for prompt in prompts]
        assert reasons == ["InternalServerError", "not asked again yet"]
        log = "".join(service.log)
        assert log.count("were not counted") == 1
        assert "zephyrine" not in log
