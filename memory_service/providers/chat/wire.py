"""What comes over the wire: server-sent events, and JSON with every byte that matters. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memory_service.core.canonical import check_text, loads
from memory_service.core.usage import ReportedUsage
from memory_service.errors import InvalidInput

_LONGEST_EVENT_BYTES = 16_000_000
_REPLACED = "\N{REPLACEMENT CHARACTER}"


class Malformed(Exception):
    """What came is not what the protocol says. The text says what, without quoting it."""


class SseReader:
    """Takes a stream of server-sent events apart, however it is cut into pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._event: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that is whole by now. Raises Malformed."""
        self._rest += chunk
        if b"\n" not in chunk:
            if len(self._rest) > _LONGEST_EVENT_BYTES:
                raise Malformed("an event without an end")
            return []
        # Never str.splitlines: a model's text may hold other characters that it takes for the end of a line.
        *lines, self._rest = self._rest.split(b"\n")
        return [data for line in lines if (data := self._line(bytes(line))) is not None]

    def _line(self, line: bytes) -> bytes | None:
        field, _, value = line.rstrip(b"\r").partition(b":")
        if field == b"data":
            self._event.append(value.removeprefix(b" "))
        if field or value or not self._event:
            return None
        event, self._event = self._event, []
        return b"\n".join(event)


def read_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object; numbers keep their spelling. Raises Malformed."""
    try:
        value = loads(text)
    except InvalidInput:
        raise Malformed("something that is no JSON") from None
    if not isinstance(value, dict):
        raise Malformed("JSON that is no object")
    result: dict[str, Any] = cleaned(value)
    return result


def readable_usage(usage: Any) -> Mapping[str, Any] | None:
    """A provider's usage as it came, if it says how many tokens there were."""
    try:
        ReportedUsage.parse(usage)
    except (InvalidInput, TypeError, AttributeError):
        return None
    found: Mapping[str, Any] = usage
    return found


def string(value: Any) -> str:
    """A value that must be text. Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError
    return value


def cleaned(value: Any) -> Any:
    """The same without what no database keeps: U+0000 and lone surrogates. Raises Malformed for endless nesting."""
    try:
        check_text(value, "")
    except InvalidInput as error:
        if error.code != "invalid_text":
            raise Malformed("JSON that is nested too deeply") from None
        return _replaced(value)
    return value


def _replaced(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", _REPLACED)
        case Mapping():
            return {_replaced(key): _replaced(held) for key, held in value.items()}
        case list():
            return [_replaced(item) for item in value]
    return value
