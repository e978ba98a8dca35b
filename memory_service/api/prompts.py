"""Prompts: build, explain, report usage."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from memory_service.api import answers, render, run_wire, schemas
from memory_service.api.deps import Ctx, NewestFirst, json_response, once
from memory_service.api.routing import CanonicalRoute
from memory_service.api.threads import draft
from memory_service.core.canonical import Raw
from memory_service.core.content import check_tools
from memory_service.core.plan import RecallSpec
from memory_service.core.replies import reply_content
from memory_service.core.truncation import TruncationStrategy
from memory_service.services import ingest, prewarming, prompts, rebuilding, usage
from memory_service.services.planning import PromptSpec
from memory_service.store import idempotency
from memory_service.store import prompts as prompt_store
from memory_service.store.db import Session
from memory_service.store.threads import get_thread

router = APIRouter(prefix="/v1", route_class=CanonicalRoute, tags=["prompts"])


def prompt_spec(body: schemas.PromptCreate | run_wire.RunCreate | run_wire.PrewarmCreate) -> PromptSpec:
    strategy = body.truncation_strategy
    if body.recall is False:
        recall: RecallSpec | None = RecallSpec(enabled=False)
    else:
        recall = RecallSpec(**body.recall.model_dump()) if body.recall else None
    ttl = None if body.cache is False else body.cache.ttl if body.cache else "auto"
    return PromptSpec(
        provider=body.provider,
        model=body.model,
        max_prompt_tokens=body.max_prompt_tokens,
        max_output_tokens=getattr(body, "max_output_tokens", None),
        strategy=TruncationStrategy(**strategy.model_dump()) if strategy else None,
        recall=recall,
        context=tuple(block.text for block in getattr(body, "context", ())),
        tools=tuple(check_tools(body.tools, "tools")) if body.tools is not None else None,
        ttl=ttl,
        refresh=getattr(body, "refresh", False),
    )


@router.post(
    "/threads/{thread_id}/prompts",
    status_code=201,
    response_model=answers.Prompt,
    responses={200: {"model": answers.Prompt, "description": "Planned only (`dry_run`)."}},
)
async def build_prompt(context: Ctx, thread_id: str, body: schemas.PromptCreate) -> Response:
    """Build the next prompt: `request` is what the provider's SDK takes, the rest explains it."""
    built = await prompts.build(
        context.runtime,
        context.project_id,
        thread_id,
        prompt_spec(body),
        draft(body.message, "message.") if body.message else None,
        context.now,
        dry_run=body.dry_run,
        call=context.call,
    )
    return json_response(render.prompt(built, context.runtime.models), 200 if body.dry_run else 201)


@router.get("/threads/{thread_id}/prompts", response_model=answers.Page[answers.PromptSummary])
async def list_prompts(context: Ctx, page: NewestFirst, thread_id: str) -> Response:
    """List the prompts built, newest first, without their requests."""
    async with context.runtime.db.read_only(context.project_id) as session:
        thread = await get_thread(session, thread_id)
        found = await prompt_store.list_prompts(session, thread.pk, page)
    return json_response(
        render.page(
            found,
            lambda record: render.prompt_summary(rebuilding.show_stored(thread_id, record), context.runtime.models),
        )
    )


@router.get("/threads/{thread_id}/prompts/{prompt_id}", response_model=answers.Prompt)
async def get_prompt(context: Ctx, thread_id: str, prompt_id: str) -> Response:
    """A prompt with its request, rebuilt; `request_digest` proves it is the same."""
    built = await rebuilding.get(context.runtime, context.project_id, thread_id, prompt_id)
    return json_response(render.prompt(built, context.runtime.models))


@router.post("/threads/{thread_id}/prompts/{prompt_id}/usage", response_model=answers.UsageAnswer)
async def report_usage(context: Ctx, thread_id: str, prompt_id: str, body: schemas.UsageReport) -> Response:
    """Report the provider's `usage` object and the reply to append, both as they came. Repeating it changes nothing;
    a reply may follow later, with the same usage. It stands at the end of the thread, also when newer user messages
    came before it."""
    prepared = await ingest.prepare(context.runtime, _reply(body.message), context.now)

    async def report(session: Session) -> Any:
        reply = prepared[0] if prepared else None
        reported = await usage.report(
            context.runtime,
            session,
            thread_id,
            prompt_id,
            body.usage,
            reply,
            context.now,
            diagnostics=body.diagnostics,
            commit=context.call is None,
        )
        return render.usage_report(reported, context.runtime.models)

    return await once(context, report)


@router.post("/threads/{thread_id}/prewarm", response_model=run_wire.Prewarm)
async def prewarm_thread(context: Ctx, thread_id: str, body: run_wire.PrewarmCreate | None = None) -> Response:
    """Write the thread's prefix into the provider's prompt cache, without a reply: for when a question is likely soon.
    It costs what writing costs; within the lifetime of its entries, the next prompt reads them."""
    spec = prompt_spec(body or run_wire.PrewarmCreate())
    if context.call:
        async with context.runtime.db.read_only(context.project_id) as session:
            if earlier := await idempotency.find(session, context.call, context.now):
                return json_response(Raw(earlier.body), earlier.status)
    warmed = await prewarming.call(context.runtime, context.project_id, thread_id, spec, context.now)

    async def record(session: Session) -> Any:
        await prewarming.record(context.runtime, session, thread_id, warmed, context.now)
        return render.prewarm(thread_id, warmed, context.runtime.models)

    return await once(context, record)


def _reply(message: schemas.ReplyInput | None) -> list[ingest.Draft]:
    """A model may answer with nothing at all; then there is nothing to append."""
    if message is None:
        return []
    content = reply_content(dict(message), "message.")
    return [ingest.Draft("assistant", content, "message.", message.metadata or {})] if content else []
