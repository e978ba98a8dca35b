"""What callers hold goes in as it is: strings, dicts, the SDKs' own objects."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from anthropic import Anthropic, BaseModel
from anthropic.types import Message as AnthropicMessage
from anthropic.types import TextBlock, ThinkingBlock, ToolUseBlock, Usage
from openai.types.chat import ChatCompletionMessage

from .answers import PROMPT, message, page
from .driver import Driver
from .peer import Answer, Peer

BLOCKS = [
    ThinkingBlock(type="thinking", thinking="Hm.", signature="c2ln"),
    TextBlock(type="text", text="It is 7 °C.", citations=None),
    ToolUseBlock(type="tool_use", id="toolu_1", name="look", input={"city": "Seoul", "unit": None, "deg": 1.10}),
]
BLOCKS_AS_SENT = [
    {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
    {"type": "text", "text": "It is 7 °C."},
    {
        "type": "tool_use",
        "id": "toolu_1",
        "name": "look",
        "input": {"city": "Seoul", "unit": None, "deg": 1.1},
    },
]
WITH_TOOL_CALLS = ChatCompletionMessage.model_validate(
    {
        "role": "assistant",
        "content": "x",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
)
REPLY: dict[str, Any] = {
    "id": "msg_x",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-5-5",
    "content": [{"type": "text", "text": "Hi"}, {"type": "of_tomorrow", "value": {"a": None}}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": 10, "cache_creation": None},
}
APPENDED = Answer(page(message()).json, 201)


def sent(driver: Driver, peer: Peer, call: Callable[[Any], Any]) -> Any:
    peer.plays(APPENDED)
    driver.run(call)
    return peer.only_request.json


def test_sdk_blocks_are_sent_without_the_fields_that_are_none(driver: Driver, peer: Peer) -> None:
    body = sent(driver, peer, lambda client: client.threads.messages.append("thread_1", "assistant", BLOCKS))
    assert body == {"role": "assistant", "content": BLOCKS_AS_SENT}


def test_sdk_blocks_inside_dicts(driver: Driver, peer: Peer) -> None:
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": (BLOCKS[1],)}
    body = sent(driver, peer, lambda client: client.threads.messages.append("thread_1", "user", [result]))
    assert body["content"] == [{**result, "content": [BLOCKS_AS_SENT[1]]}]


def test_dicts_are_sent_as_they_are(driver: Driver, peer: Peer) -> None:
    block = {"type": "of_tomorrow", "nothing": None, "text": "한국어 \u2028 🙂", "n": 12345678901234567890}
    body = sent(driver, peer, lambda client: client.threads.messages.append("thread_1", "user", [block]))
    assert body["content"] == [block]
    assert "한국어".encode() in peer.only_request.body


def test_sdk_values_that_json_has_no_type_for(driver: Driver, peer: Peer) -> None:
    class Dated(BaseModel):
        type: str
        at: datetime

    blocks = [Dated(type="of_tomorrow", at=datetime(2026, 3, 1, tzinfo=UTC))]
    body = sent(driver, peer, lambda client: client.threads.messages.append("thread_1", "user", blocks))
    assert body["content"] == [{"type": "of_tomorrow", "at": "2026-03-01T00:00:00Z"}]


def test_several_messages_at_once(driver: Driver, peer: Peer) -> None:
    answer = AnthropicMessage.model_validate({**REPLY, "content": REPLY["content"][:1]})
    several = [{"role": "user", "content": "Hello", "metadata": {"a": "b"}}, answer]
    body = sent(driver, peer, lambda client: client.threads.messages.append("thread_1", messages=several))
    assert body == {"messages": [several[0], {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}]}


def test_objects_that_know_to_dict(driver: Driver, peer: Peer) -> None:
    @dataclass
    class Block:
        text: str
        cache_control: Any = None

        def to_dict(self) -> dict[str, Any]:
            return {"type": "text", **vars(self)}

    blocks = [Block("Hi")]
    body = sent(driver, peer, lambda client: client.threads.messages.append("thread_1", "user", blocks))
    assert body["content"] == [{"type": "text", "text": "Hi"}]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"role": "user"},
        {"content": "Hello"},
        {"role": "user", "content": "Hello", "messages": []},
        {"messages": [], "metadata": {}},
        {"messages": ["Hello"]},
        {"role": "user", "content": [object()]},
        {"role": "user", "content": [TextBlock]},
        {"messages": [SimpleNamespace(role="assistant", content=None)]},
        {"messages": [WITH_TOOL_CALLS]},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_not_sent(driver: Driver, peer: Peer, arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        driver.run(lambda client: client.threads.messages.append("thread_1", **arguments))
    with pytest.raises(ValueError, match="JSON"):
        driver.run(lambda client: client.threads.messages.append("thread_1", "user", [{"n": math.nan}]))
    assert not peer.received


def test_a_prompt_goes_straight_into_the_sdk_and_the_reply_straight_back(driver: Driver, peer: Peer) -> None:
    reported = {"prompt_id": "prompt_1", "usage": {"input_tokens": 9}, "message": message(2, "assistant")}
    peer.plays(Answer(PROMPT, 201), Answer(REPLY), Answer(reported, 201), APPENDED)

    prompt = driver.run(lambda client: client.threads.prompts.build("thread_1", model="m", message="Hello"))
    with Anthropic(base_url=peer.url, api_key="sk-x") as anthropic:
        reply = anthropic.messages.create(**prompt.request)
    report = driver.run(
        lambda client: client.threads.prompts.report_usage("thread_1", prompt.id, usage=reply.usage, message=reply)
    )
    driver.run(lambda client: client.threads.messages.append("thread_1", "assistant", reply.content))

    _, to_provider, to_report, to_append = peer.received
    assert to_provider.json == PROMPT["request"]
    assert to_report.path == "/v1/threads/thread_1/prompts/prompt_1/usage"
    assert to_report.json == {
        "usage": {"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": 10},
        "message": {"role": "assistant", "content": REPLY["content"]},
    }
    assert to_append.json["content"] == REPLY["content"]
    assert (report.prompt_id, report.usage, report.message.seq) == ("prompt_1", {"input_tokens": 9}, 2)


def test_usage_as_a_dict_is_reported_verbatim(driver: Driver, peer: Peer) -> None:
    usage = Usage(input_tokens=1, output_tokens=2).to_dict() | {"of_tomorrow": None}
    peer.plays(Answer({}, 201))
    driver.run(lambda client: client.threads.prompts.report_usage("thread_1", "prompt_1", usage=usage, message="Hi"))
    assert peer.only_request.json == {"usage": usage, "message": {"role": "assistant", "content": "Hi"}}
