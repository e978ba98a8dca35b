"""Server-sent events from bytes: chunks in, whole events out."""

from __future__ import annotations

from typing import NamedTuple

from ._ndjson import LineSplitter


class ServerSentEvent(NamedTuple):
    name: str
    data: str
    id: str | None


class EventSplitter:
    """An event that was cut off is never given out: what was not ended by a blank line did not happen."""

    def __init__(self) -> None:
        self._lines = LineSplitter()
        self._fields: dict[str, list[str]] = {}

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Raises ValueError for what is not UTF-8."""
        found = (self._line(line.decode().rstrip("\r\n")) for line in self._lines.feed(chunk))
        return [event for event in found if event is not None]

    def _line(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._ended()
        name, _, value = line.partition(":")  # a comment has no name
        self._fields.setdefault(name, []).append(value.removeprefix(" "))
        return None

    def _ended(self) -> ServerSentEvent | None:
        fields, self._fields = self._fields, {}
        if "data" not in fields:
            return None
        return ServerSentEvent(
            fields.get("event", ["message"])[-1],
            "\n".join(fields["data"]),
            fields["id"][-1] if "id" in fields else None,
        )
