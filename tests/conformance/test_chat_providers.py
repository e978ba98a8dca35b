"""What holds for every provider of models, whoever answers: the SDKs of both vendors, and the echo."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from memory_service.core.canonical import Raw, dumps
from memory_service.core.usage import ReportedUsage
from memory_service.providers.base import ChatProvider, ModelCall
from memory_service.providers.chat.anthropic import AnthropicChat
from memory_service.providers.chat.echo import Echo
from memory_service.providers.chat.openai import OpenAIChat
from memory_service.providers.tokenizers import O200kCounter
from tests.conformance.chat import KEY, Outcome, hear, request, with_provider
from tests.providers.scripted import Say, ScriptedProvider, blocks, ok, scripted

PATIENT_SECONDS = 60.0
TEXT = "Two words, and\n\na third: 한국어. "
CALLS = [("look_up", '{"b":1.10,"a":{"z":[],"y":-0.0}}'), ("add", "{}"), ("look_up", '{"a":12345678901234567890123}')]
Open = Callable[[], ChatProvider]


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedProvider]:
    with scripted() as running:
        yield running


@pytest.fixture(params=["anthropic", "openai", "echo"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def provider(name: str, server: ScriptedProvider) -> ChatProvider:
    server.asked.clear()
    match name:
        case "anthropic":
            return AnthropicChat(PATIENT_SECONDS, base_url=server.url, api_key=KEY)
        case "openai":
            return OpenAIChat(PATIENT_SECONDS, base_url=f"{server.url}/v1", api_key=KEY)
    return Echo(O200kCounter())


def said(provider: ChatProvider, server: ScriptedProvider, say: Say, asked: str) -> Outcome:
    """What a provider makes of a reply; the echo is asked for the same one in its own way."""
    if provider.name != "echo":
        server.script(say)
    call = ModelCall(request(provider.name, asked))
    return with_provider(provider, lambda opened: hear(opened, call))


def test_pieces_of_text_add_up_to_the_reply(provider: ChatProvider, server: ScriptedProvider) -> None:
    outcome = said(provider, server, ok(TEXT), TEXT)
    assert outcome.reply
    assert outcome.reply.content == [{"type": "text", "text": TEXT}]
    assert outcome.of("text") == TEXT
    assert len(outcome.deltas) > 3
    assert {delta.index for delta in outcome.deltas} == {0}
    assert outcome.reply.stop_reason == "end_turn"
    assert outcome.reply.id


def test_calls_of_tools_keep_every_byte_of_their_input(provider: ChatProvider, server: ScriptedProvider) -> None:
    calls = [{"type": "tool_use", "id": f"id_{n}", "name": name, "input": text} for n, (name, text) in enumerate(CALLS)]
    outcome = said(provider, server, blocks(*calls), "\n".join(f"/tool {name} {text}" for name, text in CALLS))
    assert outcome.reply
    assert outcome.reply.stop_reason == "tool_use"
    content = outcome.reply.content
    assert [(block["name"], dumps(block["input"])) for block in content] == CALLS
    assert len({block["id"] for block in content}) == len(CALLS)
    starts = [delta for delta in outcome.deltas if delta.type == "tool_use"]
    assert [(d.tool_use_id, d.tool_name) for d in starts] == [(block["id"], block["name"]) for block in content]
    assert list(outcome.inputs.values()) == [text for _, text in CALLS]


def test_text_before_a_call_stays_before_it(server: ScriptedProvider, provider: ChatProvider) -> None:
    if provider.name == "echo":
        provider = Echo(O200kCounter(), notice="Wait.")
    call = {"type": "tool_use", "id": "id_1", "name": "add", "input": {"a": 1}}
    outcome = said(provider, server, blocks({"type": "text", "text": "Wait."}, call), '/tool add {"a":1}')
    assert outcome.reply
    assert [block["type"] for block in outcome.reply.content] == ["text", "tool_use"]
    assert [delta.index for delta in outcome.deltas] == sorted(delta.index for delta in outcome.deltas)
    assert outcome.of("text") == "Wait."


def test_usage_is_in_the_form_of_the_request(provider: ChatProvider, server: ScriptedProvider) -> None:
    outcome = said(provider, server, ok(TEXT), TEXT)
    assert outcome.reply
    assert outcome.reply.usage
    reported = ReportedUsage.parse(outcome.reply.usage)
    assert reported.input_tokens > 0
    assert reported.output_tokens > 0
    assert ("prompt_tokens" in outcome.reply.usage) == (provider.name == "openai")


def test_what_is_sent_is_the_prompt_to_the_byte(provider: ChatProvider, server: ScriptedProvider) -> None:
    if provider.name == "echo":
        pytest.skip("it sends nothing")
    block = Raw('{"type":"text","text":"1.10","later":{"b":1.10,"a":[]}}')
    call = ModelCall(request(provider.name, "", messages=[{"role": "user", "content": [block]}]))
    with_provider(provider, lambda opened: hear(opened, call))
    (asked,) = server.asked
    assert asked.raw.startswith(dumps(call.request)[:-1].encode())
    assert asked.body["stream"] is True
    assert KEY in (asked.headers.get("x-api-key"), asked.headers.get("authorization", "").removeprefix("Bearer "))
    assert asked.path == ("/v1/messages" if provider.name == "anthropic" else "/v1/chat/completions")


def test_prewarm_reports_usage_and_asks_for_no_reply(provider: ChatProvider, server: ScriptedProvider) -> None:
    call = ModelCall(request(provider.name, "Hello?"))
    usage = with_provider(provider, lambda opened: opened.prewarm(call))
    assert ReportedUsage.parse(usage).input_tokens == (0 if provider.name == "echo" else 10)
    if provider.name != "echo":
        body = server.asked[0].body
        limit: dict[str, Any] = {"max_tokens": 0} if provider.name == "anthropic" else {"max_completion_tokens": 1}
        assert body == {**json.loads(dumps(call.request)), **limit}


def test_a_provider_answers_many_at_once(provider: ChatProvider, server: ScriptedProvider) -> None:
    async def many(opened: ChatProvider) -> list[Outcome]:
        calls = [ModelCall(request(opened.name, TEXT)) for _ in range(200)]
        return await asyncio.gather(*(hear(opened, call) for call in calls))

    server.script(*[ok(TEXT)] * (0 if provider.name == "echo" else 200))
    outcomes = with_provider(provider, many)
    assert [outcome.of("text") for outcome in outcomes] == [TEXT] * 200
