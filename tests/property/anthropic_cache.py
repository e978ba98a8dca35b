"""Anthropic's prompt cache by its published rules, working on requests alone: what a prediction is compared with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from math import inf
from typing import Any

LOOK_BACK = 20


@dataclass(frozen=True)
class Place:
    """A position: the hash of everything up to it, the tokens up to it, and whether a breakpoint stands there."""

    digest: str
    tokens: float
    marked: bool


@dataclass(frozen=True)
class Bill:
    read: float
    written: float
    uncached: float

    @property
    def total(self) -> float:
        return self.read + self.written + self.uncached

    def cost(self, read_ratio: float, write_ratio: float) -> float:
        return self.uncached + write_ratio * self.written + read_ratio * self.read


@dataclass
class AnthropicCache:
    """`tokens_of` says what a block costs, given its JSON. `refreshes_inside`: a breakpoint within what was read keeps
    its entry alive, which the documentation only hints at. A response begins `response_seconds` after its request.
    """

    tokens_of: Callable[[Mapping[str, Any]], float]
    minimum: float = 0
    ttl_seconds: float = 300
    refreshes_inside: bool = True
    response_seconds: float = 0
    entries: dict[str, float] = field(default_factory=dict)  # digest → expires at
    waiting: dict[str, float] = field(default_factory=dict)  # digest → when it was written

    def hear(self, sent_at: float) -> None:
        """The responses to all requests up to then have begun."""
        self.waiting = {digest: at for digest, at in self.waiting.items() if at > sent_at}

    def send(self, body: Mapping[str, Any], now: float) -> Bill:
        """Bill a request, and remember what it wrote."""
        places = list(self.places(body))
        marks = [i for i, place in enumerate(places) if place.marked and place.tokens >= self.minimum]
        hit = max((found for mark in marks if (found := self._find(places, mark, now)) is not None), default=None)
        read = places[hit].tokens if hit is not None else 0.0
        last = places[marks[-1]].tokens if marks else 0.0
        for mark in [*marks, *([hit] if hit is not None else [])]:
            if self.entries.get(places[mark].digest, -1.0) < now:
                self.waiting[places[mark].digest] = now
            if self.refreshes_inside or hit is None or mark >= hit:
                self.entries[places[mark].digest] = now + self.ttl_seconds
        total = places[-1].tokens
        return Bill(read, max(0.0, last - read), total - max(last, read))

    def _find(self, places: list[Place], mark: int, now: float) -> int | None:
        for at in range(mark, max(-1, mark - LOOK_BACK), -1):
            begins = self.waiting.get(places[at].digest, -inf) + self.response_seconds
            if self.entries.get(places[at].digest, -1.0) >= now >= begins:
                return at
        return None

    def places(self, body: Mapping[str, Any]) -> Iterator[Place]:
        chain, tokens, pending = sha256(), 0.0, None
        for section, block in blocks_of(body):
            kind = (section, block.get("type"))
            if pending and not (kind == pending[0] and kind[1] in ("tool_use", "tool_result")):
                yield pending[1]
                pending = None
            marked = "cache_control" in block or bool(pending and pending[1].marked)
            chain.update(f"{section}|{json.dumps(unmarked(block), ensure_ascii=False)}\n".encode())
            tokens += self.tokens_of(unmarked(block))
            pending = (kind, Place(chain.hexdigest(), tokens, marked))
        if pending:
            yield pending[1]


def blocks_of(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All blocks in the order in which they are hashed, with the part of the request they belong to."""
    for tool in body.get("tools", []):
        yield "tools", tool
    for block in body.get("system", []):
        yield "system", block
    for message in body["messages"]:
        for block in message["content"]:
            yield message["role"], block


def unmarked(block: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key != "cache_control"}
