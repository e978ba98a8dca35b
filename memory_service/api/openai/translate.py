"""Tools and content: OpenAI's form and ours, both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from memory_service.api.openai.schemas import MessageCreate
from memory_service.core.canonical import Raw, dumps, loads
from memory_service.core.content import check_tools
from memory_service.core.counting import without_bytes
from memory_service.core.media import source_url
from memory_service.core.messages import THINKING_TYPES, Block, block_text
from memory_service.errors import InvalidInput
from memory_service.services.ingest import Draft

#: Blocks of a message that OpenAI shows elsewhere, in run steps, or not at all.
HIDDEN_TYPES = frozenset({"tool_use", "tool_result", *THINKING_TYPES})
# A message whose only block is text, in canonical JSON.
_TEXT_ALONE = re.compile(r'\[\{"type":"text","text":("(?:[^"\\]|\\.)*+")\}\]', re.DOTALL)
#: What an OpenAI tool has and ours has not.
HOSTED_TOOLS = frozenset({"code_interpreter", "file_search"})


def native_tools(tools: Sequence[Any], field: str = "tools") -> list[Block]:
    """The functions among OpenAI's tools, in Anthropic's format. Raises InvalidInput."""
    functions = []
    for index, tool in enumerate(tools):
        kind = tool.get("type")
        if not isinstance(kind, str):
            raise InvalidInput(f"`{field}[{index}].type` must be a string.", field=f"{field}[{index}].type")
        if kind == "function":
            functions.append(_native_tool(tool.get("function"), f"{field}[{index}].function"))
    return check_tools(functions, field)


def _native_tool(function: Any, field: str) -> Block:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidInput(f"`{field}.name` is required.", field=f"{field}.name")
    tool = {"name": function["name"]}
    if function.get("description") is not None:
        tool["description"] = function["description"]
    tool["input_schema"] = {"type": "object"} if function.get("parameters") is None else function["parameters"]
    if function.get("strict") is not None:
        tool["strict"] = function["strict"]
    return tool


def openai_tools(native: str | None, given: Sequence[Any] | None) -> Sequence[Any]:
    """OpenAI's tools: as they were `given` through this API, unless others were set through ours since."""
    tools = loads(native) if native else []
    if given is not None and dumps(native_tools(given)) == dumps(tools):
        return given
    return [_openai_tool(tool) for tool in tools]


def _openai_tool(tool: Block) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool["name"]}
    if "description" in tool:
        function["description"] = tool["description"]
    function["parameters"] = tool.get("input_schema", {"type": "object"})
    if "strict" in tool:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def draft(message: MessageCreate, field: str) -> Draft:
    """A message on its way in; `field` is where it stood in the request."""
    content: Any = message.content
    details: dict[str, Any] = {}
    if not isinstance(content, str):
        for index, part in enumerate(content):
            if (detail := _image(part).get("detail")) is not None:
                details[str(index)] = detail
        content = [_native_part(part, f"{field}content[{index}]") for index, part in enumerate(content)]
    kept = {"attachments": message.attachments or None, "details": details or None}
    kept = {name: value for name, value in kept.items() if value is not None}
    return Draft(message.role, content, field, message.metadata, openai=dumps(kept) if kept else None)


def _image(part: Mapping[str, Any]) -> Mapping[str, Any]:
    image = part.get(str(part.get("type")))
    return image if isinstance(image, dict) else {}


def _native_part(part: Mapping[str, Any], field: str) -> Block:
    image = _image(part)
    match part.get("type"):
        case "text" if isinstance(part.get("text"), str):
            return {"type": "text", "text": part["text"]}
        case "image_url" if isinstance(image.get("url"), str):
            return {"type": "image", "source": image_source(image["url"])}
        case "image_file" if isinstance(image.get("file_id"), str):
            return {"type": "image", "source": {"type": "file", "file_id": image["file_id"]}}
    raise InvalidInput(
        f'`{field}` must be {{"type": "text", "text": "…"}}, or an image_url or image_file with its object.',
        field=field,
    )


def image_source(url: str) -> dict[str, str]:
    head, comma, data = url.partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        media_type = head.removeprefix("data:").removesuffix(";base64")
        return {"type": "base64", "media_type": media_type, "data": data}
    return {"type": "url", "url": url}


def openai_content(content: str, details: Mapping[str, Any]) -> list[dict[str, Any]] | Raw:
    """The parts of a message, without its tool calls, results and thinking."""
    if alone := _TEXT_ALONE.fullmatch(content):  # as nearly all are; reading them would take half the time of a list
        return Raw(f'[{{"type":"text","text":{{"value":{alone[1]},"annotations":[]}}}}]')
    blocks = list(enumerate(loads(content)))
    return [_openai_part(b, details.get(str(i), "auto")) for i, b in blocks if b["type"] not in HIDDEN_TYPES]


def _openai_part(block: Block, detail: str) -> dict[str, Any]:
    source = block.get("source")
    if block["type"] == "image" and isinstance(source, Mapping):
        if source.get("type") == "file":
            return {"type": "image_file", "image_file": {"file_id": source.get("file_id", ""), "detail": detail}}
        if source.get("type") in ("base64", "url"):
            return {"type": "image_url", "image_url": {"url": source_url(source), "detail": detail}}
    return text_part(block_text(block) or dumps(without_bytes(block)))


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": {"value": text, "annotations": []}}
