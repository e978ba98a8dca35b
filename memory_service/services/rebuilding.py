"""Prompts that were built before: rebuilt from their plan, and proved by their digest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from memory_service.core.canonical import loads
from memory_service.core.closing import without_thinking
from memory_service.core.forms import request_digest, to_request
from memory_service.core.lane import Kept
from memory_service.core.layout import Layout, StablePart, render_pieces
from memory_service.core.messages import group_turns, mend
from memory_service.core.pricing import find_model
from memory_service.core.request import Request
from memory_service.core.shorten import shorten
from memory_service.core.tokens import TokenCounts
from memory_service.core.truncation import TruncationStrategy
from memory_service.core.volatile import Volatile
from memory_service.runtime import Runtime
from memory_service.services.explaining import BuiltPrompt
from memory_service.services.holding import to_messages
from memory_service.store import messages as message_store
from memory_service.store import prompts as prompt_store
from memory_service.store.db import Session
from memory_service.store.prompts import PromptRecord
from memory_service.store.threads import get_thread


async def get(runtime: Runtime, project_id: int, thread_id: str, prompt_id: str) -> BuiltPrompt:
    """A prompt with its request, rebuilt and proved by its digest. Raises NotFound."""
    async with runtime.db.read_only(project_id) as session:
        thread = await get_thread(session, thread_id)
        record = await prompt_store.get_prompt(session, thread.pk, prompt_id)
        return await _rebuild(runtime, session, thread.id, record)


async def _rebuild(runtime: Runtime, session: Session, thread_id: str, record: PromptRecord) -> BuiltPrompt:
    shown = show_stored(thread_id, record)
    if record.volatile is None:
        return replace(shown, request_missing="A message that this prompt recalled was deleted.")
    facts = json.loads(record.plan)["rebuild"]
    records = await message_store.range_of(
        session, record.thread_pk, first_seq=facts["first_seq"], last_seq=facts["last_seq"]
    )
    revisions = await message_store.revisions_at(session, record.thread_pk, record.thread_version)
    messages = to_messages(records, revisions)
    if not messages:
        return replace(shown, request_missing="The messages of this prompt were deleted.")
    tools, shared, own = loads(await prompt_store.get_stable_text(session, record.thread_pk, record.stable_digest))
    volatile = Volatile.from_json(json.loads(record.volatile))
    kept = await _kept(session, record, facts.get("kept", ()))
    if kept is None:
        return replace(shown, request_missing="An earlier prompt, of which this one shows recalled text, was deleted.")
    turns, _ = mend(group_turns(shorten(messages, facts.get("cuts", {}), runtime.counter.count)))
    layout = Layout(
        StablePart(tuple(tools), tuple(shared), tuple(own)),
        render_pieces((*turns[:-1], without_thinking(turns[-1], facts.get("thinking_from", 0))), volatile, kept),
        tuple(facts["marks"]),
        facts["mark_shared"],
    )
    request = to_request(_request_of(runtime, facts), layout, thread_id)
    if request_digest(request) != shown.explanation["request_digest"]:
        return replace(shown, request_missing="A message of this prompt was deleted since it was built.")
    return replace(shown, request=request)


async def _kept(session: Session, record: PromptRecord, facts: Sequence[Any]) -> list[Kept] | None:
    """What the prompt kept of closed turns; its texts stand with the prompts that were built with them first."""
    sources = await prompt_store.volatile_of(session, record.thread_pk, [source for _, _, source, _ in facts])
    if any(source not in sources for _, _, source, _ in facts):
        return None
    return [
        Kept(first_seq, last_seq, Volatile.from_json(json.loads(sources[source])), TokenCounts(), source, thinking_from)
        for first_seq, last_seq, source, thinking_from in facts
    ]


def _request_of(runtime: Runtime, facts: Mapping[str, Any]) -> Request:
    return Request(
        provider=facts["provider"],
        model=find_model(runtime.models, facts["provider"], facts["model"]),
        model_name=facts["model"],
        max_prompt_tokens=facts["max_prompt_tokens"],
        max_output_tokens=facts["max_output_tokens"],
        strategy=TruncationStrategy(**facts["strategy"]),
        ttl=facts["ttl"],
    )


def show_stored(thread_id: str, record: PromptRecord) -> BuiltPrompt:
    """A stored prompt without its request."""
    explanation = json.loads(record.plan)
    del explanation["rebuild"]
    return BuiltPrompt(
        id=record.id,
        thread_id=thread_id,
        status=record.status,
        created_at=record.built_at,
        explanation={**explanation, "hints": explanation.get("hints", []), "counted": explanation.get("counted")},
        request=None,
        usage=record.usage,
        reply_seq=record.reply_seq,
    )
