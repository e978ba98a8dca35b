"""Writing a thread's prefix into the provider's prompt cache before anybody asks.

The next prompt is planned as if the user had said one word more: all breakpoints stand in front of that, so what is
written is just what the next real question finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from memory_service.core.forms import to_request
from memory_service.errors import Conflict
from memory_service.providers.base import ModelCall
from memory_service.runtime import Runtime
from memory_service.services import ingest, ledger
from memory_service.services.explaining import BuiltPrompt, breakpoint_ttl, show
from memory_service.services.ledger import PaidCall
from memory_service.services.planning import Plan, PromptSpec, complete, outline
from memory_service.store import prompts as prompt_store
from memory_service.store.db import Session
from memory_service.store.threads import ThreadRecord, get_thread

_ANY_QUESTION = "?"


@dataclass(frozen=True, slots=True)
class Prewarmed:
    """`usage` is what the provider reported, None when it reported nothing, or no model was asked."""

    planned: Plan
    shown: BuiltPrompt
    usage: Mapping[str, Any] | None


async def call(runtime: Runtime, project_id: int, thread_id: str, spec: PromptSpec, now: datetime) -> Prewarmed:
    """Send the prefix. Nothing is stored yet: `record` does that.

    Raises NotFound, what planning raises, Conflict while a reply is awaited, and ProviderError.
    """
    draft = ingest.Draft("user", _ANY_QUESTION, "message.", {})
    async with runtime.db.read_only(project_id) as session:
        thread = await get_thread(session, thread_id)
        _check_idle(thread)
        outlined = await outline(runtime, session, thread, spec, ingest.prepare_one(runtime.counter, draft, now), now)
    planned = complete(runtime, outlined, None, now)
    request = to_request(planned.request, planned.prompt.layout, thread_id)
    provider = runtime.chat.get(planned.request.provider)
    usage = await provider.prewarm(ModelCall(request, cache_salt=f"project-{project_id}"))
    asked_a_model = provider.name == planned.request.provider
    return Prewarmed(planned, show(planned, [], None, now), usage if usage and asked_a_model else None)


def _check_idle(thread: ThreadRecord) -> None:
    ingest.check_free(thread)
    if thread.last_role == "user":
        raise Conflict(
            "The last message of this thread waits for its reply: build its prompt or start a run, which writes the prefix "
            "just as well.",
            code="reply_awaited",
        )


async def record(runtime: Runtime, session: Session, thread_id: str, warmed: Prewarmed, now: datetime) -> None:
    """Write what it cost into the ledger, and what the provider now holds into the lane, unless the thread went on."""
    planned, thread = warmed.planned, await get_thread(session, thread_id, lock=True)
    if warmed.usage is None:
        return
    call = PaidCall(
        kind="prewarm",
        provider=planned.request.provider,
        model=planned.request.model_name,
        usage=warmed.usage,
        ttl=breakpoint_ttl(warmed.shown.explanation),
        prediction=warmed.shown.explanation["prediction"],
    )
    await ledger.record(session, runtime, thread, call, now)
    if thread.version == planned.thread.version:
        lane = replace(planned.prompt.lane, open_turn=None).after_sent(planned.prompt.tail, now.timestamp())
        await prompt_store.save_lane(session, thread.pk, planned.request.lane_key, lane, now)
