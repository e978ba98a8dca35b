"""The provider that asks nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from memory_service.core.canonical import Raw
from memory_service.providers.base import ModelCall
from memory_service.providers.chat.echo import Echo
from memory_service.providers.tokenizers import O200kCounter
from tests.conformance.chat import Outcome, hear, request

COUNTER = O200kCounter()


def echoed(asked: Mapping[str, Any], notice: str = "") -> Outcome:
    return asyncio.run(hear(Echo(COUNTER, notice), ModelCall(asked)))


def said(asked: Mapping[str, Any], notice: str = "") -> str:
    reply = echoed(asked, notice).reply
    assert reply
    (block,) = reply.content
    return str(block["text"])


def anthropic(*messages: Any) -> Mapping[str, Any]:
    return request("anthropic", "", messages=[{"role": role, "content": content} for role, content in messages])


def test_it_repeats_the_question_and_nothing_around_it() -> None:
    blocks = [{"type": "text", "text": "recalled: the sky"}, Raw('{"type":"text","text":"Which door?"}')]
    asked = anthropic(("user", "Earlier."), ("assistant", "Yes."), ("user", blocks))
    assert said(asked) == "Which door?"
    assert said(asked, "Nobody was asked.") == "Nobody was asked. Which door?"


def test_it_repeats_what_tools_said() -> None:
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": "sunny"},
        {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "warm"}]},
    ]
    calls = [{"type": "tool_use", "id": call, "name": "look_up", "input": {}} for call in "ab"]
    assert said(anthropic(("user", "/tool look_up"), ("assistant", calls), ("user", results))) == "sunny\nwarm"
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "/tool look_up"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}, {"id": "b"}]},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "sunny"}]},
        {"role": "tool", "tool_call_id": "b", "content": "warm"},
    ]
    assert said(request("openai", "", messages=messages)) == "sunny\nwarm"


def test_nothing_to_repeat() -> None:
    image = {"type": "image", "source": {"type": "base64", "data": "aGk="}}
    assert said(anthropic(("user", [image]))) == "There is nothing to repeat."


@pytest.mark.parametrize(
    "text",
    [
        "/tool unknown {}",
        "/tool add {1}",
        "/tool add [1]",
        "/tool add {} and more",
        "Say /tool add {}",
        "/tool add {}\nWhy?",
    ],
)
def test_what_is_no_call_is_repeated(text: str) -> None:
    assert said(request("anthropic", text)) == text


def test_arguments_may_be_left_out() -> None:
    reply = echoed(request("openai", "/tool add")).reply
    assert reply
    assert [(block["name"], block["input"]) for block in reply.content] == [("add", {})]


def test_the_same_request_gets_the_same_reply_and_another_one_other_ids() -> None:
    call = "/tool add {}\n/tool add {}"
    first, again, other = (echoed(request("anthropic", text)) for text in (call, call, f"{call}\n/tool add"))
    assert first == again
    ids = [block["id"] for outcome in (first, other) if outcome.reply for block in outcome.reply.content]
    assert len(set(ids)) == len(ids) == 5


def test_its_usage_counts_text_and_no_bytes_of_media() -> None:
    image = {"type": "image", "source": {"type": "base64", "data": "aGk=" * 1000}}
    with_image = echoed(anthropic(("user", [{"type": "text", "text": "One two three."}, image])))
    without = echoed(anthropic(("user", "One two three.")))
    assert with_image.reply
    assert without.reply
    assert with_image.reply.usage == without.reply.usage
    assert without.reply.usage
    assert without.reply.usage["output_tokens"] == COUNTER.count("One two three.").latin
