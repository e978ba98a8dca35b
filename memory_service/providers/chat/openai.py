"""Chat completions: OpenAI's API and every server that speaks its protocol, through the official SDK."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from typing import Any

from memory_service.core.canonical import dumps
from memory_service.core.replies import reply_content
from memory_service.errors import InvalidInput
from memory_service.providers.base import Delta, ModelCall, Reply
from memory_service.providers.chat.exchange import Exchange, SdkClient, patience
from memory_service.providers.chat.wire import Malformed, cleaned, read_object, readable_usage, string

_API_URL = "https://api.openai.com/v1"
# Servers of one's own want no key; the SDK wants one.
_NO_KEY = "none"
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_REASONING = ("reasoning_content", "reasoning")


class OpenAIChat:
    """A `ChatProvider`. The SDK reads OPENAI_API_KEY and OPENAI_BASE_URL itself.

    `sends_cache_salt`: the server is one that knows `cache_salt` (vLLM). OpenAI refuses fields that it does not know.
    """

    name = "openai"

    def __init__(
        self,
        idle_seconds: float,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        sends_cache_salt: bool = False,
    ) -> None:
        def open_client() -> SdkClient:
            from openai import AsyncOpenAI

            key = api_key or os.environ.get("OPENAI_API_KEY", "").strip() or _NO_KEY
            # To the SDK a variable that is set to nothing is an address.
            address = base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or _API_URL
            return AsyncOpenAI(base_url=address, api_key=key, max_retries=0, timeout=patience(idle_seconds))

        self._exchange = Exchange(self.name, "/chat/completions", open_client)
        self._sends_cache_salt = sends_cache_salt

    def stream(self, call: ModelCall) -> AsyncGenerator[Delta | Reply, None]:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        return self._exchange.stream({**self._body(call), **options}, _Completion(call.request))

    async def load(self) -> None:
        await self._exchange.client()

    async def prewarm(self, call: ModelCall) -> Mapping[str, Any]:
        answer = await self._exchange.answer({**self._body(call), "max_completion_tokens": 1})
        return readable_usage(answer.get("usage")) or {}

    async def close(self) -> None:
        await self._exchange.close()

    def _body(self, call: ModelCall) -> dict[str, Any]:
        salt = {"cache_salt": call.cache_salt} if self._sends_cache_salt and call.cache_salt else {}
        return {**call.request, **salt}


class _Call:
    """A call of a tool that comes in pieces."""

    def __init__(self, at: int, call_id: str, name: str, taken: Collection[str]) -> None:
        self.at = at
        self.told_id = call_id
        # Some servers give none, or all calls the same, or count anew in each reply; and a result has to name its call.
        self.id = call_id if call_id and call_id not in taken else f"call_{secrets.token_hex(12)}"
        self.name = name
        self._pieces: list[str] = []

    @property
    def arguments(self) -> str:
        return "".join(self._pieces)

    def add(self, text: str) -> None:
        self._pieces.append(text)

    def as_openai(self) -> dict[str, Any]:
        return {"id": self.id, "function": {"name": self.name, "arguments": self.arguments}}


class _Completion:
    """A chat completion as it is streamed, with what different servers make of it.

    Usage comes last, with or without choices, or never. Calls of tools come in pieces or whole, numbered or not.
    Reasoning is shown and not kept: no server takes it back in this form.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._id: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self._finish: str | None = None
        self._texts: dict[str, tuple[int, list[str]]] = {}
        self._calls: list[_Call] = []
        self._by_number: dict[int, _Call] = {}

    @property
    def is_whole(self) -> bool:
        return self._finish is not None

    def add(self, event: Mapping[str, Any]) -> Iterable[Delta]:
        try:
            if isinstance(event.get("id"), str):
                self._id = self._id or event["id"]
            if isinstance(event.get("usage"), dict):
                self._usage = event["usage"]
            return [delta for choice in event.get("choices") or () for delta in self._choice(choice)]
        except (LookupError, TypeError, ValueError, AttributeError):
            raise Malformed("an event that makes no sense") from None

    def reply(self) -> Reply:
        said = {kind: "".join(texts) for kind, (_, texts) in self._texts.items()}
        calls = self._calls
        if self._finish in ("length", "content_filter"):
            calls = [call for call in calls if _is_finished(call)]
        message = {"content": said.get("text"), "refusal": said.get("refusal")}
        try:
            content = reply_content({**message, "tool_calls": [call.as_openai() for call in calls]}, "")
        except InvalidInput:
            raise Malformed("the call of a tool has no name, or its arguments are no JSON object") from None
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        return Reply(
            content=cleaned(blocks),
            stop_reason=self._stop_reason(said, calls),
            usage=readable_usage(self._usage),
            id=self._id,
        )

    def _taken_ids(self) -> Collection[str]:
        said = self._request.get("messages") or ()
        asked = {call["id"] for message in said for call in message.get("tool_calls") or ()}
        return asked | {call.id for call in self._calls}

    def _stop_reason(self, said: Mapping[str, str], calls: list[_Call]) -> str:
        if self._finish == "stop" and calls:
            return "tool_use"  # not every server tells one from the other
        if self._finish == "stop" and said.get("refusal", "").strip():
            return "refusal"
        return _STOP_REASONS.get(str(self._finish), str(self._finish))

    def _choice(self, choice: Mapping[str, Any]) -> Iterable[Delta]:
        delta = choice.get("delta") or {}
        for key in _REASONING:
            if delta.get(key):
                yield from self._text("thinking", string(delta[key]))
                break
        yield from self._text("text", _joined(delta.get("content")))
        yield from self._text("refusal", _joined(delta.get("refusal")))
        for call in delta.get("tool_calls") or ():
            yield from self._call(call)
        self._finish = choice.get("finish_reason") or self._finish

    def _text(self, kind: str, text: str) -> Iterable[Delta]:
        if text:
            at, texts = self._texts.setdefault(kind, (self._next(), []))
            texts.append(text)
            yield Delta(at, "thinking" if kind == "thinking" else "text", text)

    def _call(self, piece: Mapping[str, Any]) -> Iterable[Delta]:
        function = piece.get("function") or {}
        name, call_id, number = function.get("name") or "", piece.get("id") or "", piece.get("index")
        newest = self._calls[-1] if self._calls else None
        call = self._by_number.get(number) if isinstance(number, int) else newest
        if call is None or _is_another(call, name, call_id, is_numbered=isinstance(number, int)):
            call = _Call(self._next(), string(call_id), string(name), self._taken_ids())
            self._calls.append(call)
            yield Delta(call.at, "tool_use", tool_use_id=call.id, tool_name=call.name)
        if isinstance(number, int):
            self._by_number[number] = call
        arguments = function.get("arguments")
        text = dumps(arguments) if isinstance(arguments, dict) else string(arguments or "")
        if text:
            call.add(text)
            yield Delta(call.at, "tool_input", text)

    def _next(self) -> int:
        return len(self._texts) + len(self._calls)


def _is_another(call: _Call, name: str, call_id: str, *, is_numbered: bool) -> bool:
    """Does a piece begin a new call? Some servers number all of them 0, others none; a call begins with its name."""
    if not name:
        return False
    return call_id != call.told_id if call_id else not is_numbered


def _is_finished(call: _Call) -> bool:
    try:
        read_object(call.arguments)
    except Malformed:
        return False
    return True


def _joined(content: Any) -> str:
    """Text, or parts of which some are text."""
    if isinstance(content, list):
        return "".join(string(part.get("text") or "") for part in content)
    return string(content or "")
