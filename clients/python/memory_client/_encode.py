"""From what callers hold (dicts, SDK objects) to JSON bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard, TypeVar, runtime_checkable


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


class SupportsChoices(Protocol):
    """OpenAI's chat completion."""

    @property
    def choices(self) -> Any: ...


JSONObject = Mapping[str, Any] | SupportsModelDump | SupportsToDict
Content = str | Sequence[JSONObject]
MessageInput = Mapping[str, Any] | SupportsMessage
Reply = MessageInput | SupportsChoices | Content
REPLY_PARTS = ("tool_calls", "refusal", "function_call", "audio")
"""What OpenAI's messages have beside role and content."""

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


def message(value: MessageInput | Content, *, role: str | None = None) -> dict[str, Any]:
    """A message to send. `role` is that of bare content: a string, or a list of blocks."""
    if isinstance(value, str | list | tuple):
        if role is None:
            raise TypeError(f"a message is a dict or an object with role and content, not a {type(value).__name__}")
        return {"role": role, "content": value}
    if isinstance(value, Mapping):
        return dict(value)
    if not is_message(value):
        raise TypeError(f"a message is a dict or an object with role and content, not a {type(value).__name__}")
    if value.content is None or getattr(value, "tool_calls", None):
        raise TypeError(
            "this message holds more than content blocks: report it with prompts.report_usage(message=…), which "
            "translates tool calls, or pass a dict with role and content"
        )
    return {"role": value.role, "content": value.content}


def is_message(value: object) -> TypeGuard[SupportsMessage]:
    """Whether it has a role of its own, which content and blocks have not."""
    return hasattr(value, "role") and hasattr(value, "content")


def user_message(value: MessageInput | Content | None) -> dict[str, Any] | None:
    return None if value is None else message(value, role="user")


def reply(value: Reply | None) -> object:
    """A model's reply. Of an SDK's object goes what the server reads; it translates what is not Anthropic's."""
    if value is None or isinstance(value, Mapping):
        return value
    if isinstance(value, str | list | tuple):
        return {"role": "assistant", "content": value}
    if hasattr(value, "choices"):
        return {"choices": value.choices}
    if not is_message(value):
        raise TypeError(f"a reply is an SDK's message, a dict or a string, not a {type(value).__name__}")
    more = {name: found for name in REPLY_PARTS if (found := getattr(value, name, None)) is not None}
    return {"role": value.role, "content": value.content, **more}
