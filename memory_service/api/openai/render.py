"""Records as OpenAI shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from memory_service.api.openai.frame import unix
from memory_service.api.openai.translate import openai_tools
from memory_service.core.canonical import loads
from memory_service.store.threads import AssistantRecord, ThreadRecord


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
