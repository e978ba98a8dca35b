"""The events of a run as OpenAI streams a response. The same run always gives the same events, so that a stream can be
taken up again behind any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memory_service.api.openai.items import ShownItem, item_id, output_text

_KINDS = {"text": "message", "thinking": "reasoning", "tool_use": "function_call", "tool_input": "function_call"}
_ENDS = {"completed": "completed", "incomplete": "incomplete"}
Event = dict[str, Any]


class ResponseStream:
    """`shows_reasoning`: the reply keeps its reasoning, so that it is an item of it."""

    def __init__(self, *, shows_reasoning: bool) -> None:
        self._shows_reasoning = shows_reasoning
        self._sequence = 0
        self._numbers: dict[str, int] = {}
        self._done: set[str] = set()
        self._open: _OpenItem | None = None
        self._outputs = 0

    def began(self, response: Event) -> Iterator[Event]:
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)

    def delta(self, piece: Mapping[str, Any]) -> Iterator[Event]:
        """A piece of the reply, as the run's `message.delta` has it."""
        kind = _KINDS[piece["type"]]
        if kind == "reasoning" and not self._shows_reasoning:
            return
        if self._open is None or not self._open.goes_on(kind, piece):
            yield from self._close()
            yield from self._begin(kind, piece)
        yield from self._grow(piece)

    def kept(self, items: list[ShownItem]) -> Iterator[Event]:
        """The reply as it is kept: what was not streamed of it comes whole."""
        by_id = {one.id: one.item for one in items}
        yield from self._close(by_id)
        for id_, item in by_id.items():
            if id_ not in self._done:
                yield self._event("response.output_item.added", output_index=self._outputs, item=item)
                yield self._event("response.output_item.done", output_index=self._outputs, item=item)
                self._outputs += 1

    def ended(self, response: Event) -> Iterator[Event]:
        yield from self._close()
        yield self._event(f"response.{_ENDS.get(response['status'], 'failed')}", response=response)

    def _event(self, type_: str, **fields: Any) -> Event:
        event = {"type": type_, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event

    def _begin(self, kind: str, piece: Mapping[str, Any]) -> Iterator[Event]:
        number = self._numbers[kind] = self._numbers.get(kind, -1) + 1
        id_ = item_id(piece["message_id"], kind, number)
        self._open = _OpenItem(id_, kind, piece)
        yield self._event(
            "response.output_item.added", output_index=self._outputs, item=self._open.shown("in_progress")
        )

    def _grow(self, piece: Mapping[str, Any]) -> Iterator[Event]:
        open_ = self._open
        assert open_
        if open_.kind != "function_call" and open_.index_of(piece) == len(open_.texts):
            yield from self._part_done()
            open_.texts.append("")
            if open_.kind == "message":
                yield self._at("response.content_part.added", part=output_text(""))
        text = piece.get("text", "")
        if not text:
            return
        open_.texts[-1] += text
        if open_.kind == "function_call":
            yield self._event(
                "response.function_call_arguments.delta", item_id=open_.id, output_index=self._outputs, delta=text
            )
        else:
            logprobs: Event = {"logprobs": []} if open_.kind == "message" else {}
            yield self._at(f"response.{open_.text_type}.delta", delta=text, **logprobs)

    def _at(self, type_: str, **fields: Any) -> Event:
        assert self._open
        place = {"output_index": self._outputs, "content_index": len(self._open.texts) - 1}
        return self._event(type_, item_id=self._open.id, **place, **fields)

    def _part_done(self) -> Iterator[Event]:
        open_ = self._open
        if open_ is None or not open_.texts or open_.kind == "function_call":
            return
        text = open_.texts[-1]
        if open_.kind == "reasoning":
            yield self._at("response.reasoning_text.done", text=text)
        else:
            yield self._at("response.output_text.done", text=text, logprobs=[])
            yield self._at("response.content_part.done", part=output_text(text))

    def _close(self, kept: Mapping[str, Event] | None = None) -> Iterator[Event]:
        open_ = self._open
        if open_ is None:
            return
        yield from self._part_done()
        if open_.kind == "function_call":
            done = {"item_id": open_.id, "name": open_.name, "arguments": open_.texts[-1]}
            yield self._event("response.function_call_arguments.done", output_index=self._outputs, **done)
        item = (kept or {}).get(open_.id) or open_.shown("completed")
        yield self._event("response.output_item.done", output_index=self._outputs, item=item)
        self._done.add(open_.id)
        self._outputs += 1
        self._open = None


class _OpenItem:
    """An item that is being said. `texts` are those of its parts, by block."""

    def __init__(self, id: str, kind: str, piece: Mapping[str, Any]) -> None:
        self.id = id
        self.kind = kind
        self.name = piece.get("name", "")
        self._call_id = piece.get("id", "")
        self._blocks: list[int] = []
        self.texts: list[str] = [""] if kind == "function_call" else []
        self.text_type = "output_text" if kind == "message" else "reasoning_text"

    def goes_on(self, kind: str, piece: Mapping[str, Any]) -> bool:
        """Texts next to each other are one message; all else is an item for each block."""
        same = piece["index"] in self._blocks or (kind == "message" and bool(self._blocks))
        return kind == self.kind and (piece["type"] == "tool_input" or same)

    def index_of(self, piece: Mapping[str, Any]) -> int:
        if piece["index"] not in self._blocks:
            self._blocks.append(piece["index"])
        return self._blocks.index(piece["index"])

    def shown(self, status: str) -> Event:
        shown: Event = {"id": self.id, "type": self.kind, "status": status}
        if self.kind == "function_call":
            return {**shown, "call_id": self._call_id, "name": self.name, "arguments": self.texts[-1]}
        if self.kind == "reasoning":
            return {**shown, "summary": [], "content": [{"type": "reasoning_text", "text": t} for t in self.texts]}
        return {**shown, "role": "assistant", "content": [output_text(text) for text in self.texts]}
