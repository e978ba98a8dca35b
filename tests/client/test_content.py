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
from memory_client import Message
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionMessage

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


USER_BLOCKS = [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "7 °C"}, BLOCKS[1]]
USER_BLOCKS_AS_SENT = [USER_BLOCKS[0], BLOCKS_AS_SENT[1]]


@pytest.mark.parametrize(
    ("given", "content"),
    [
        ("Hello", "Hello"),
        (USER_BLOCKS, USER_BLOCKS_AS_SENT),
        (tuple(USER_BLOCKS), USER_BLOCKS_AS_SENT),
        ({"role": "user", "content": "Hello"}, "Hello"),
        ({"role": "user", "content": USER_BLOCKS}, USER_BLOCKS_AS_SENT),
        (SimpleNamespace(role="user", content=USER_BLOCKS), USER_BLOCKS_AS_SENT),
    ],
)
def test_a_user_message_in_every_form(driver: Driver, peer: Peer, given: Any, content: Any) -> None:
    peer.plays(Answer(PROMPT, 201), APPENDED, APPENDED)
    driver.run(lambda client: client.threads.prompts.build("thread_1", message=given))
    driver.run(lambda client: client.threads.messages.append("thread_1", "user", given))
    driver.run(lambda client: client.threads.messages.append("thread_1", "user", given, metadata={"a": "b"}))
    to_build, to_append, with_metadata = (request.json for request in peer.received)
    assert to_build == {"message": {"role": "user", "content": content}}
    assert to_append == {"role": "user", "content": content}
    assert with_metadata == {"role": "user", "content": content, "metadata": {"a": "b"}}


def test_a_message_brings_its_role(driver: Driver, peer: Peer) -> None:
    answer = AnthropicMessage.model_validate({**REPLY, "content": REPLY["content"][:1]})
    body = sent(driver, peer, lambda client: client.threads.messages.append("thread_1", content=answer))
    assert body == {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}
    stored = Message.from_json(message(2, "user"))
    body = sent(driver, peer, lambda client: client.threads.messages.append("thread_1", content=stored))
    assert body == {"role": "user", "content": [{"type": "text", "text": "Hello"}]}


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
        {"messages": [BLOCKS]},
        {"messages": [object()]},
        {"role": "user", "content": {"role": "assistant", "content": "Hello"}},
        {"content": {"type": "text", "text": "Hello"}},
        {"role": "assistant", "content": WITH_TOOL_CALLS},
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


COMPLETION = ChatCompletion.model_validate(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": WITH_TOOL_CALLS.model_dump()}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    }
)
CALLS = WITH_TOOL_CALLS.model_dump(exclude_none=True)["tool_calls"]


@pytest.mark.parametrize(
    ("reply", "as_sent"),
    [
        ("Hi", {"role": "assistant", "content": "Hi"}),
        (BLOCKS, {"role": "assistant", "content": BLOCKS_AS_SENT}),
        (WITH_TOOL_CALLS, {"role": "assistant", "content": "x", "tool_calls": CALLS}),
        (
            ChatCompletionMessage(role="assistant", content=None, refusal="No."),
            {"role": "assistant", "content": None, "refusal": "No."},
        ),
        (ChatCompletionMessage(role="assistant", content=None), {"role": "assistant", "content": None}),
        (
            COMPLETION,
            {
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "tool_calls",
                        "message": {"role": "assistant", "content": "x", "tool_calls": CALLS},
                    }
                ]
            },
        ),
        (COMPLETION.model_dump(mode="json"), COMPLETION.model_dump(mode="json")),
        (REPLY, REPLY),
    ],
)
def test_a_reply_in_every_form(driver: Driver, peer: Peer, reply: Any, as_sent: Any) -> None:
    peer.plays(Answer({}))
    usage = CompletionUsage(prompt_tokens=9, completion_tokens=2, total_tokens=11)
    driver.run(lambda client: client.threads.prompts.report_usage("thread_1", "prompt_1", usage=usage, message=reply))
    assert peer.only_request.json == {
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
        "message": as_sent,
    }


def test_what_is_no_reply_is_not_sent(driver: Driver, peer: Peer) -> None:
    with pytest.raises(TypeError, match="a reply is"):
        driver.run(lambda client: client.threads.prompts.report_usage("t", "p", usage={}, message=object()))
    assert not peer.received
