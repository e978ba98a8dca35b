"""A reply as Anthropic's protocol and OpenAI's say it, in a stream and at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

_OPENAI_REASONS = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls", "refusal": "content_filter"}


@dataclass(frozen=True)
class Say:
    """A reply, and how it ends. `after` is how many pieces of content come before an end that is not `whole`."""

    blocks: tuple[Mapping[str, Any], ...]
    delay_seconds: float = 0.0
    stop_reason: str | None = None
    usage: Mapping[str, Any] | None = None
    ends: Literal["whole", "stall", "cut", "early", "malformed", "error"] = "whole"
    after: int = 0
    error: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        calls = any(block["type"] == "tool_use" for block in self.blocks)
        return self.stop_reason or ("tool_use" if calls else "end_turn")


def _pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+", text)


def _json_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, separators=(",", ":"))


class _Stream:
    def __init__(self, say: Say) -> None:
        self.say = say
        self._events = list(self._content())

    def before(self) -> list[bytes]:
        return []

    def content(self) -> list[tuple[bytes, bool]]:
        return self._events

    def shown(self, number: int) -> int:
        """Pieces of content among the first events."""
        return sum(is_content for _, is_content in self._events[:number])

    def _content(self) -> Iterator[tuple[bytes, bool]]:
        raise NotImplementedError


class AnthropicStream(_Stream):
    def before(self) -> list[bytes]:
        usage = {**anthropic_usage(self.say), "output_tokens": 1}
        message = {**anthropic_message(replace(self.say, blocks=())), "stop_reason": None, "usage": usage}
        return [_event("message_start", message=message), _event("ping")]

    def _content(self) -> Iterator[tuple[bytes, bool]]:
        for index, block in enumerate(self.say.blocks):
            fields, deltas = _anthropic_parts(block)
            yield _event("content_block_start", index=index, content_block=fields), False
            for delta in deltas:
                yield _event("content_block_delta", index=index, delta=delta), True
            yield _event("content_block_stop", index=index), False

    def error(self) -> bytes:
        return _event("error", error=self.say.error)

    def after(self) -> list[bytes]:
        usage = {"output_tokens": anthropic_usage(self.say)["output_tokens"]}
        delta = {"stop_reason": self.say.reason, "stop_sequence": None}
        return [_event("message_delta", delta=delta, usage=usage), _event("message_stop")]


def _anthropic_parts(block: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """What a block begins with, and the pieces that follow."""
    match block["type"]:
        case "text":
            return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(block["thinking"])]
            signature = [{"type": "signature_delta", "signature": block["signature"]}]
            return {**block, "thinking": "", "signature": ""}, [*deltas, *signature]
        case "tool_use" | "server_tool_use":
            text = _json_text(block["input"])
            cuts = [text[at : at + 5] for at in range(0, len(text), 5)]
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": cut} for cut in cuts]
    return block, []


class OpenAIStream(_Stream):
    def before(self) -> list[bytes]:
        return [self._delta({"role": "assistant", "content": None})]

    def _content(self) -> Iterator[tuple[bytes, bool]]:
        calls = 0
        for block in self.say.blocks:
            match block["type"]:
                case "text" | "thinking":
                    key = "content" if block["type"] == "text" else "reasoning_content"
                    for piece in _pieces(block[block["type"]]):
                        yield self._delta({key: piece}), True
                case "tool_use":
                    function = {"name": block["name"], "arguments": ""}
                    call = {"index": calls, "id": block["id"], "type": "function", "function": function}
                    yield self._delta({"tool_calls": [call]}), True
                    text = _json_text(block["input"])
                    for at in range(0, len(text), 5):
                        piece = {"index": calls, "function": {"arguments": text[at : at + 5]}}
                        yield self._delta({"tool_calls": [piece]}), True
                    calls += 1

    def error(self) -> bytes:
        return _data({"error": self.say.error})

    def after(self) -> list[bytes]:
        finish = self._delta({}, _OPENAI_REASONS.get(self.say.reason, self.say.reason))
        return [
            finish,
            _data({"id": "chatcmpl-1", "choices": [], "usage": openai_usage(self.say)}),
            b"data: [DONE]\n\n",
        ]

    def _delta(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _data({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]})


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + _data({"type": kind, **fields})


def _data(value: Any) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def _output_tokens(say: Say) -> int:
    return sum(len(_pieces(str(block.get("text", "")))) + 1 for block in say.blocks)


def anthropic_usage(say: Say) -> dict[str, Any]:
    counted = {"input_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {**counted, "output_tokens": _output_tokens(say), **(say.usage or {})}


def openai_usage(say: Say) -> dict[str, Any]:
    counted = {"prompt_tokens": 10, "completion_tokens": _output_tokens(say)}
    return {**counted, "prompt_tokens_details": {"cached_tokens": 0}, **(say.usage or {})}


def anthropic_message(say: Say) -> dict[str, Any]:
    content = [{**b, "input": json.loads(_json_text(b["input"]))} if "input" in b else b for b in say.blocks]
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "scripted",
        "content": content,
        "stop_reason": say.reason,
        "stop_sequence": None,
        "usage": anthropic_usage(say),
    }


def openai_completion(say: Say) -> dict[str, Any]:
    calls = [
        {"id": b["id"], "type": "function", "function": {"name": b["name"], "arguments": _json_text(b["input"])}}
        for b in say.blocks
        if b["type"] == "tool_use"
    ]
    text = "".join(b["text"] for b in say.blocks if b["type"] == "text")
    message = {"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": _OPENAI_REASONS.get(say.reason, say.reason)}
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": openai_usage(say)}
