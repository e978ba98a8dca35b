"""A run as OpenAI shows a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memory_service.api.openai.frame import unix
from memory_service.api.openai.items import shown_items
from memory_service.core.canonical import loads
from memory_service.core.runs import Spent
from memory_service.services.responses import own_of, written_by
from memory_service.store.db import Session
from memory_service.store.messages import MessageRecord
from memory_service.store.runs import RunRecord

_STATUSES = {"requires_action": "completed", "cancelling": "in_progress", "expired": "failed"}
_ERRORS = {"provider_rate_limited": "rate_limit_exceeded", "prompt_too_large": "invalid_prompt"}
#: Fields that are shown as they were asked for, with what holds where nothing was.
_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


async def read(session: Session, thread_id: str, run: RunRecord) -> dict[str, Any]:
    return response(thread_id, run, await written_by(session, run))


def response(thread_id: str, run: RunRecord, written: Sequence[MessageRecord]) -> dict[str, Any]:
    own = own_of(run)
    status = _STATUSES.get(run.status, run.status)
    return {
        "id": run.id,
        "object": "response",
        "created_at": unix(run.created_at),
        "completed_at": unix(run.ended_at) if status == "completed" else None,
        "status": status,
        "background": False,
        "error": _error(run) if status == "failed" else None,
        "incomplete_details": {"reason": _reason(run)} if status == "incomplete" else None,
        "model": run.model,
        "output": [one.item for record in written for one in shown_items(record)],
        "usage": _usage(Spent(**loads(run.spent))) if status not in ("queued", "in_progress") else None,
        "conversation": None if own.get("owned") else {"id": thread_id},
        "metadata": dict(run.metadata),
        **{name: own[name] if own.get(name) is not None else default for name, default in _ECHOED.items()},
    }


def unfinished(finished: dict[str, Any]) -> dict[str, Any]:
    """As it was when its stream began."""
    unknown = dict.fromkeys(("completed_at", "error", "incomplete_details", "usage"))
    return {**finished, **unknown, "status": "in_progress", "output": []}


def _error(run: RunRecord) -> dict[str, str]:
    told = loads(run.last_error) if run.last_error else {"code": run.status, "message": "No tool output came in time."}
    return {"code": _ERRORS.get(told["code"], "server_error"), "message": told["message"]}


def _reason(run: RunRecord) -> str:
    return "content_filter" if run.incomplete_reason == "refusal" else "max_output_tokens"


def _usage(spent: Spent) -> dict[str, Any]:
    return {
        "input_tokens": spent.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": spent.cache_read_tokens,
            "cache_write_tokens": spent.cache_write_tokens,
        },
        "output_tokens": spent.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": spent.prompt_tokens + spent.output_tokens,
    }
