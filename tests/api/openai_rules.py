"""The rules of OpenAI's chat completions for a request. `check` fails on the first one broken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

REQUEST_KEYS = {
    "model",
    "messages",
    "tools",
    "max_completion_tokens",
    "prompt_cache_key",
    "prompt_cache_options",
}
USER_PARTS = {"text", "image_url", "file", "input_audio"}


def check(request: Mapping[str, Any]) -> None:
    assert request.keys() <= REQUEST_KEYS, request.keys()
    messages = request["messages"]
    assert messages[-1]["role"] in ("user", "tool")
    waiting: set[str] = set()
    for index, message in enumerate(messages):
        role = message["role"]
        if role != "tool":
            assert not waiting, "each tool call is answered before anything else"
        match role:
            case "system" | "developer":
                assert index == 0
                assert all(part["type"] == "text" and part["text"].strip() for part in message["content"])
            case "user":
                assert message["content"]
                assert all(part["type"] in USER_PARTS for part in message["content"])
                assert all(part.get("text", "x").strip() for part in message["content"])
            case "assistant":
                waiting = _check_assistant(message)
            case "tool":
                assert message["tool_call_id"] in waiting, "a tool message answers an open call"
                waiting.discard(message["tool_call_id"])
                assert all(part["type"] == "text" for part in message["content"])
            case _:
                raise AssertionError(role)
    assert not waiting
    for tool in request.get("tools", []):
        assert tool["type"] == "function"
        assert tool["function"]["name"]
        assert isinstance(tool["function"]["parameters"], dict)


def _check_assistant(message: Mapping[str, Any]) -> set[str]:
    calls = message.get("tool_calls", [])
    assert message["content"] or calls
    assert calls or "tool_calls" not in message
    for call in calls:
        assert call["type"] == "function"
        assert isinstance(json.loads(call["function"]["arguments"]), dict)
    ids = [call["id"] for call in calls]
    assert len(set(ids)) == len(ids)
    return set(ids)
