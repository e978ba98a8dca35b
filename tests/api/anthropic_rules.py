"""Anthropic's rules for a request, as strictly as the API itself checks them. `check` fails on the first one broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

REQUEST_KEYS = {"model", "max_tokens", "system", "tools", "messages"}
MAX_BREAKPOINTS = 4
TTLS = {None, "5m", "1h"}


def check(request: Mapping[str, Any]) -> None:
    assert request.keys() <= REQUEST_KEYS, request.keys()
    assert isinstance(request["model"], str)
    assert request["model"]
    assert isinstance(request["max_tokens"], int)
    assert request["max_tokens"] > 0
    for block in request.get("system", []):
        assert block["type"] == "text"
        assert block["text"].strip()
    assert request.get("system") != []
    names = [tool["name"] for tool in request.get("tools", [])]
    assert len(set(names)) == len(names)
    _check_messages(request["messages"])
    _check_breakpoints(request)


def _check_messages(messages: list[Any]) -> None:
    assert messages
    assert messages[0]["role"] == "user"
    assert messages[-1]["role"] == "user"
    for before, after in pairwise(messages):
        assert before["role"] != after["role"], "roles must alternate"
    called: set[str] = set()
    waiting: list[str] = []
    for message in messages:
        assert message.keys() == {"role", "content"}
        assert message["content"], "no message may be empty"
        answered = [block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"]
        if message["role"] == "user":
            assert sorted(answered) == sorted(waiting), "each tool_use is answered in the next message, once"
            kinds = [block["type"] == "tool_result" for block in message["content"]]
            assert kinds == sorted(kinds, reverse=True), "tool_result blocks come first"
            waiting = []
        else:
            assert not answered
            waiting = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
            assert len(set(waiting)) == len(waiting)
            assert not called & set(waiting), "ids of tool_use blocks are unique"
            called |= set(waiting)
        for block in message["content"]:
            _check_block(message["role"], block)
    assert not waiting


def _check_block(role: str, block: Mapping[str, Any]) -> None:
    match block["type"]:
        case "text":
            assert block["text"].strip(), "text must not be blank"
        case "tool_use":
            assert role == "assistant"
            assert block["id"]
            assert block["name"]
            assert isinstance(block["input"], dict)
        case "tool_result":
            assert role == "user"
            content = block.get("content", "")
            for part in [] if isinstance(content, str) else content:
                _check_block(role, part)
        case "thinking" | "redacted_thinking":
            assert role == "assistant"
        case "image" | "document":
            assert block["source"]["type"]


def _check_breakpoints(request: Mapping[str, Any]) -> None:
    marked = [block for block in _blocks(request) if "cache_control" in block]
    assert len(marked) <= MAX_BREAKPOINTS
    longest_first = []
    for block in marked:
        assert block.get("type") not in ("thinking", "redacted_thinking")
        assert block.get("text", "x").strip()
        control = block["cache_control"]
        assert control.keys() <= {"type", "ttl"}
        assert control["type"] == "ephemeral"
        assert control.get("ttl") in TTLS
        longest_first.append(control.get("ttl") != "1h")
    assert longest_first == sorted(longest_first), "the longer TTL comes first"


def _blocks(request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from request.get("tools", [])
    yield from request.get("system", [])
    for message in request["messages"]:
        yield from _nested(message["content"])


def _nested(blocks: Any) -> Iterator[Mapping[str, Any]]:
    for block in blocks if isinstance(blocks, list) else []:
        yield block
        yield from _nested(block.get("content"))
        yield from _nested(block.get("source", {}).get("content") if isinstance(block.get("source"), dict) else None)
