"""OpenAI's explicit breakpoints (GPT-5.6 and later) by its published rules, working on requests alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from tests.property.anthropic_cache import Bill, Place

_MARK = "prompt_cache_breakpoint"
_LOOKED_UP_FIRST, _LOOKED_UP_LAST = 2, 50
_WRITTEN = 4


@dataclass
class OpenAICache:
    """A prefix is found only where a breakpoint stood and stands again. `tokens_of` says what a part costs."""

    tokens_of: Callable[[Mapping[str, Any]], float]
    minimum: float = 1_024
    ttl_seconds: float = 1_800
    entries: dict[str, float] = field(default_factory=dict)  # digest → expires at

    def send(self, body: Mapping[str, Any], now: float) -> Bill:
        """Bill a request, and remember what it wrote."""
        assert body["prompt_cache_options"] == {"mode": "explicit"}
        places = list(self._places(body))
        marks = [place for place in places if place.marked]
        looked_up = {place.digest: place for place in (*marks[:_LOOKED_UP_FIRST], *marks[-_LOOKED_UP_LAST:])}
        found = [place for place in looked_up.values() if self.entries.get(place.digest, -1.0) >= now]
        read = max((place.tokens for place in found), default=0.0)
        written = [place for place in marks[-_WRITTEN:] if place.tokens >= self.minimum]
        for place in (*written, *found[-1:]):
            self.entries[place.digest] = now + self.ttl_seconds
        last = max((place.tokens for place in written), default=0.0)
        return Bill(read, max(0.0, last - read), places[-1].tokens - max(last, read))

    def _places(self, body: Mapping[str, Any]) -> Iterator[Place]:
        chain, tokens = sha256(body.get("prompt_cache_key", "").encode()), 0.0
        for role, part in parts_of(body):
            bare = {key: value for key, value in part.items() if key != _MARK}
            chain.update(f"{role}|{json.dumps(bare, ensure_ascii=False)}\n".encode())
            tokens += self.tokens_of(bare)
            yield Place(chain.hexdigest(), tokens, _MARK in part)


def parts_of(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All parts in order, with the role of their message; a tool message's id belongs to its parts."""
    for tool in body.get("tools", []):
        yield "tools", tool
    for message in body["messages"]:
        role = f"{message['role']} {message.get('tool_call_id', '')}"
        content = message.get("content")
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
            yield role, part
        for call in message.get("tool_calls", []):
            yield role, call
