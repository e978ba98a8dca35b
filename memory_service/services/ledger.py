"""What a call of a model used and cost, written into the ledger, and said aloud when the prompt cache failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory_service.core.misses import Miss, explain_report, has_collapsed
from memory_service.core.pricing import find_model
from memory_service.core.usage import ReportedUsage, cost_of, written_1h
from memory_service.runtime import Runtime
from memory_service.store import usage as usage_store
from memory_service.store.db import Session, on_commit
from memory_service.store.threads import ThreadRecord
from memory_service.store.usage import Entry, Kind
from memory_service.telemetry import logger, metrics


@dataclass(frozen=True, slots=True)
class PaidCall:
    """A call whose usage is known, as the provider gave it, with what it said of its prompt cache under `diagnostics`.

    `ttl` is that of the request's breakpoints; `prediction` as prompts explain theirs, None where there was none.
    """

    kind: Kind
    provider: str
    model: str
    usage: Mapping[str, Any]
    ttl: str
    prediction: Mapping[str, Any] | None
    prompt_id: str | None = None
    run_id: str | None = None


async def record(session: Session, runtime: Runtime, thread: ThreadRecord, call: PaidCall, now: datetime) -> None:
    """Write a call into the ledger, in the caller's transaction, at the prices of now. Raises InvalidInput."""
    reported = ReportedUsage.parse(call.usage)
    predicted = call.prediction
    unforeseen = explain_report(predicted, reported, call.usage) if predicted else None
    await usage_store.add_entry(
        session, _entry(runtime, thread, call, reported, unforeseen or _foreseen(predicted), now)
    )
    on_commit(
        session,
        lambda: metrics.REPORTED.count(
            reported.cache_read_tokens, reported.cache_write_tokens, reported.uncached_tokens
        ),
    )
    if predicted and unforeseen and has_collapsed(predicted, reported):
        project_id, reason = session.info["project_id"], unforeseen.reason
        on_commit(session, lambda: _warn(project_id, call, predicted, reported, reason))


def _entry(
    runtime: Runtime, thread: ThreadRecord, call: PaidCall, reported: ReportedUsage, miss: Miss | None, now: datetime
) -> Entry:
    cost = cost_of(find_model(runtime.models, call.provider, call.model), reported, call.ttl)
    for_long, predicted = written_1h(reported, call.ttl), call.prediction or {}
    return Entry(
        kind=call.kind,
        called_at=now,
        thread_id=thread.id,
        user_id=thread.user_id,
        prompt_id=call.prompt_id,
        run_id=call.run_id,
        provider=call.provider,
        model=call.model,
        cache_read_tokens=reported.cache_read_tokens,
        cache_write_5m_tokens=reported.cache_write_tokens - for_long,
        cache_write_1h_tokens=for_long,
        uncached_tokens=reported.uncached_tokens,
        output_tokens=reported.output_tokens,
        cost_usd=cost.usd,
        cost_usd_uncached=cost.usd_uncached,
        output_usd=cost.output_usd,
        predicted_cache_read_tokens=predicted.get("cache_read_tokens"),
        predicted_cache_write_tokens=predicted.get("cache_write_tokens"),
        predicted_uncached_tokens=predicted.get("uncached_tokens"),
        predicted_cost_usd=predicted.get("cost_usd"),
        miss_reason=miss.reason if miss else None,
        miss=miss.text if miss else None,
    )


def _foreseen(prediction: Mapping[str, Any] | None) -> Miss | None:
    if not prediction or not prediction.get("miss"):
        return None
    return Miss(prediction.get("miss_reason") or "foreseen", prediction["miss"])


def _warn(project_id: int, call: PaidCall, predicted: Mapping[str, Any], reported: ReportedUsage, reason: str) -> None:
    """Neither the model nor the thread is named: callers choose these words."""
    metrics.CACHE_MISSES.labels(call.provider, reason).inc()
    fields = {
        "project": project_id,
        "prompt": call.prompt_id,
        "run": call.run_id,
        "provider": call.provider,
        "predicted_read_tokens": predicted["cache_read_tokens"],
        "read_tokens": reported.cache_read_tokens,
        "input_tokens": reported.input_tokens,
        "reason": reason,
    }
    logger.warning("the prompt cache was read far less than predicted", extra={"fields": fields})
