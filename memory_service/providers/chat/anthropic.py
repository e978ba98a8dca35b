"""Anthropic's API, and what speaks its protocol, through the official SDK."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from operator import index
from typing import Any, Literal
from urllib.parse import urlsplit

from memory_service.core.canonical import dumps
from memory_service.core.replies import reply_content
from memory_service.providers.anthropic import API_URL, api_url
from memory_service.providers.base import Delta, ModelCall, Reply
from memory_service.providers.chat.exchange import Exchange, SdkClient, patience
from memory_service.providers.chat.wire import Malformed, cleaned, read_object, readable_usage, string

# With any other reason the model wanted to say all that it said.
_CUT_OFF = frozenset({"max_tokens", "model_context_window_exceeded", "refusal", "stop_sequence"})


class AnthropicChat:
    """A `ChatProvider`. The SDK reads ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL itself.

    Why its prompt cache was missed only Anthropic's own API says, and servers that speak its protocol may refuse the
    question: `diagnostics` None asks by the address.
    """

    name = "anthropic"

    def __init__(
        self,
        idle_seconds: float,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        diagnostics: bool | None = None,
    ) -> None:
        address = base_url or api_url()

        def open_client() -> SdkClient:
            from anthropic import AsyncAnthropic

            return AsyncAnthropic(base_url=address, api_key=api_key, max_retries=0, timeout=patience(idle_seconds))

        self._exchange = Exchange(self.name, "/v1/messages", open_client)
        self.asks_why = urlsplit(address).hostname == urlsplit(API_URL).hostname if diagnostics is None else diagnostics

    def stream(self, call: ModelCall) -> AsyncGenerator[Delta | Reply, None]:
        asked = {"diagnostics": {"previous_message_id": call.previous_id}} if self.asks_why else {}
        return self._exchange.stream({**call.request, "stream": True, **asked}, _Message())

    async def load(self) -> None:
        await self._exchange.client()

    async def prewarm(self, call: ModelCall) -> Mapping[str, Any]:
        answer = await self._exchange.answer({**call.request, "max_tokens": 0})
        return readable_usage(answer.get("usage")) or {}

    async def close(self) -> None:
        await self._exchange.close()


class _Message:
    """A message as Anthropic streams it. Blocks of types that nobody knows yet are kept as they come."""

    def __init__(self) -> None:
        self._start: Mapping[str, Any] = {}
        self._end: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._said: dict[tuple[int, str], list[str]] = {}
        self._inputs: dict[int, list[str]] = {}
        self.is_whole = False

    def add(self, event: Mapping[str, Any]) -> Iterable[Delta]:
        try:
            match event.get("type"):
                case "message_start":
                    self._start = event["message"]
                    self._count(self._start.get("usage"))
                case "content_block_start":
                    return list(self._begin(index(event["index"]), dict(event["content_block"])))
                case "content_block_delta":
                    return list(self._go_on(index(event["index"]), event["delta"]))
                case "message_delta":
                    self._end |= {key: value for key, value in event["delta"].items() if value is not None}
                    self._count(event.get("usage"))
                case "message_stop":
                    self.is_whole = "stop_reason" in self._end
        except (LookupError, TypeError, ValueError, AttributeError):
            raise Malformed(f"an event of type {str(event.get('type'))[:40]!r} that makes no sense") from None
        return ()

    def reply(self) -> Reply:
        reason = str(self._end["stop_reason"])
        blocks = [self._finished(at, reason in _CUT_OFF) for at in sorted(self._blocks)]
        content = cleaned(reply_content({"content": [block for block in blocks if block is not None]}, ""))
        return Reply(
            content=content,
            stop_reason=reason,
            usage=readable_usage(self._usage),
            id=name if isinstance(name := self._start.get("id"), str) else None,
            diagnostics=missed if isinstance(missed := self._start.get("diagnostics"), dict) else None,
        )

    def _count(self, usage: Mapping[str, Any] | None) -> None:
        """Later counts are totals and take the place of earlier ones; what is not repeated stays."""
        self._usage |= {
            key: value for key, value in (usage or {}).items() if value is not None or key not in self._usage
        }

    def _begin(self, at: int, block: dict[str, Any]) -> Iterable[Delta]:
        self._blocks[at] = block
        match block.get("type"):
            case "text" | "thinking" as kind:
                yield from self._say(at, kind, block.get(kind) or "")
            case "tool_use":
                yield Delta(at, "tool_use", tool_use_id=string(block["id"]), tool_name=string(block["name"]))
                if block.get("input"):
                    yield Delta(at, "tool_input", dumps(block["input"]))

    def _go_on(self, at: int, delta: Mapping[str, Any]) -> Iterable[Delta]:
        block = self._blocks[at]
        match delta["type"]:
            case "text_delta" | "thinking_delta":
                kind: Literal["text", "thinking"] = "text" if delta["type"] == "text_delta" else "thinking"
                yield from self._say(at, kind, delta[kind])
            case "input_json_delta":
                text = string(delta["partial_json"])
                self._inputs.setdefault(at, []).append(text)
                if block.get("type") == "tool_use" and text:
                    yield Delta(at, "tool_input", text)
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or []), delta["citation"]]
            case _:  # a signature, and whatever comes whole
                block |= {key: value for key, value in delta.items() if key != "type"}

    def _say(self, at: int, kind: Literal["text", "thinking"], text: Any) -> Iterable[Delta]:
        self._said.setdefault((at, kind), []).append(string(text))
        if text:
            yield Delta(at, kind, text)

    def _finished(self, at: int, is_cut_off: bool) -> dict[str, Any] | None:
        """None for a call whose input the model could not finish: nobody could run it."""
        block, text = self._blocks[at], "".join(self._inputs.get(at, ()))
        block |= {kind: "".join(self._said[at, kind]) for kind in ("text", "thinking") if (at, kind) in self._said}
        if text.strip():
            try:
                block["input"] = read_object(text)
            except Malformed:
                if is_cut_off:
                    return None
                raise Malformed("the input of a tool is no JSON object") from None
        if block.get("type") == "tool_use" and not isinstance(block.get("input"), dict):
            raise Malformed("the call of a tool has no input")
        return block
