"""Records as OpenAI shows them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from memory_service.api.openai.frame import unix
from memory_service.api.openai.translate import openai_content, openai_tools
from memory_service.core.canonical import dumps, loads
from memory_service.core.runs import ENDED, Spent
from memory_service.services.run_spec import DEFAULT_TIMEOUT_SECONDS, RunSpec
from memory_service.store.messages import MessageRecord
from memory_service.store.runs import RunRecord
from memory_service.store.threads import AssistantRecord, ThreadRecord

# Statuses that have a time of their own.
_ENDINGS = ("cancelled", "failed")
_BOUNDS = {
    "prompt_tokens": "max_prompt_tokens",
    "completion_tokens": "max_completion_tokens",
    "max_output_tokens": "max_completion_tokens",
}
_PROMPT_AT_FAULT = frozenset(
    {
        "invalid_request",
        "invalid_message",
        "prompt_too_large",
        "no_user_message",
        "provider_refused",
        "provider_request_too_large",
    }
)


def kept(record: AssistantRecord | ThreadRecord) -> dict[str, Any]:
    """What a record has beyond our own fields."""
    return dict(loads(record.openai)) if record.openai else {}


def assistant(record: AssistantRecord) -> dict[str, Any]:
    """One that was made through our own API may have no model: each run names its own."""
    own = kept(record)
    return {
        "id": record.id,
        "object": "assistant",
        "created_at": unix(record.created_at),
        "name": record.name,
        "description": own.get("description"),
        "model": record.model or "",
        "instructions": record.instructions,
        "tools": openai_tools(record.tools, own.get("tools")),
        "tool_resources": own.get("tool_resources"),
        "metadata": dict(record.metadata),
        "temperature": own.get("temperature"),
        "top_p": own.get("top_p"),
        "response_format": own.get("response_format", "auto"),
        "reasoning_effort": own.get("reasoning_effort"),
    }


def thread(record: ThreadRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "thread",
        "created_at": unix(record.created_at),
        "metadata": dict(record.metadata),
        "tool_resources": kept(record).get("tool_resources"),
    }


def deleted(id: str, kind: str) -> dict[str, Any]:
    return {"id": id, "object": f"{kind}.deleted", "deleted": True}


def new_metadata(before: Mapping[str, str], body: BaseModel) -> dict[str, str | None]:
    """The change that makes `before` what a request sends, if it sends any metadata: there it is not merged."""
    if "metadata" not in body.model_fields_set:
        return {}
    given: Mapping[str, str] = getattr(body, "metadata", {})
    return {**dict.fromkeys(before), **given}


def message(record: MessageRecord, thread_id: str, run: RunRecord | None) -> dict[str, Any]:
    """`run` is the one that wrote it."""
    own = dict(loads(record.openai)) if record.openai else {}
    whole = record.status == "completed"
    return {
        "id": record.id,
        "object": "thread.message",
        "created_at": unix(record.created_at),
        "thread_id": thread_id,
        "status": record.status,
        "incomplete_details": None if whole else {"reason": _why_cut(run)},
        "completed_at": unix(record.created_at) if whole else None,
        "incomplete_at": None if whole else unix(record.created_at),
        "role": record.role,
        "content": openai_content(record.content, own.get("details", {})),
        "assistant_id": run and (RunSpec.from_json(run.spec).prompt.assistant_id),
        "run_id": record.run_id,
        "attachments": own.get("attachments", []),
        "metadata": dict(record.metadata or {}),
    }


def begun_message(thread_id: str, run: RunRecord, message_id: str) -> dict[str, Any]:
    """One that a model is about to write."""
    return {
        "id": message_id,
        "object": "thread.message",
        "created_at": unix(run.started_at),
        "thread_id": thread_id,
        "status": "in_progress",
        "incomplete_details": None,
        "completed_at": None,
        "incomplete_at": None,
        "role": "assistant",
        "content": [],
        "assistant_id": RunSpec.from_json(run.spec).prompt.assistant_id,
        "run_id": run.id,
        "attachments": [],
        "metadata": {},
    }


def _why_cut(run: RunRecord | None) -> str:
    status = run.status if run else ""
    return {"cancelled": "run_cancelled", "expired": "run_expired", "failed": "run_failed"}.get(status, "max_tokens")


def run(record: RunRecord, thread_id: str, status: str | None = None) -> dict[str, Any]:
    """`status` as it is told, where that is not how it is by now."""
    spec = RunSpec.from_json(record.spec)
    # Runs of our own API, and of the Responses API, name no assistant.
    own = spec.openai or {} if spec.prompt.assistant_id else {}
    told = status or record.status
    ended = told in ENDED
    times = {f"{name}_at": unix(record.ended_at) if ended and told == name else None for name in _ENDINGS}
    return {
        "id": record.id,
        "object": "thread.run",
        "created_at": unix(record.created_at),
        "thread_id": thread_id,
        "assistant_id": spec.prompt.assistant_id or "",
        "status": told,
        "started_at": None if told == "queued" else unix(record.started_at),
        "expires_at": None if ended else _expires(record),
        **times,
        "completed_at": unix(record.ended_at) if told in ("completed", "incomplete") else None,
        "required_action": _required_action(record) if told == "requires_action" else None,
        "last_error": _last_error(record) if told == "failed" else None,
        "incomplete_details": {"reason": _BOUNDS.get(record.incomplete_reason or "")} if told == "incomplete" else None,
        "model": record.model,
        "instructions": own.get("instructions", ""),
        "tools": own["tools"]
        if "tools" in own
        else openai_tools(dumps(spec.prompt.tools) if spec.prompt.tools else None, None),
        "tool_resources": {},
        "metadata": dict(record.metadata),
        "temperature": own.get("temperature"),
        "top_p": own.get("top_p"),
        "reasoning_effort": own.get("reasoning_effort"),
        "max_prompt_tokens": own.get("max_prompt_tokens"),
        "max_completion_tokens": own.get("max_completion_tokens"),
        "truncation_strategy": own.get("truncation_strategy") or {"type": "auto", "last_messages": None},
        "response_format": own.get("response_format", "auto"),
        "tool_choice": own.get("tool_choice", "auto"),
        "parallel_tool_calls": own.get("parallel_tool_calls", True),
        "usage": _usage(Spent(**loads(record.spent))) if ended else None,
    }


def _expires(record: RunRecord) -> int | None:
    return unix(record.expires_at or record.created_at + timedelta(seconds=DEFAULT_TIMEOUT_SECONDS))


def _required_action(record: RunRecord) -> dict[str, Any] | None:
    if not record.required_action:
        return None
    calls = [function_call(c["id"], c["name"], dumps(c["input"])) for c in loads(record.required_action)]
    return {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}


def function_call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _last_error(record: RunRecord) -> dict[str, str] | None:
    if not record.last_error:
        return None
    error = loads(record.last_error)
    return {"code": _error_code(error["code"]), "message": error["message"]}


def _error_code(code: str) -> str:
    if code == "provider_rate_limited":
        return "rate_limit_exceeded"
    return "invalid_prompt" if code in _PROMPT_AT_FAULT else "server_error"


def _usage(spent: Spent) -> dict[str, Any]:
    """The singular of `prompt_token_details` is OpenAI's."""
    return {
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.output_tokens,
        "total_tokens": spent.prompt_tokens + spent.output_tokens,
        "prompt_token_details": {"cached_tokens": spent.cache_read_tokens},
    }
