"""Both protocols against a real server that nobody here wrote: llama.cpp, over a tiny model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from memory_service.core.usage import ReportedUsage
from memory_service.demo.engine import Engine
from memory_service.providers.base import ChatProvider, ModelCall
from memory_service.providers.chat.anthropic import AnthropicChat
from memory_service.providers.chat.openai import OpenAIChat
from tests.conformance.chat import hear, request, with_provider

PATIENT_SECONDS = 60.0
LONG = "What is there to see in Lisbon? " * 20


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if not Engine.available():
        pytest.skip("xllamacpp is not installed; `make engine` installs it where a wheel exists")
    with Engine(n_ctx=4096) as running:
        yield running


@pytest.fixture(params=["anthropic", "openai"])
def provider(request: pytest.FixtureRequest, engine: Engine) -> ChatProvider:
    if request.param == "anthropic":
        return AnthropicChat(PATIENT_SECONDS, base_url=engine.base_url, api_key="unused")
    return OpenAIChat(PATIENT_SECONDS, base_url=f"{engine.base_url}/v1", api_key="unused")


def call_of(provider: ChatProvider, text: str, engine: Engine, *, tokens: int = 12) -> ModelCall:
    limit = "max_tokens" if provider.name == "anthropic" else "max_completion_tokens"
    return ModelCall(request(provider.name, text, **{"model": engine.model_name, limit: tokens}))


def test_a_reply_and_what_its_prompt_cache_did(provider: ChatProvider, engine: Engine) -> None:
    async def twice(opened: ChatProvider) -> tuple[Any, Any]:
        call = call_of(opened, f"{opened.name}: {LONG}", engine)
        return await hear(opened, call), await hear(opened, call)

    first, second = with_provider(provider, twice)
    assert first.reply
    assert second.reply
    assert first.of("text") == first.reply.content[0]["text"]
    assert first.reply.stop_reason == "max_tokens"
    assert first.reply.id != second.reply.id
    cold, warm = (ReportedUsage.parse(outcome.reply.usage) for outcome in (first, second))
    assert cold.input_tokens == warm.input_tokens
    assert cold.output_tokens == 12
    assert warm.cache_read_tokens == cold.input_tokens - 1


def test_what_is_prewarmed_is_read_from_the_cache(provider: ChatProvider, engine: Engine) -> None:
    async def warm(opened: ChatProvider) -> tuple[Any, Any]:
        call = call_of(opened, f"Warm, {opened.name}: {LONG}", engine)
        return await opened.prewarm(call), await hear(opened, call)

    usage, outcome = with_provider(provider, warm)
    prewarmed, used = ReportedUsage.parse(usage), ReportedUsage.parse(outcome.reply.usage)
    assert prewarmed.input_tokens == used.input_tokens
    assert used.cache_read_tokens == used.input_tokens - 1


def test_a_prompt_over_its_context_is_refused(provider: ChatProvider, engine: Engine) -> None:
    outcome = with_provider(provider, lambda opened: hear(opened, call_of(opened, LONG * 10, engine)))
    assert outcome.error
    assert (outcome.error.code, outcome.error.is_retryable) == ("provider_request_too_large", False)


def test_it_answers_again_after_a_reply_was_left(provider: ChatProvider, engine: Engine) -> None:
    """It has one slot: a reply that went on unheard would keep it."""

    async def leave(opened: ChatProvider) -> Any:
        pieces = opened.stream(call_of(opened, "Tell me everything.", engine, tokens=3_000))
        await anext(pieces)
        await pieces.aclose()
        async with asyncio.timeout(PATIENT_SECONDS):
            return await hear(opened, call_of(opened, "And briefly?", engine))

    assert with_provider(provider, leave).reply
