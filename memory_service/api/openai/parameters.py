"""What a response is asked of its model, as runs are asked it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memory_service.api.openai import asking


def parameters(provider: str, asked: Mapping[str, Any], *, has_tools: bool) -> dict[str, Any]:
    """`asked` holds fields of a response, those that were given. Raises InvalidInput for what the provider has not."""
    text = asked.get("text") or {}
    chosen = {
        "temperature": asked.get("temperature"),
        "top_p": asked.get("top_p"),
        "reasoning_effort": (asked.get("reasoning") or {}).get("effort"),
        "response_format": _format(text.get("format")),
        "tool_choice": _choice(asked.get("tool_choice"), [tool.get("name") for tool in asked.get("tools") or ()]),
        "parallel_tool_calls": asked.get("parallel_tool_calls"),
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    verbosity = {"verbosity": text["verbosity"]} if provider == "openai" and text.get("verbosity") else {}
    return {**asking.parameters(provider, given, has_tools=has_tools), **verbosity}


def _format(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """In a response a schema stands beside its type, in a completion below it."""
    if not given or given.get("type") == "text":
        return None
    if given.get("type") != "json_schema":
        return dict(given)
    return {"type": "json_schema", "json_schema": {key: value for key, value in given.items() if key != "type"}}


def _choice(choice: Any, offered: Sequence[Any]) -> Any:
    if not isinstance(choice, dict):
        return choice
    asking.check_choice(choice, choice.get("name"), offered)
    return {"type": "function", "function": {"name": choice["name"]}}
