"""What a model replied, in the form of whichever provider it came from, as the content of a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memory_service.core.canonical import loads
from memory_service.errors import InvalidInput, InvalidMessage

# Parts of OpenAI's messages that have no counterpart here. Dropped in silence, the reply would not be what was said.
_WITHOUT_COUNTERPART = {
    "function_call": "send it as `tool_calls`, its successor",
    "audio": "send its transcript as `content`",
}


def reply_content(reply: Mapping[str, Any], field: str) -> str | list[Any]:
    """The content of a reply: Anthropic's message, OpenAI's, or OpenAI's whole chat completion.

    OpenAI's `tool_calls` become tool_use blocks behind the text, and a refusal is text. Blank text, which models do
    give and providers do not take back, is left out; what is left may be nothing. `field` is where in the request the
    reply stood. Raises InvalidMessage.
    """
    if reply.get("choices") is not None:
        return reply_content(_only_choice(reply["choices"], field), f"{field}choices[0].message.")
    for name, remedy in _WITHOUT_COUNTERPART.items():
        if reply.get(name) is not None:
            raise InvalidMessage(f"`{field}{name}` cannot be kept; {remedy}.", field=f"{field}{name}")
    content = reply.get("content")
    said = [text for text in (content, reply.get("refusal")) if isinstance(text, str) and text.strip()]
    calls = _tool_calls(reply.get("tool_calls"), field)
    if content is not None and not isinstance(content, str | list):
        raise InvalidMessage(
            f"`{field}content` must be a string, a list of content blocks or null.", field=f"{field}content"
        )
    if not calls and said == [content]:
        return said[0]
    blocks = [block for block in content if not _is_blank(block)] if isinstance(content, list) else []
    return [*blocks, *({"type": "text", "text": text} for text in said), *calls]


def _is_blank(block: Any) -> bool:
    text = block.get("text") if isinstance(block, Mapping) and block.get("type") == "text" else None
    return isinstance(text, str) and not text.strip()


def _only_choice(choices: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(choices, list) or len(choices) != 1:
        raise InvalidMessage(
            f"`{field}choices` must be a list of one; of several, send the message you go on with.",
            field=f"{field}choices",
        )
    message = choices[0].get("message") if isinstance(choices[0], Mapping) else None
    where = f"{field}choices[0].message"
    if not isinstance(message, Mapping):
        raise InvalidMessage(f"`{where}` must be an object; of a stream, send the whole message.", field=where)
    if message.get("role", "assistant") != "assistant":
        raise InvalidMessage(f"`{where}.role` must be 'assistant'.", field=f"{where}.role")
    return message


def _tool_calls(calls: Any, field: str) -> Sequence[Mapping[str, Any]]:
    field = f"{field}tool_calls"
    if calls is None:
        return ()
    if not isinstance(calls, list):
        raise InvalidMessage(f"`{field}` must be a list.", field=field)
    return [_tool_use(call, f"{field}[{index}]") for index, call in enumerate(calls)]


def _tool_use(call: Any, field: str) -> Mapping[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise InvalidMessage(
            f"`{field}.function` must be an object; only calls of functions can be kept.", field=f"{field}.function"
        )
    for value, where in ((call.get("id"), f"{field}.id"), (function.get("name"), f"{field}.function.name")):
        if not isinstance(value, str) or not value:
            raise InvalidMessage(f"`{where}` must be a non-empty string.", field=where)
    arguments = _arguments(function.get("arguments"), f"{field}.function.arguments")
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}


def _arguments(arguments: Any, field: str) -> Mapping[str, Any]:
    """Models leave the text empty when there are none, and some servers send the object itself."""
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return {}
    if isinstance(arguments, str):
        try:
            arguments = loads(arguments)
        except InvalidInput as error:
            raise InvalidMessage(
                f"`{field}` is not JSON, so this call cannot be replayed: {error.message} Ask the model again, or send "
                "the reply without this call.",
                field=field,
            ) from error
    if not isinstance(arguments, Mapping):
        raise InvalidMessage(f"`{field}` must be a JSON object, as text.", field=field)
    return arguments
