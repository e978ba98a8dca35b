"""What the tests of providers of models share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from memory_service.errors import ProviderError
from memory_service.providers.base import ChatProvider, Delta, ModelCall, Reply

Result = TypeVar("Result")
PATIENCE_SECONDS = 10.0
KEY = "the-key-of-these-tests"


@dataclass(frozen=True)
class Outcome:
    deltas: list[Delta]
    reply: Reply | None = None
    error: ProviderError | None = None

    def of(self, kind: str) -> str:
        return "".join(delta.text for delta in self.deltas if delta.type == kind)

    @property
    def inputs(self) -> dict[int, str]:
        """The input of each call of a tool as it was streamed, by block."""
        pieces = [delta for delta in self.deltas if delta.type in ("tool_use", "tool_input")]
        return {at: "".join(d.text for d in pieces if d.index == at) for at in sorted({d.index for d in pieces})}


async def hear(provider: ChatProvider, call: ModelCall) -> Outcome:
    """All that a provider says, and that it says its reply once, at the end."""
    heard: list[Delta | Reply] = []
    error = None
    async with aclosing(provider.stream(call)) as pieces:
        try:
            async for piece in pieces:
                heard.append(piece)
        except ProviderError as failed:
            error = failed
    replies = [piece for piece in heard if isinstance(piece, Reply)]
    assert replies == ([] if error else heard[-1:])
    return Outcome([d for d in heard if isinstance(d, Delta)], replies[0] if replies else None, error)


def with_provider(opened: ChatProvider, use: Callable[[ChatProvider], Awaitable[Result]]) -> Result:
    """In an event loop of its own, in which nothing may be left afterwards."""

    async def go() -> Result:
        try:
            result = await use(opened)
        finally:
            await opened.close()
        # Generators that were dropped in the middle are closed by tasks of one step each.
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            _, pending = await asyncio.wait(left, timeout=PATIENCE_SECONDS)
            assert not pending
        return result

    return asyncio.run(go())


def request(form: str, text: str, **other: Any) -> Mapping[str, Any]:
    """A small request in the form of a provider, with two tools."""
    tools = [("look_up", "Looks it up."), ("add", "Adds.")]
    schema = {"type": "object"}
    if form == "openai":
        return {
            "model": "scripted",
            "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
            "tools": [
                {"type": "function", "function": {"name": n, "description": d, "parameters": schema}} for n, d in tools
            ],
            "max_completion_tokens": 64,
            **other,
        }
    return {
        "model": "scripted",
        "max_tokens": 64,
        "tools": [{"name": n, "description": d, "input_schema": schema} for n, d in tools],
        "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
        **other,
    }
