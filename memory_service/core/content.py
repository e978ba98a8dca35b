"""What a message may hold: checked once, when it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memory_service.core.canonical import check_text
from memory_service.core.media import FOREIGN_TYPES, check_source
from memory_service.core.messages import THINKING_TYPES, Block
from memory_service.errors import InvalidInput, InvalidMessage

MAX_ID_CHARACTERS = 256
_USER_ONLY = frozenset({"tool_result"})
_ASSISTANT_ONLY = frozenset({"tool_use", *THINKING_TYPES})


def check_content(role: str, content: Any, field: str) -> tuple[Block, ...]:
    """The content as blocks; a string becomes one text block.

    Known types are checked for what every provider insists on, unknown ones are kept as they are. `cache_control` is
    left out, in blocks within blocks too: breakpoints are placed for each prompt anew. Raises InvalidMessage naming the
    field and the remedy.
    """
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise InvalidMessage(f"`{field}` must be a string or a list of content blocks.", field=field)
    if not content:
        raise InvalidMessage(f"`{field}` is empty; send at least one content block.", field=field)
    check_text(content, field)
    return tuple(_check_block(role, block, f"{field}[{index}]") for index, block in enumerate(content))


def _check_block(role: str, block: Any, field: str) -> Block:
    if not isinstance(block, dict):
        raise InvalidMessage(f"`{field}` must be an object with a `type`.", field=field)
    kind = _string(block, "type", field)
    if (role == "assistant" and kind in _USER_ONLY) or (role == "user" and kind in _ASSISTANT_ONLY):
        other = "user" if role == "assistant" else "assistant"
        raise InvalidMessage(f"`{field}`: {kind} blocks belong in {other} messages.", field=field)
    _check_known(block, field)
    match kind:
        case "tool_use":
            _id(block, "id", field)
            _string(block, "name", field)
            if not isinstance(block.get("input"), dict):
                raise InvalidMessage(
                    f"`{field}.input` must be an object; send {{}} for no arguments.", field=f"{field}.input"
                )
        case "tool_result":
            _id(block, "tool_use_id", field)
            _check_result(block.get("content", ""), f"{field}.content")
        case "thinking":
            _string(block, "thinking", field)
    return _without_breakpoints(block)


def _without_breakpoints(block: Mapping[str, Any]) -> Block:
    """Blocks may hold blocks, in their `content` or in that of their `source`; nothing else is looked into."""
    kept = {key: value for key, value in block.items() if key != "cache_control"}
    if isinstance(source := kept.get("source"), dict) and isinstance(source.get("content"), list):
        kept["source"] = {**source, "content": _parts_without_breakpoints(source["content"])}
    if isinstance(content := kept.get("content"), list):
        kept["content"] = _parts_without_breakpoints(content)
    return kept


def _parts_without_breakpoints(parts: Sequence[Any]) -> list[Any]:
    return [_without_breakpoints(part) if isinstance(part, dict) else part for part in parts]


def _check_text(block: Mapping[str, Any], field: str) -> None:
    if not _string(block, "text", field).strip():
        raise InvalidMessage(f"`{field}.text` is empty; send text, or leave the block out.", field=f"{field}.text")


def _check_known(block: Mapping[str, Any], field: str) -> None:
    """What may stand in a message and in a tool's result alike."""
    kind = block["type"]
    if kind in FOREIGN_TYPES:
        raise InvalidMessage(
            f"`{field}.type` {kind!r} is OpenAI's; content is in Anthropic's format. {FOREIGN_TYPES[kind]}.",
            field=f"{field}.type",
        )
    if kind == "text":
        _check_text(block, field)
    elif kind in ("image", "document"):
        check_source(block, field)


def _check_result(content: Any, field: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidMessage(f"`{field}` must be a string or a list of content blocks.", field=field)
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise InvalidMessage(f"`{field}[{index}]` must be an object with a `type`.", field=f"{field}[{index}]")
        _check_known(part, f"{field}[{index}]")


def _string(block: Mapping[str, Any], key: str, field: str) -> str:
    value = block.get(key)
    if not isinstance(value, str) or (not value and key in ("type", "name")):
        raise InvalidMessage(f"`{field}.{key}` must be a string.", field=f"{field}.{key}")
    return value


def _id(block: Mapping[str, Any], key: str, field: str) -> None:
    if not 1 <= len(_string(block, key, field)) <= MAX_ID_CHARACTERS:
        raise InvalidMessage(f"`{field}.{key}` must have 1 to {MAX_ID_CHARACTERS} characters.", field=f"{field}.{key}")


def check_tools(tools: Sequence[Any], field: str) -> list[Block]:
    """Tools in Anthropic's format, each with a name of its own; `cache_control` is left out.

    Raises InvalidInput naming the field.
    """
    names: set[str] = set()
    for index, tool in enumerate(tools):
        name = tool.get("name") if isinstance(tool, dict) else None
        if not isinstance(name, str) or not name:
            raise InvalidInput(
                f"`{field}[{index}].name` must be a non-empty string; tools are in Anthropic's format (name, "
                "description, input_schema).",
                field=f"{field}[{index}].name",
            )
        if name in names:
            raise InvalidInput(f"`{field}[{index}].name` {name[:64]!r} is used twice.", field=f"{field}[{index}].name")
        # Tools that run at the provider have a type of their own, and no schema.
        needs_schema = tool.get("type") in (None, "custom")
        if not isinstance(tool.get("input_schema", None if needs_schema else {}), dict):
            raise InvalidInput(
                f'`{field}[{index}].input_schema` must be a JSON schema; send {{"type": "object"}} for no arguments.',
                field=f"{field}[{index}].input_schema",
            )
        if not isinstance(tool.get("description", ""), str):
            raise InvalidInput(
                f"`{field}[{index}].description` must be a string.", field=f"{field}[{index}].description"
            )
        names.add(name)
    return [{key: value for key, value in tool.items() if key != "cache_control"} for tool in tools]
