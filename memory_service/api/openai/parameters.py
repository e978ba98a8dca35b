"""What OpenAI's callers say of how a model is to answer, in the words of the provider that is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memory_service.errors import InvalidInput

_AS_THEY_ARE = ("temperature", "top_p")
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}


def parameters(provider: str, asked: Mapping[str, Any], *, has_tools: bool) -> dict[str, Any]:
    """`asked` holds fields of a response, those that were given. Raises InvalidInput for what the provider has not."""
    plain = {name: asked[name] for name in _AS_THEY_ARE if asked.get(name) is not None}
    match provider:
        case "openai":
            return {**plain, **_openai(asked, has_tools=has_tools)}
        case "anthropic":
            if "temperature" in plain:
                plain["temperature"] = min(plain["temperature"], 1)
            return {**plain, **_anthropic(asked, has_tools=has_tools)}
    return {}


def _openai(asked: Mapping[str, Any], *, has_tools: bool) -> dict[str, Any]:
    text, reasoning = asked.get("text") or {}, asked.get("reasoning") or {}
    found = {
        "response_format": _format(text.get("format")),
        "verbosity": text.get("verbosity"),
        "reasoning_effort": reasoning.get("effort"),
    }
    if has_tools:
        choice = asked.get("tool_choice")
        if isinstance(choice, dict):
            choice = {"type": "function", "function": {"name": _chosen(choice)}}
        found |= {"tool_choice": choice, "parallel_tool_calls": asked.get("parallel_tool_calls")}
    return {name: value for name, value in found.items() if value is not None}


def _format(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """In a response a schema stands beside its type, in a completion below it."""
    if not given or given.get("type") == "text":
        return None
    if given.get("type") != "json_schema":
        return dict(given)
    return {"type": "json_schema", "json_schema": {key: value for key, value in given.items() if key != "type"}}


def _anthropic(asked: Mapping[str, Any], *, has_tools: bool) -> dict[str, Any]:
    if _format((asked.get("text") or {}).get("format")):
        raise InvalidInput("`text.format`: this model's provider takes text only.", field="text.format")
    choice, parallel = asked.get("tool_choice"), asked.get("parallel_tool_calls")
    if not has_tools or (choice in (None, "auto") and parallel is not False):
        return {}
    found: dict[str, Any] = {"type": _CHOICES.get(choice or "auto", "auto") if not isinstance(choice, dict) else "tool"}
    if isinstance(choice, dict):
        found["name"] = _chosen(choice)
    if parallel is False and found["type"] != "none":
        found["disable_parallel_tool_use"] = True
    return {"tool_choice": found}


def _chosen(choice: Mapping[str, Any]) -> str:
    name = choice.get("name")
    if choice.get("type") != "function" or not isinstance(name, str):
        raise InvalidInput(
            "`tool_choice` must be none, auto, required, or a function with its name.", field="tool_choice"
        )
    return name
