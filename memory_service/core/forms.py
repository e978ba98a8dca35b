"""A prompt in the form a provider's SDK takes: `messages.create(**request)` or `chat.completions.create(**request)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from typing import Any

from memory_service.core.canonical import Raw, dumps
from memory_service.core.counting import without_bytes
from memory_service.core.layout import Layout
from memory_service.core.media import source_url
from memory_service.core.messages import THINKING_TYPES, Block, Piece, block_text, is_tool_result
from memory_service.core.request import Request

# What of an assistant's message is no text for OpenAI: calls have a place of their own, thinking none.
_NOT_SAID = frozenset({"tool_use", *THINKING_TYPES})
_ATTACHED = "(More of this result follows the results.)"


def to_request(request: Request, layout: Layout, thread_id: str) -> dict[str, Any]:
    """The keyword arguments for the provider's SDK, to be written by `dumps`: blocks, or all messages, are `Raw`."""
    if request.provider == "openai":
        return _openai(request, layout, thread_id)
    return _anthropic(request, layout)


def request_digest(request: Mapping[str, Any]) -> str:
    return sha256(dumps(request).encode()).hexdigest()


def _anthropic(request: Request, layout: Layout) -> dict[str, Any]:
    stable = layout.stable
    marker = None if request.ttl is None else _anthropic_marker(request.ttl)
    marks = set(layout.marks)
    system: list[Any] = [{"type": "text", "text": text} for text in (*stable.shared, *stable.own)]
    tools: list[Any] = [dict(tool) for tool in stable.tools]
    if marker:
        if layout.mark_shared:
            _mark_last(system[: len(stable.shared)] or tools, marker)
        if -1 in marks:
            _mark_last(system or tools, marker)
    body: dict[str, Any] = {"model": request.model_name, "max_tokens": request.max_output_tokens}
    if system:
        body["system"] = system
    if tools:
        body["tools"] = tools
    blocks = [piece.json for piece in layout.pieces]
    for i in marks - {-1} if marker else ():
        blocks[i] = f'{blocks[i][:-1]},"cache_control":{dumps(marker)}}}'
    said = groupby(zip([piece.role for piece in layout.pieces], blocks, strict=True), key=itemgetter(0))
    messages = [f'{{"role":"{role}","content":[{",".join([block for _, block in group])}]}}' for role, group in said]
    body["messages"] = Raw(f"[{','.join(messages)}]")
    return body


def _anthropic_marker(ttl: str) -> dict[str, str]:
    # The default TTL is left out: that is the oldest form, which every compatible server understands.
    return {"type": "ephemeral", "ttl": ttl} if ttl != "5m" else {"type": "ephemeral"}


def _mark_last(blocks: list[Any], marker: Mapping[str, str]) -> None:
    if blocks:
        blocks[-1]["cache_control"] = marker


def _openai(request: Request, layout: Layout, thread_id: str) -> dict[str, Any]:
    explicit = request.model.cache_rule == "openai_breakpoints" and request.ttl is not None
    stable, marks = layout.stable, set(layout.marks) if explicit else set()
    system: list[dict[str, Any]] = [{"type": "text", "text": text} for text in (*stable.shared, *stable.own)]
    if explicit and layout.mark_shared and stable.shared:
        _mark_openai(system[: len(stable.shared)])
    if -1 in marks:
        _mark_openai(system)
    messages: list[Any] = []
    if system:
        messages.append({"role": "developer" if explicit else "system", "content": system})
    numbered = list(enumerate(layout.pieces))
    for (role, _), group in groupby(numbered, key=lambda pair: (pair[1].role, pair[1].volatile and explicit)):
        pieces = list(group)
        messages += _openai_assistant(pieces) if role == "assistant" else _openai_user(pieces, marks)
    body: dict[str, Any] = {"model": request.model_name, "messages": messages}
    if stable.tools:
        body["tools"] = [_openai_tool(tool) for tool in stable.tools]
    body["max_completion_tokens"] = request.max_output_tokens
    if request.model.takes_prompt_cache_key and request.ttl is not None:
        body["prompt_cache_key"] = thread_id
    if explicit:
        body["prompt_cache_options"] = {"mode": "explicit"}
    return body


def _mark_openai(blocks: Sequence[dict[str, Any]]) -> None:
    if blocks:
        blocks[-1]["prompt_cache_breakpoint"] = {"mode": "explicit"}


def _openai_user(pieces: Sequence[tuple[int, Piece]], marks: set[int]) -> list[dict[str, Any]]:
    """Tool messages, which hold text alone, then what else there is: first the images and files of the results."""
    messages: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for index, piece in pieces:
        if is_tool_result(piece.block):
            content, attached = _openai_result(piece.block)
            messages.append({"role": "tool", "tool_call_id": piece.block["tool_use_id"], "content": content})
            parts += attached
        else:
            content = _openai_parts(piece.block)
            parts += content
        if index in marks:
            _mark_openai(content)
    return [*messages, {"role": "user", "content": parts}] if parts else messages


def _openai_result(result: Block) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The text of a tool's result, and what else is in it, under the id of the call."""
    held = result.get("content", "")
    if isinstance(held, str):
        return [{"type": "text", "text": held}], []
    parts = [part for block in held for part in _openai_parts(block)]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    attached = [part for part in parts if part["type"] != "text"]
    if not attached:
        return [{"type": "text", "text": "\n".join(texts)}], []
    source = {"type": "text", "text": f"Result of {result['tool_use_id']}:"}
    return [{"type": "text", "text": "\n".join([*texts, _ATTACHED])}], [source, *attached]


def _openai_assistant(pieces: Sequence[tuple[int, Piece]]) -> list[dict[str, Any]]:
    said = [p.block for _, p in pieces if p.block.get("type") not in _NOT_SAID]
    text = "\n".join(block_text(block) or dumps(without_bytes(block)) for block in said)
    calls = [
        {
            "id": p.block["id"],
            "type": "function",
            "function": {"name": p.block["name"], "arguments": dumps(p.block["input"])},
        }
        for _, p in pieces
        if p.block.get("type") == "tool_use"
    ]
    if not text and not calls:
        return []
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = calls
    return [message]


def _openai_parts(block: Block) -> list[dict[str, Any]]:
    source = block.get("source")
    source = source if isinstance(source, Mapping) else {}
    match block.get("type"):
        case "image" if source.get("type") in ("base64", "url"):
            return [{"type": "image_url", "image_url": {"url": source_url(source)}}]
        case "document":
            return _openai_document(block, source)
    return [{"type": "text", "text": block_text(block) or dumps(without_bytes(block))}]


def _openai_document(block: Block, source: Mapping[str, Any]) -> list[dict[str, Any]]:
    """OpenAI has no place for what is said of a document, nor for its address: these stand before it as text."""
    named = ("context",) if source.get("type") == "base64" else ("title", "context")  # the title is the file's name
    said = [str(block[key]) for key in named if block.get(key)]
    content = source.get("content")
    match source.get("type"):
        case "base64":
            name = str(block.get("title") or "document")
            parts = [{"type": "file", "file": {"filename": name, "file_data": source_url(source)}}]
        case "file":
            parts = [{"type": "file", "file": {"file_id": source.get("file_id")}}]
        case "content" if isinstance(content, list):
            parts = [part for held in content if isinstance(held, Mapping) for part in _openai_parts(held)]
        case _:
            said.append(block_text(block) or str(content or source.get("url", "")))
            parts = []
    return [*([{"type": "text", "text": "\n".join(said)}] if said else []), *parts]


def _openai_tool(tool: Block) -> dict[str, Any]:
    function = {"name": tool["name"], "parameters": tool.get("input_schema", {"type": "object"})}
    if "description" in tool:
        function["description"] = tool["description"]
    if "strict" in tool:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}
