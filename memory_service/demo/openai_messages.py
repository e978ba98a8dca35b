"""OpenAI chat messages → lines with Anthropic content blocks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from memory_service.demo.conversation import Block, Conversation, Line, Role
from memory_service.errors import InvalidInput

ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def is_message(value: Any) -> bool:
    return isinstance(value, dict) and value.get("role") in ROLES and ("content" in value or "tool_calls" in value)


def from_openai(messages: Iterable[tuple[str, Any]], *, title: str) -> Conversation:
    """Messages, each with where it stands (for errors), in order. System messages become the system text."""
    system: list[str] = []
    lines: list[Line] = []
    calls = _ToolCalls()
    for where, message in messages:
        reader = LineReader(where, message)
        if reader.raw_role() in ("system", "developer"):
            system.append(reader.text())
        elif line := _line(reader, calls):
            lines.append(line)
    if not lines:
        raise InvalidInput(f"{title}: no user or assistant message in it", code="invalid_conversation")
    return Conversation(title=title, system="\n\n".join(filter(None, system)) or None, lines=lines)


def tools_of(tools: Any) -> tuple[Block, ...]:
    """Tools in OpenAI's form or Anthropic's, as Anthropic's; what is neither is left out."""
    return tuple(tool for one in tools or () if isinstance(one, dict) and (tool := _tool(one)))


def _tool(tool: dict[str, Any]) -> Block | None:
    function = tool.get("function")
    if not isinstance(function, dict):
        return tool if "name" in tool else None
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return {"name": function.get("name"), "description": function.get("description", ""), "input_schema": schema}


def _line(reader: LineReader, calls: _ToolCalls) -> Line | None:
    """None for a message without any content, which no provider accepts."""
    created_at, expects = reader.created_at(), reader.expects()
    if reader.raw_role() in ("tool", "function"):
        return Line("user", [_tool_result(reader, calls)], created_at, expects)
    role, content = reader.role(), _anthropic_content(reader.content())
    if uses := _tool_uses(reader, calls):
        content = [*_as_blocks(content), *uses]
    return Line(role, content, created_at, expects) if content else None


def _tool_uses(reader: LineReader, calls: _ToolCalls) -> list[Block]:
    uses = []
    for call in reader.tool_calls():
        function = call["function"]
        identifier = calls.open(str(call.get("id") or ""))
        uses.append(
            {
                "type": "tool_use",
                "id": identifier,
                "name": str(function["name"]),
                "input": reader.arguments(function.get("arguments")),
            }
        )
    return uses


def _tool_result(reader: LineReader, calls: _ToolCalls) -> Block:
    identifier = calls.close(reader.tool_call_id())
    if identifier is None:
        raise reader.invalid("answers a tool call that was not made before it")
    return {"type": "tool_result", "tool_use_id": identifier, "content": reader.text()}


def _anthropic_content(content: str | list[Block]) -> str | list[Block]:
    """Images are spelled differently; other blocks are taken as they are."""
    if isinstance(content, str):
        return content
    return [_image(block) if block["type"] == "image_url" else block for block in content]


def _image(block: Block) -> Block:
    image = block.get("image_url")
    url = str(image.get("url", "")) if isinstance(image, dict) else str(image)
    if match := re.fullmatch(r"data:([\w/+.-]+);base64,(.*)", url, re.DOTALL):
        source = {"type": "base64", "media_type": match[1], "data": match[2]}
    else:
        source = {"type": "url", "url": url}
    return {"type": "image", "source": source}


def _as_blocks(content: str | list[Block]) -> list[Block]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


class _ToolCalls:
    """Gives every call an id of its own, since the original ids may repeat, and remembers the open ones."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[tuple[str, str]] = []

    def open(self, original: str) -> str:
        self._count += 1
        identifier = f"toolu_{self._count:04d}"
        self._open.append((original, identifier))
        return identifier

    def close(self, original: str) -> str | None:
        """The oldest open call of that id; without an id, the oldest open call."""
        for pair in self._open:
            if original in ("", pair[0]):
                self._open.remove(pair)
                return pair[1]
        return None


class LineReader:
    """Reads the fields of one message and says where it stands when one is wrong."""

    def __init__(self, where: str, message: Any) -> None:
        self._where = where
        if not isinstance(message, dict):
            raise self.invalid("expected an object with role and content")
        self._message = message

    def invalid(self, what: str) -> InvalidInput:
        return InvalidInput(f"{self._where}: {what}", code="invalid_conversation")

    def raw_role(self) -> str:
        role = self._message.get("role")
        if role not in ROLES:
            raise self.invalid(f"role {role!r} is none of {', '.join(ROLES)}")
        return str(role)

    def role(self) -> Role:
        match self.raw_role():
            case "user":
                return "user"
            case "assistant":
                return "assistant"
            case other:
                raise self.invalid(f"role {other!r} has no place here; expected user or assistant")

    def content(self) -> str | list[Block]:
        """Text as it is; a list is taken as content blocks; null is empty text."""
        content = self._message.get("content")
        if content is None:
            return ""
        if isinstance(content, str):
            return content
        if isinstance(content, list) and all(isinstance(block, dict) and "type" in block for block in content):
            return content
        raise self.invalid("content must be text or a list of content blocks")

    def text(self) -> str:
        content = self.content()
        if isinstance(content, str):
            return content
        return "".join(str(block.get("text", "")) for block in content)

    def created_at(self) -> datetime | None:
        """RFC 3339 text or epoch seconds."""
        value = self._message.get("created_at")
        if value is None:
            return None
        try:
            at = (
                datetime.fromtimestamp(value, UTC)
                if isinstance(value, int | float)
                else datetime.fromisoformat(str(value))
            )
        except (ValueError, OverflowError, OSError) as error:
            raise self.invalid(f"created_at is not an RFC 3339 time: {value!r}") from error
        return at if at.tzinfo else at.replace(tzinfo=UTC)

    def expects(self) -> tuple[str, ...]:
        expects = self._message.get("expects", [])
        if not isinstance(expects, list) or not all(isinstance(one, str) for one in expects):
            raise self.invalid("expects must be a list of texts")
        return tuple(expects)

    def tool_call_id(self) -> str:
        """Some logs keep it as a list of one in `tool_call_ids`."""
        many = self._message.get("tool_call_ids")
        first = many[0] if isinstance(many, list) and many else None
        return str(self._message.get("tool_call_id") or first or "")

    def tool_calls(self) -> list[dict[str, Any]]:
        calls = self._message.get("tool_calls") or []
        if not isinstance(calls, list) or not all(_is_call(call) for call in calls):
            raise self.invalid("tool_calls must be a list of {id, function: {name, arguments}}")
        return calls

    def arguments(self, raw: Any) -> dict[str, Any]:
        """Tool input must be an object; what is none is kept as text under `arguments`."""
        if isinstance(raw, dict):
            return raw
        try:
            parsed = json.loads(raw or "{}")
        except (TypeError, ValueError):
            parsed = None
        return parsed if isinstance(parsed, dict) else {"arguments": raw}


def _is_call(call: Any) -> bool:
    return isinstance(call, dict) and isinstance(call.get("function"), dict) and "name" in call["function"]
