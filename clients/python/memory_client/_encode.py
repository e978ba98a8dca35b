"""From what callers hold (dicts, SDK objects) to JSON bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable


@runtime_checkable
class SupportsModelDump(Protocol):
    """A pydantic model, such as the blocks and the usage in an answer of the anthropic or openai SDK."""

    def model_dump(self, *, mode: str, exclude_none: bool, by_alias: bool, warnings: bool) -> dict[str, Any]: ...


@runtime_checkable
class SupportsToDict(Protocol):
    def to_dict(self) -> Mapping[str, object]: ...


class SupportsMessage(Protocol):
    """Anything with a role and content: an SDK's answer, or a `Message` of this client."""

    @property
    def role(self) -> str: ...

    @property
    def content(self) -> Any: ...


JSONObject = Mapping[str, Any] | SupportsModelDump | SupportsToDict
Content = str | Sequence[JSONObject]
MessageInput = str | Mapping[str, Any] | SupportsMessage

V = TypeVar("V")


def encode(value: object) -> bytes:
    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def plain(value: object) -> Any:
    """Plain JSON values. Dicts stay as they are; in an SDK's object, fields that are None are absent ones."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case SupportsModelDump():
            return value.model_dump(mode="json", exclude_none=True, by_alias=True, warnings=False)
        case SupportsToDict():
            return {key: plain(item) for key, item in value.to_dict().items() if item is not None}
    raise TypeError(f"{type(value).__name__} cannot be sent: use JSON values or SDK objects")


def message(value: MessageInput, *, role: str | None = None) -> dict[str, Any]:
    """A message to send. `role` is that of a bare string; of an object its role and content are taken."""
    if isinstance(value, str):
        if role is None:
            raise TypeError("a message is a dict or an object with role and content, not a string")
        return {"role": role, "content": value}
    if isinstance(value, Mapping):
        return dict(value)
    if value.content is None or getattr(value, "tool_calls", None):
        raise TypeError("this message holds more than Anthropic content blocks: pass a dict with role and content")
    return {"role": value.role, "content": value.content}


def optional_message(value: MessageInput | None, *, role: str) -> dict[str, Any] | None:
    return None if value is None else message(value, role=role)
