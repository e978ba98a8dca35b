"""A provider that asks nobody: it repeats what the user said, so that everything can be tried without a key."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from memory_service.core.canonical import dumps, loads
from memory_service.errors import InvalidInput
from memory_service.providers.base import Delta, ModelCall, Reply, TextCounter

_WORDS = re.compile(r"\s*\S+|\s+")
_CALL = re.compile(r"/tool\s+(\S+)\s*(.*)")
_NOTHING_SAID = "There is nothing to repeat."


class Echo:
    """A `ChatProvider` that takes the requests of every form. The same request gets the same reply.

    It repeats the newest text of the user, or what the tools said when they were the last to speak. Each line
    `/tool NAME {…}` of that text calls a tool, if the request offers it. `notice` stands before every reply. Its usage is
    in the form of the request, in tokens of o200k_base.
    """

    name = "echo"

    def __init__(self, counter: TextCounter, notice: str = "") -> None:
        self._counter = counter
        self._notice = notice

    async def stream(self, call: ModelCall) -> AsyncGenerator[Delta | Reply, None]:
        request: Mapping[str, Any] = loads(dumps(call.request))
        content = list(self._content(request))
        for delta in _deltas(content):
            yield delta
        calls = any(block["type"] == "tool_use" for block in content)
        yield Reply(
            content=content,
            stop_reason="tool_use" if calls else "end_turn",
            usage=await self._usage(request, content),
            id=f"echo_{_digest(request)}",
        )

    async def load(self) -> None:
        """There is nothing to load."""

    async def prewarm(self, call: ModelCall) -> Mapping[str, Any]:
        return _counted(call.request, 0, 0)

    async def close(self) -> None:
        """There is nothing to close."""

    def _content(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        said = _newest(request) or _NOTHING_SAID
        calls = _calls(said, _offered(request))
        text = self._notice if calls else " ".join(filter(None, (self._notice, said)))
        if text:
            yield {"type": "text", "text": text}
        for number, (name, arguments) in enumerate(calls):
            yield {"type": "tool_use", "id": f"call_{_digest(request)}_{number}", "name": name, "input": arguments}

    async def _usage(self, request: Mapping[str, Any], content: Sequence[Any]) -> Mapping[str, Any]:
        # Beside the event loop: a prompt may be long.
        asked, answered = await asyncio.to_thread(lambda: (self._tokens(request), self._tokens(content)))
        return _counted(request, asked, answered)

    def _tokens(self, value: Any) -> int:
        counts = self._counter.count("\n".join(_texts(value)))
        return counts.latin + counts.other


def _deltas(content: Sequence[Mapping[str, Any]]) -> Iterator[Delta]:
    for at, block in enumerate(content):
        if block["type"] == "text":
            yield from (Delta(at, "text", word) for word in _WORDS.findall(block["text"]))
        else:
            yield Delta(at, "tool_use", tool_use_id=block["id"], tool_name=block["name"])
            yield Delta(at, "tool_input", dumps(block["input"]))


def _newest(request: Mapping[str, Any]) -> str:
    """The last text since the model spoke; of a user who only brought results, these."""
    said, results = "", list[str]()
    for message in request.get("messages", ()):
        if message.get("role") == "assistant":
            said, results = "", []
            continue
        content = message.get("content") or ()
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if message.get("role") == "tool":
            results += _texts(parts)
            continue
        for part in parts:
            if part.get("type") == "text" and message.get("role") == "user":
                said = str(part.get("text"))
            elif part.get("type") == "tool_result":
                results += _texts(part.get("content"))
    return said or "\n".join(results)


def _offered(request: Mapping[str, Any]) -> set[str]:
    return {str((tool.get("function") or tool).get("name")) for tool in request.get("tools") or ()}


def _calls(text: str, offered: set[str]) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """None at all unless every line is a call that can be made."""
    calls = []
    for line in text.strip().splitlines():
        match = _CALL.fullmatch(line.strip())
        try:
            arguments = loads(match[2] or "{}") if match else None
        except InvalidInput:
            return []
        if match is None or match[1] not in offered or not isinstance(arguments, dict):
            return []
        calls.append((match[1], arguments))
    return calls


def _texts(value: Any) -> list[str]:
    """All that is text in a request, media left out."""
    match value:
        case str():
            return [value]
        case Mapping():
            held: Iterable[Any] = (
                part for key, part in value.items() if key not in ("type", "source", "image_url", "file")
            )
        case list() | tuple():
            held = value
        case _:
            return []
    return [text for part in held for text in _texts(part)]


def _digest(request: Mapping[str, Any]) -> str:
    return sha256(dumps(request).encode()).hexdigest()[:24]


def _counted(request: Mapping[str, Any], asked: int, answered: int) -> Mapping[str, Any]:
    if "max_completion_tokens" in request:
        return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}
    return {"input_tokens": asked, "output_tokens": answered}
