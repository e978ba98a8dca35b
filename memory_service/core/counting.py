"""The text of a content that a provider will count: all that goes into the request, whatever shape it has.

What has no known shape is counted as its JSON. Left out are the bytes of media (`media_tokens` has their cost) and
thinking, which goes into few requests and is counted apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from memory_service.core.canonical import dumps
from memory_service.core.images import is_encoded
from memory_service.core.messages import THINKING_TYPES, Block

_KNOWN_TYPES = frozenset({"text", "tool_use", "tool_result", "image", "document"})
# Fields that are counted as they stand; any other as JSON, with its name.
_PLAIN = frozenset({"text", "id", "name", "tool_use_id", "title", "context", "media_type", "data"})


def counted_text(content: Iterable[Block]) -> str:
    return "\n".join("" if block.get("type") in THINKING_TYPES else _counted(without_bytes(block)) for block in content)


def thinking_text(content: Iterable[Block]) -> str:
    """A provider may keep thinking to itself and give only its signature, which grows with it."""
    return "\n".join(
        str(block.get("thinking") or block.get("data") or block.get("signature") or "")
        for block in content
        if block.get("type") in THINKING_TYPES
    )


def without_bytes(block: Block) -> Block:
    """A block, and all that it holds, without the bytes of media."""
    kept = dict(block)
    if isinstance(source := kept.get("source"), Mapping):
        kept["source"] = source = {k: v for k, v in source.items() if k != "data" or not is_encoded(block)}
        if isinstance(source.get("content"), list):
            source["content"] = _parts_without_bytes(source["content"])
    if isinstance(content := kept.get("content"), list):
        kept["content"] = _parts_without_bytes(content)
    return kept


def _parts_without_bytes(parts: list[Any]) -> list[Any]:
    return [without_bytes(part) if isinstance(part, Mapping) else part for part in parts]


def _counted(part: Any) -> str:
    if not isinstance(part, Mapping) or part.get("type") not in _KNOWN_TYPES:
        return dumps(part)
    return " ".join(filter(None, (_counted_field(key, value) for key, value in part.items())))


def _counted_field(key: str, value: Any) -> str:
    if key == "type" or value is None or isinstance(value, bool):
        return ""  # the form of a block, and nothing to read
    if key in _PLAIN and isinstance(value, str):
        return value
    match key:
        case "content":
            return _counted_content(value)
        case "source" if isinstance(value, Mapping):
            return " ".join(filter(None, (_counted_field(name, held) for name, held in value.items())))
        case "input":
            return dumps(value)
    return dumps({key: value})


def _counted_content(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(map(_counted, content))
    return content if isinstance(content, str) else dumps(content)
