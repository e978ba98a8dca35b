"""What only one of the two protocols says, and what servers make of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from memory_service.core.canonical import dumps
from memory_service.core.content import check_content
from memory_service.providers.base import ModelCall, Reply
from memory_service.providers.chat.anthropic import AnthropicChat
from memory_service.providers.chat.openai import OpenAIChat
from tests.conformance.chat import KEY, Outcome, hear, request, with_provider
from tests.providers.scripted import Behaviour, Raw, ScriptedProvider, blocks, ok, scripted

PATIENT_SECONDS = 60.0
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
THINKING = {"type": "thinking", "thinking": "Hm, let me see.", "signature": "c2lnbmVk"}
REDACTED = {"type": "redacted_thinking", "data": "b3BhcXVl"}
TEXT = {"type": "text", "text": "I have seen."}
LATER = {"type": "search_findings", "score": 1.5, "found": [{"page": "p1", "z": 1, "a": None}]}


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedProvider]:
    with scripted() as running:
        yield running


def anthropic(server: ScriptedProvider, behaviour: Behaviour, **options: Any) -> Outcome:
    server.asked.clear()
    server.script(behaviour)
    previous = options.pop("previous_id", None)
    call = ModelCall(request("anthropic", "Hello?"), previous_id=previous, cache_salt="salt")
    opened = AnthropicChat(PATIENT_SECONDS, base_url=server.url, api_key=KEY, **options)
    return with_provider(opened, lambda provider: hear(provider, call))


def openai(server: ScriptedProvider, behaviour: Behaviour, **options: Any) -> Outcome:
    server.asked.clear()
    server.script(behaviour)
    call = ModelCall(request("openai", "Hello?"), cache_salt="salt")
    opened = OpenAIChat(PATIENT_SECONDS, base_url=f"{server.url}/v1", api_key=KEY, **options)
    return with_provider(opened, lambda provider: hear(provider, call))


def events(*payloads: Mapping[str, Any] | str) -> Raw:
    texts = [payload if isinstance(payload, str) else json.dumps(payload) for payload in payloads]
    return Raw([HEAD, *(f"data: {text}\n\n".encode() for text in texts)])


def start(usage: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "msg_9", "usage": usage, **fields}}


def begin(block: Mapping[str, Any], index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def piece(delta: Mapping[str, Any], index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def end(reason: str = "end_turn", usage: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}, {"type": "message_stop"}


def reply_of(outcome: Outcome) -> Reply:
    assert outcome.reply, outcome.error and outcome.error.message
    return outcome.reply


def test_a_variable_that_is_set_to_nothing_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = []
    for variable, kind in (("ANTHROPIC_BASE_URL", AnthropicChat), ("OPENAI_BASE_URL", OpenAIChat)):
        monkeypatch.setenv(variable, "")
        client = with_provider(kind(1, api_key=KEY), lambda provider: provider._exchange.client())  # type: ignore[attr-defined]
        hosts.append(client.base_url.host)
    assert hosts == ["api.anthropic.com", "api.openai.com"]


class TestAnthropic:
    def test_thinking_and_unknown_blocks_are_kept_as_they_came(self, server: ScriptedProvider) -> None:
        outcome = anthropic(server, blocks(THINKING, REDACTED, LATER, TEXT))
        content = reply_of(outcome).content
        assert dumps(content) == dumps([THINKING, REDACTED, LATER, TEXT])
        assert check_content("assistant", content, "content"), "a thread takes it"
        assert outcome.of("thinking") == THINKING["thinking"]
        assert [delta.index for delta in outcome.deltas if delta.type == "text"] == [3, 3, 3]

    def test_numbers_in_unknown_blocks_are_spelled_as_they_came(self, server: ScriptedProvider) -> None:
        block = '{"type":"later","score":1.10,"big":123456789012345678901234}'
        stream = events(start(), f'{{"type":"content_block_start","index":0,"content_block":{block}}}', *end())
        assert dumps(reply_of(anthropic(server, stream)).content) == f"[{block}]"

    def test_tools_that_the_provider_runs_itself(self, server: ScriptedProvider) -> None:
        call = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}}
        found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"url": "u"}]}
        outcome = anthropic(server, blocks(call, found, TEXT))
        assert reply_of(outcome).content == [call, found, TEXT]
        assert {delta.type for delta in outcome.deltas} == {"text"}, "nobody here has to run it"

    def test_citations_are_gathered(self, server: ScriptedProvider) -> None:
        cited = [{"type": "citations_delta", "citation": {"cited_text": text}} for text in ("a", "b")]
        text = begin({"type": "text", "text": "", "citations": None})
        stream = events(start(), text, *map(piece, cited), piece({"type": "text_delta", "text": "So."}), *end())
        assert reply_of(anthropic(server, stream)).content == [
            {"type": "text", "text": "So.", "citations": [{"cited_text": "a"}, {"cited_text": "b"}]}
        ]

    def test_usage_is_that_of_the_whole_message(self, server: ScriptedProvider) -> None:
        first = {
            "input_tokens": 3,
            "cache_creation_input_tokens": 7,
            "cache_read_input_tokens": 5,
            "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 3},
            "output_tokens": 1,
            "service_tier": "standard",
        }
        last = {"output_tokens": 42, "input_tokens": None, "server_tool_use": {"web_search_requests": 1}}
        stream = events(start(first), begin({"type": "text", "text": "Yes."}), *end(usage=last))
        expected = {**first, "output_tokens": 42, "server_tool_use": {"web_search_requests": 1}}
        assert reply_of(anthropic(server, stream)).usage == expected

    @pytest.mark.parametrize("usage", [None, {}, {"output_tokens": 5}, {"input_tokens": -1}, {"input_tokens": "many"}])
    def test_a_server_without_readable_usage(self, server: ScriptedProvider, usage: Mapping[str, Any]) -> None:
        reply = reply_of(anthropic(server, events(start(usage), begin(TEXT), *end())))
        assert reply.usage is None
        assert reply.id == "msg_9"

    def test_blocks_that_come_whole(self, server: ScriptedProvider) -> None:
        call = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}
        outcome = anthropic(server, events(start(), begin(TEXT), begin(call, 1), *end("tool_use")))
        assert reply_of(outcome).content == [TEXT, call]
        assert outcome.of("text") == TEXT["text"]
        assert outcome.inputs == {1: '{"a":1}'}

    def test_blank_text_is_left_out(self, server: ScriptedProvider) -> None:
        stream = events(start(), begin({"type": "text", "text": ""}), begin(TEXT, 1), *end())
        assert reply_of(anthropic(server, stream)).content == [TEXT]
        assert reply_of(anthropic(server, events(start(), *end()))).content == []

    @pytest.mark.parametrize("reason", ["max_tokens", "refusal", "model_context_window_exceeded"])
    def test_a_call_that_the_model_could_not_finish_is_left_out(self, server: ScriptedProvider, reason: str) -> None:
        call = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": '{"a": [1, 2'}
        reply = reply_of(anthropic(server, blocks(TEXT, call, stop_reason=reason)))
        assert reply.content == [TEXT]
        assert reply.stop_reason == reason

    @pytest.mark.parametrize("arguments", ['{"a": [1, 2', "[1]", '"text"'])
    def test_a_call_that_makes_no_sense(self, server: ScriptedProvider, arguments: str) -> None:
        call = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": arguments}
        error = anthropic(server, blocks(TEXT, call)).error
        assert error
        assert error.code == "provider_stream_broken"

    @pytest.mark.parametrize(
        "event",
        [
            begin({"type": "tool_use", "id": 5, "name": "add", "input": {}}),
            begin({"type": "tool_use", "input": {}}),
            {"type": "content_block_start", "index": "first", "content_block": TEXT},
            piece({"type": "text_delta", "text": "to no block"}, 7),
            piece({"type": "text_delta"}),
            piece({"type": "text_delta", "text": None}),
            {"type": "message_start", "message": "no"},
            {"type": "message_delta", "usage": {}},
            begin({"type": 5}, 1),
            begin({"no": "type"}, 1),
            begin({"type": "tool_use", "id": "x" * 300, "name": "add", "input": {}}, 1),
        ],
    )
    def test_events_that_make_no_sense(self, server: ScriptedProvider, event: Mapping[str, Any]) -> None:
        error = anthropic(server, events(start(), begin(TEXT), event, *end())).error
        assert error
        assert error.code == "provider_stream_broken"

    def test_events_that_nobody_knows_are_passed_over(self, server: ScriptedProvider) -> None:
        stream = events({"type": "ping"}, start(), {"type": "later", "index": "x"}, begin(TEXT), *end("later_reason"))
        reply = reply_of(anthropic(server, stream))
        assert (reply.content, reply.stop_reason) == ([TEXT], "later_reason")

    def test_what_no_database_keeps_is_replaced(self, server: ScriptedProvider) -> None:
        text = begin({"type": "text", "text": "a\0b\ud83dc 😀"})
        call = {"type": "tool_use", "id": "t", "name": "add", "input": {}}
        arguments = piece({"type": "input_json_delta", "partial_json": '{"k\\u0000":"\\ud83d"}'}, 1)
        reply = reply_of(anthropic(server, events(start(), text, begin(call, 1), arguments, *end("tool_use"))))
        assert reply.content[0]["text"] == "a\ufffdb\ufffdc 😀"
        assert reply.content[1]["input"] == {"k\ufffd": "\ufffd"}
        assert check_content("assistant", reply.content, "content")

    def test_why_the_cache_was_missed_is_asked_of_anthropic_alone(
        self, server: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        missed = {"cache_miss_reason": {"type": "system_changed", "cache_missed_input_tokens": 9}}
        stream = events(start(diagnostics=missed), begin(TEXT), *end())
        assert reply_of(anthropic(server, stream, diagnostics=True, previous_id="msg_8")).diagnostics == missed
        assert server.asked[0].body["diagnostics"] == {"previous_message_id": "msg_8"}
        assert "cache_salt" not in server.asked[0].body
        anthropic(server, ok(), previous_id="msg_8")
        assert "diagnostics" not in server.asked[0].body
        monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
        assert AnthropicChat(1).asks_why
        assert AnthropicChat(1, base_url="https://api.anthropic.com/").asks_why
        monkeypatch.setenv("ANTHROPIC_BASE_URL", "")
        assert AnthropicChat(1).asks_why, "set to nothing is not set"
        monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:8080")
        assert not AnthropicChat(1).asks_why


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-9", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def tool_call(arguments: Any, *, name: str | None = None, **fields: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name is not None else {})}
    return {**fields, "function": function}


DONE = "[DONE]"
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}


class TestOpenAI:
    @pytest.mark.parametrize(
        ("finish", "reason"),
        [
            ("stop", "end_turn"),
            ("length", "max_tokens"),
            ("tool_calls", "tool_use"),
            ("content_filter", "refusal"),
            ("eos", "eos"),
        ],
    )
    def test_why_it_stopped(self, server: ScriptedProvider, finish: str, reason: str) -> None:
        reply = reply_of(openai(server, events(chunk(content="Yes."), chunk(finish), DONE)))
        assert (reply.stop_reason, reply.id, reply.usage) == (reason, "chatcmpl-9", None)

    @pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
    def test_reasoning_is_shown_and_not_kept(self, server: ScriptedProvider, key: str) -> None:
        stream = events(chunk(**{key: "Hm, "}), chunk(**{key: "so."}), chunk(content="Yes."), chunk("stop"))
        outcome = openai(server, stream)
        assert outcome.of("thinking") == "Hm, so."
        assert outcome.of("text") == "Yes."
        assert reply_of(outcome).content == [{"type": "text", "text": "Yes."}]

    def test_a_refusal_is_text(self, server: ScriptedProvider) -> None:
        outcome = openai(server, events(chunk(refusal="I will "), chunk(refusal="not."), chunk("stop")))
        assert outcome.of("text") == "I will not."
        assert reply_of(outcome).content == [{"type": "text", "text": "I will not."}]
        assert reply_of(outcome).stop_reason == "refusal"

    def test_parts_of_content(self, server: ScriptedProvider) -> None:
        stream = events(chunk(content=[{"type": "text", "text": "Yes."}, {"type": "later"}]), chunk("stop"))
        assert reply_of(openai(server, stream)).content == [{"type": "text", "text": "Yes."}]

    @pytest.mark.parametrize(
        "stream",
        [
            events(chunk(content="Yes."), chunk("stop"), {"choices": [], "usage": USAGE}, DONE),
            events(chunk(content="Yes."), {**chunk("stop"), "usage": USAGE}, DONE),
            events({**chunk(content="Yes."), "usage": {"prompt_tokens": 9}}, {**chunk("stop"), "usage": USAGE}),
            events(chunk(content="Yes."), chunk("stop"), {"usage": USAGE}),
            events({**chunk("stop", content="Yes."), "usage": USAGE}, {"choices": None, "usage": None}),
        ],
    )
    def test_usage_comes_where_it_comes(self, server: ScriptedProvider, stream: Raw) -> None:
        reply = reply_of(openai(server, stream))
        assert reply.usage == USAGE
        assert reply.content == [{"type": "text", "text": "Yes."}]

    @pytest.mark.parametrize(
        "rest",
        [Raw([]), events("{", DONE), Raw([b"data: {}\n"])],
        ids=["closed", "malformed", "cut off"],
    )
    def test_a_reply_is_not_lost_with_its_usage(self, server: ScriptedProvider, rest: Raw) -> None:
        said = events(chunk(content="Yes."), chunk("stop"))
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"
        reply = reply_of(openai(server, Raw([head, *said.pieces[1:], *rest.pieces[1:]])))
        assert (reply.content, reply.usage) == ([{"type": "text", "text": "Yes."}], None)

    @pytest.mark.parametrize(
        "calls",
        [
            [[tool_call("", name="add", index=0, id="a"), tool_call("", name="look_up", index=1, id="b")],
             [tool_call('{"x":', index=0)], [tool_call('{"y":2}', index=1)], [tool_call("1.10}", index=0)]],
            [[tool_call('{"x":1.10}', name="add", index=0, id="a"), tool_call('{"y":2}', name="look_up", index=1, id="a")]],
            [[tool_call('{"x":1.10}', name="add", index=0, id="a"), tool_call('{"y"', name="look_up", index=1, id="a")],
             [tool_call(":2}", name="look_up", index=1, id="a")]],
            [[tool_call('{"x":1.10}', name="add", id="a"), tool_call('{"y":2}', name="look_up", id="b")]],
            [[tool_call('{"x":1.10}', name="add", id="a")], [tool_call('{"y":2}', name="look_up", id="b")]],
            [[tool_call('{"x":1.10}', name="add", id="")], [tool_call('{"y":2}', name="look_up")]],
            [[tool_call('{"x":', name="add", id="a")], [tool_call("1.10}")], [tool_call('{"y":2}', name="look_up")]],
            [[tool_call('{"x":1.10}', name="add", index=0, id="a")],
             [tool_call('{"y":2}', name="look_up", index=0, id="b")]],
            [[tool_call('{"x":', name="add", index=0, id="a")], [tool_call("1.10}", name="add", index=0, id="a")],
             [tool_call('{"y":2}', name="look_up", index=1, id="b")]],
            [[tool_call('{"x":', name="add", index=0, id="a")], [tool_call("1.10}", name="", index=0, id="")],
             [tool_call({"y": 2}, name="look_up", index=1, id="b")]],
        ],
        ids=["as OpenAI", "one id", "it again", "at once", "whole", "no ids", "unnumbered", "all 0", "names", "objects"],
    )  # fmt: skip
    def test_calls_come_as_they_come(self, server: ScriptedProvider, calls: list[list[Any]]) -> None:
        stream = events(*(chunk(tool_calls=some) for some in calls), chunk("tool_calls"), DONE)
        outcome = openai(server, stream)
        content = reply_of(outcome).content
        assert [(b["name"], dumps(b["input"])) for b in content] == [("add", '{"x":1.10}'), ("look_up", '{"y":2}')]
        assert len({block["id"] for block in content}) == 2
        assert list(outcome.inputs.values()) == ['{"x":1.10}', '{"y":2}']
        assert check_content("assistant", content, "content")

    def test_ids_that_are_made_up_are_new_each_time(self, server: ScriptedProvider) -> None:
        stream = events(chunk(tool_calls=[tool_call("", name="add", id="")]), chunk("tool_calls"))
        first, second = (reply_of(openai(server, stream)).content[0] for _ in range(2))
        assert first["input"] == {}
        assert first["id"] != second["id"]

    def test_an_id_that_a_call_of_the_prompt_has_is_not_given_again(self, server: ScriptedProvider) -> None:
        said = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_0", **tool_call("{}", name="add")}]}
        asked = request("openai", "Hello?", messages=[said, {"role": "tool", "tool_call_id": "call_0", "content": "3"}])
        calls = [tool_call("{}", name="add", index=0, id="call_0"), tool_call("{}", name="add", index=1, id="call_1")]
        server.script(events(chunk(tool_calls=calls), chunk("tool_calls"), DONE))
        opened = OpenAIChat(PATIENT_SECONDS, base_url=f"{server.url}/v1", api_key=KEY)
        outcome = with_provider(opened, lambda provider: hear(provider, ModelCall(asked)))
        made_up, kept = (block["id"] for block in reply_of(outcome).content)
        assert kept == "call_1"
        assert made_up not in ("", "call_0", "call_1")

    def test_calls_say_why_it_stopped_when_the_server_does_not(self, server: ScriptedProvider) -> None:
        stream = events(chunk(tool_calls=[tool_call("{}", name="add", id="a")]), chunk("stop"))
        assert reply_of(openai(server, stream)).stop_reason == "tool_use"

    def test_a_call_that_the_model_could_not_finish_is_left_out(self, server: ScriptedProvider) -> None:
        calls = [tool_call('{"a":1}', name="add", id="a", index=0), tool_call('{"a', name="add", id="b", index=1)]
        reply = reply_of(openai(server, events(chunk(content="So."), chunk(tool_calls=calls), chunk("length"))))
        assert [block["type"] for block in reply.content] == ["text", "tool_use"]
        assert reply.stop_reason == "max_tokens"

    @pytest.mark.parametrize(
        "call",
        [
            tool_call('{"a', name="add", id="a"),
            tool_call("[1]", name="add", id="a"),
            tool_call("{}", id="a"),
            tool_call(5, name="add", id="a"),
            tool_call("{}", name="add", id=5),
            "add",
        ],
    )
    def test_a_call_that_makes_no_sense(self, server: ScriptedProvider, call: Any) -> None:
        error = openai(server, events(chunk(tool_calls=[call]), chunk("tool_calls"), DONE)).error
        assert error
        assert error.code == "provider_stream_broken"

    def test_cache_salt_is_sent_to_servers_that_know_it(self, server: ScriptedProvider) -> None:
        openai(server, ok())
        assert "cache_salt" not in server.asked[0].body
        openai(server, ok(), sends_cache_salt=True)
        assert server.asked[0].body["cache_salt"] == "salt"
        assert server.asked[0].body["stream_options"] == {"include_usage": True}

    def test_a_server_of_ones_own_needs_no_key(self, server: ScriptedProvider, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        server.asked.clear()
        call = ModelCall(request("openai", "Hello?"))
        assert with_provider(OpenAIChat(PATIENT_SECONDS), lambda provider: hear(provider, call)).reply
        assert server.asked[0].path == "/v1/chat/completions"
