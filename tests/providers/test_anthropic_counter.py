"""Anthropic's count through the real SDK, from a server that may say anything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from memory_service.errors import CountUnavailable
from memory_service.providers.anthropic import AnthropicCounter
from tests.providers.counting_server import CountingServer, counting, text_bytes

REQUEST: dict[str, Any] = {
    "model": "claude-sonnet-5",
    "max_tokens": 100,
    "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
    "tools": [{"name": "search", "input_schema": {"type": "object"}}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "안녕?"}]}],
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingServer]:
    with counting() as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "unused")
        yield server


async def ask(*requests: dict[str, Any], seconds: float = 30, times: list[float] | None = None) -> list[int | str]:
    """What was said to each request; `times` are those of the clock, one for each look at it."""
    moments = iter(times or [])
    counter = AnthropicCounter(seconds, lambda: next(moments) if times else 0.0)
    answers: list[int | str] = []
    try:
        for request in requests:
            try:
                answers.append(await counter.count_tokens(request))
            except CountUnavailable as error:
                answers.append(error.message)
    finally:
        await counter.close()
    return answers


def test_the_whole_input_is_counted(server: CountingServer) -> None:
    assert asyncio.run(ask(REQUEST)) == [text_bytes(REQUEST)]
    assert server.paths == ["/v1/messages/count_tokens"]
    assert server.asked == [{key: value for key, value in REQUEST.items() if key != "max_tokens"}]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, {"error": {"message": "안녕?"}}), "InternalServerError"),
        ((404, "no such page"), "NotFoundError"),
        ((429, {}), "RateLimitError"),
        ((200, {}), "not a number of tokens"),
        ((200, {"input_tokens": "many"}), "not a number of tokens"),
        ((200, {"input_tokens": -5}), "not a number of tokens"),
        ((200, []), "not a number of tokens"),
        ((200, "{"), "JSONDecodeError"),
    ],
)
def test_what_is_no_count_is_said_to_be_none(server: CountingServer, answer: Any, reason: str) -> None:
    server.answer = lambda body: answer
    assert asyncio.run(ask(REQUEST)) == [reason]
    assert len(server.asked) == 1, "it was asked again"


def test_nobody_waits_for_a_server_that_stalls_and_others_do_not_ask_it_for_a_while(server: CountingServer) -> None:
    server.answer = lambda body: None
    said = asyncio.run(ask(REQUEST, REQUEST, REQUEST, seconds=0.2, times=[0.0, 5.0, 14.9, 15.0, 15.0]))
    assert said == ["no answer in time", "not asked again yet", "no answer in time"]
    assert len(server.asked) == 2


def test_it_is_there_only_with_a_key_and_if_wanted() -> None:
    assert AnthropicCounter.of("auto", {"ANTHROPIC_API_KEY": "k"}) is not None
    assert AnthropicCounter.of("off", {"ANTHROPIC_API_KEY": "k"}) is None
    assert AnthropicCounter.of("auto", {"ANTHROPIC_API_KEY": " "}) is None
    assert AnthropicCounter.of("auto", {}) is None
