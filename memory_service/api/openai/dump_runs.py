"""Runs and run steps that were fetched from OpenAI's Assistants API, as lines of an import have them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from memory_service.core.runs import ENDED

# Shown again as they are.
_SHOWN = (
    "instructions",
    "tools",
    "temperature",
    "top_p",
    "reasoning_effort",
    "response_format",
    "tool_choice",
    "parallel_tool_calls",
    "max_prompt_tokens",
    "max_completion_tokens",
    "truncation_strategy",
)
_LAST_SECOND = 253_000_000_000  # of the year 9987
_ENDED_AT = ("completed_at", "failed_at", "cancelled_at", "expires_at", "started_at", "created_at")
# OpenAI's words in ours, of which `render` makes them again.
_ERRORS = {"rate_limit_exceeded": "provider_rate_limited", "invalid_prompt": "provider_refused"}
_BOUNDS = {"max_prompt_tokens": "prompt_tokens", "max_completion_tokens": "completion_tokens"}


def run_line(one: Mapping[str, Any], model: str) -> dict[str, Any]:
    """`model` is that of its assistant."""
    status, cut = _status(one), _object(one, "incomplete_details")
    error = _object(one, "last_error")
    return {
        "type": "run",
        "id": one["id"],
        "thread_id": one["thread_id"],
        "status": status,
        "provider": "openai",
        "model": one.get("model") or model,
        "assistant_id": one.get("assistant_id") or None,
        "usage": _usage(_object(one, "usage")),
        "last_error": {
            "code": _ERRORS.get(str(error.get("code")), "provider_failed"),
            "message": str(error.get("message") or ""),
        }
        if error
        else None,
        "incomplete_reason": _BOUNDS.get(str(cut.get("reason")), "completion_tokens")
        if status == "incomplete"
        else None,
        "metadata": one.get("metadata") or {},
        "created_at": time_of(one.get("created_at")),
        "started_at": time_of(one.get("started_at")),
        "ended_at": next((time for name in _ENDED_AT if (time := time_of(one.get(name)))), None),
        "openai": {name: one[name] for name in _SHOWN if one.get(name) is not None},
    }


def _status(one: Mapping[str, Any]) -> str:
    """Nobody works on it any more."""
    status = str(one.get("status"))
    if status in ENDED:
        return status
    return "cancelled" if status == "cancelling" else "expired"


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """It is shown, and stands in no ledger: it was paid elsewhere."""
    prompt, output = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    cached = _object(usage, "prompt_token_details").get("cached_tokens") or 0
    return {"cache_read_tokens": cached, "uncached_tokens": prompt - cached, "output_tokens": output, "cost_usd": None}


def step_fields(step: Mapping[str, Any]) -> dict[str, Any]:
    """What a message keeps of the step that it is."""
    kept = ("id", "created_at", "completed_at", "usage")
    return {name: step[name] for name in kept if step.get(name) is not None}


def time_of(seconds: Any) -> str | None:
    if not isinstance(seconds, int | float) or not 0 < seconds < _LAST_SECOND:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _object(one: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = one.get(name)
    return value if isinstance(value, Mapping) else {}
