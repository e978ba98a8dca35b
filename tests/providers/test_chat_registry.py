"""Which provider answers, by what is set."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from memory_service.errors import InvalidInput
from memory_service.providers.base import ModelCall
from memory_service.providers.chat.registry import ChatProviders
from memory_service.providers.tokenizers import O200kCounter
from tests.conformance.chat import hear, request


def providers(environ: Mapping[str, str]) -> ChatProviders:
    return ChatProviders(O200kCounter(), environ, idle_seconds=60)


@pytest.mark.parametrize(
    ("form", "environ", "expected"),
    [
        ("anthropic", {}, "echo"),
        ("anthropic", {"ANTHROPIC_API_KEY": " "}, "echo"),
        ("anthropic", {"OPENAI_API_KEY": "k"}, "echo"),
        ("anthropic", {"ANTHROPIC_API_KEY": "k"}, "anthropic"),
        ("anthropic", {"ANTHROPIC_AUTH_TOKEN": "k"}, "anthropic"),
        ("openai", {}, "echo"),
        ("openai", {"OPENAI_API_KEY": "k"}, "openai"),
        ("openai", {"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}, "openai"),
        ("echo", {"ANTHROPIC_API_KEY": "k"}, "echo"),
    ],
)
def test_without_a_key_the_echo_answers(form: str, environ: Mapping[str, str], expected: str) -> None:
    chat = providers(environ)
    assert chat.get(form).name == expected
    assert chat.get(form) is chat.get(form)
    asyncio.run(chat.close())


@pytest.mark.parametrize("form", ["anthropic", "openai"])
def test_the_echo_says_that_no_model_was_asked(form: str) -> None:
    call = ModelCall(request(form, "Hello?"))
    outcome = asyncio.run(hear(providers({}).get(form), call))
    assert outcome.reply
    name = f"{form.upper()}_API_KEY"
    assert outcome.reply.content == [{"type": "text", "text": f"No {name} is set, so no model was asked. Hello?"}]
    assert outcome.reply.usage
    assert ("prompt_tokens" in outcome.reply.usage) == (form == "openai")


@pytest.mark.parametrize(
    ("form", "environ", "hint"),
    [
        ("anthropic", {"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}, 'send provider "openai"'),
        ("openai", {"ANTHROPIC_API_KEY": "k"}, 'send provider "anthropic"'),
    ],
)
def test_the_echo_says_how_to_ask_the_one_that_can_be_asked(form: str, environ: Mapping[str, str], hint: str) -> None:
    outcome = asyncio.run(hear(providers(environ).get(form), ModelCall(request(form, "Hello?"))))
    assert outcome.reply
    assert hint in outcome.reply.content[0]["text"]


def test_there_are_no_others() -> None:
    with pytest.raises(InvalidInput, match="no provider 'gemini'"):
        providers({}).get("gemini")
