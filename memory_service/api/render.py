"""Records as the API shows them. Canonical JSON is passed through as `Raw`, so that it keeps its bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar

from memory_service.core.canonical import Raw, loads
from memory_service.core.misses import explain_report
from memory_service.core.pricing import Model, find_model
from memory_service.core.runs import Spent
from memory_service.core.usage import ReportedUsage, cost_of
from memory_service.services.explaining import BuiltPrompt, breakpoint_ttl
from memory_service.services.prewarming import Prewarmed
from memory_service.services.runs import ShownRun, required_action
from memory_service.services.search import SearchResult
from memory_service.services.usage import Reported
from memory_service.store.messages import MessageRecord
from memory_service.store.pages import Page
from memory_service.store.prompts import EstimateRecord
from memory_service.store.threads import AssistantRecord, ThreadRecord
from memory_service.store.users import Holdings

T = TypeVar("T")


def time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _raw(text: str | None) -> Raw | None:
    return None if text is None else Raw(text)


def thread(record: ThreadRecord, pending_embeddings: int) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "thread",
        "created_at": time(record.created_at),
        "user_id": record.user_id,
        "assistant_id": record.assistant_id,
        "instructions": record.instructions,
        "tools": _raw(record.tools),
        "documents": _raw(record.documents),
        "metadata": dict(record.metadata),
        "truncation_strategy": _raw(record.truncation_strategy),
        "message_count": record.message_count,
        "last_seq": record.last_seq,
        "pending_embeddings": pending_embeddings,
        "active_run_id": record.active_run_id,
    }


def user(id: str, held: Holdings) -> dict[str, Any]:
    return {
        "id": id,
        "object": "user",
        "thread_count": held.threads,
        "message_count": held.messages,
        "prompt_count": held.prompts,
        "call_count": held.calls,
        "first_thread_at": time(held.first_thread_at) if held.first_thread_at else None,
        "last_thread_at": time(held.last_thread_at) if held.last_thread_at else None,
    }


def message(record: MessageRecord, thread_id: str) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "message",
        "thread_id": thread_id,
        "seq": record.seq,
        "role": record.role,
        "content": Raw(record.content),
        "status": record.status,
        "token_count": record.token_count,
        "run_id": record.run_id,
        "metadata": dict(record.metadata or {}),
        "created_at": time(record.created_at),
    }


def run(shown: ShownRun) -> dict[str, Any]:
    record = shown.record
    spent = loads(record.spent)
    return {
        "id": record.id,
        "object": "run",
        "thread_id": shown.thread_id,
        "status": record.status,
        "provider": record.provider,
        "model": record.model,
        "required_action": required_action(record),
        "last_error": _raw(record.last_error),
        "incomplete_reason": record.incomplete_reason,
        "usage": {**asdict(Spent(**spent)), "prompt_tokens": Spent(**spent).prompt_tokens},
        "reply": shown.reply and message(shown.reply, shown.thread_id),
        "message_ids": list(record.message_ids),
        "prompt_ids": list(record.prompt_ids),
        "metadata": dict(record.metadata),
        "created_at": time(record.created_at),
        "started_at": record.started_at and time(record.started_at),
        "expires_at": record.expires_at and time(record.expires_at),
        "ended_at": record.ended_at and time(record.ended_at),
    }


def assistant(record: AssistantRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "assistant",
        "created_at": time(record.created_at),
        "name": record.name,
        "model": record.model,
        "provider": record.provider,
        "instructions": record.instructions,
        "tools": _raw(record.tools),
        "documents": _raw(record.documents),
        "defaults": _raw(record.defaults),
        "metadata": dict(record.metadata),
    }


def page(found: Page[T], render: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    rendered = [render(item) for item in found.items]
    return {
        "object": "list",
        "data": rendered,
        "first_id": rendered[0]["id"] if rendered else None,
        "last_id": rendered[-1]["id"] if rendered else None,
        "has_more": found.has_more,
    }


def search_hits(result: SearchResult) -> dict[str, Any]:
    return {
        "object": "list",
        "recall": result.ranking.explanation,
        "data": [
            {
                "message_id": hit.message.id,
                "thread_id": hit.thread_id,
                "seq": hit.message.seq,
                "role": hit.message.role,
                "score": hit.hit.score,
                "why": hit.hit.why,
                "excerpt": hit.excerpt,
                "message": message(hit.message, hit.thread_id),
            }
            for hit in result.hits
        ],
    }


def prompt_summary(prompt: BuiltPrompt, models: Sequence[Model]) -> dict[str, Any]:
    usage = None if prompt.usage is None else loads(prompt.usage)
    return {
        "id": prompt.id,
        "object": "prompt",
        "thread_id": prompt.thread_id,
        "status": prompt.status,
        "created_at": time(prompt.created_at),
        "recall": None,  # prompts of versions before vectors do not say
        "cache": None,  # nor those of versions that did not choose
        "shortened": [],
        "kept": [],
        **prompt.explanation,
        "prediction": {"miss": None, "miss_reason": None, **prompt.explanation["prediction"]},
        "usage": _raw(prompt.usage),
        "reported": None if usage is None else _reported(usage, prompt, models),
    }


def prompt(built: BuiltPrompt, models: Sequence[Model]) -> dict[str, Any]:
    summary = prompt_summary(built, models)
    return {**summary, "request": built.request, "request_missing": built.request_missing}


def usage_report(reported: Reported, models: Sequence[Model]) -> dict[str, Any]:
    summary = prompt_summary(reported.prompt, models)
    return {
        "object": "usage_report",
        "prompt_id": summary["id"],
        "thread_id": summary["thread_id"],
        "usage": summary["usage"],
        "reported": summary["reported"],
        "prediction": summary["prediction"],
        "message": reported.reply and message(reported.reply, reported.prompt.thread_id),
    }


def prewarm(thread_id: str, warmed: Prewarmed, models: Sequence[Model]) -> dict[str, Any]:
    explained = warmed.shown.explanation
    return {
        "object": "prewarm",
        "thread_id": thread_id,
        **{name: explained[name] for name in ("provider", "model", "prediction", "cache", "breakpoints")},
        "usage": warmed.usage,
        "reported": None if warmed.usage is None else _reported(dict(warmed.usage), warmed.shown, models),
    }


def _reported(usage: dict[str, Any], prompt: BuiltPrompt, models: Sequence[Model]) -> dict[str, Any]:
    """The provider's own count in the words of `prediction`."""
    reported = ReportedUsage.parse(usage)
    model = find_model(models, prompt.explanation["provider"], prompt.explanation["model"])
    miss = explain_report(prompt.explanation["prediction"], reported, usage)
    cost = cost_of(model, reported, breakpoint_ttl(prompt.explanation))
    return {
        "cache_read_tokens": reported.cache_read_tokens,
        "cache_write_tokens": reported.cache_write_tokens,
        "uncached_tokens": reported.uncached_tokens,
        "output_tokens": reported.output_tokens,
        "miss": miss and miss.text,
        "miss_reason": miss and miss.reason,
        "cost_usd": cost.usd,
        "output_usd": cost.output_usd,
    }


def estimate(record: EstimateRecord) -> dict[str, Any]:
    learnt = record.estimate
    return {
        "id": f"{record.provider}/{record.model}",
        "object": "estimate",
        "provider": record.provider,
        "model": record.model,
        "observations": learnt.observations,
        "calibrated": learnt.calibrated,
        "error": None if learnt.error is None else round(learnt.error, 4),
        "margin": round(learnt.margin, 4),
        "updated_at": time(record.updated_at),
    }
