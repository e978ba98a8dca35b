"""Threads, as OpenAI has them."""

from __future__ import annotations

from typing import Any

from fastapi import Response

from memory_service.api.deps import Ctx, json_response, once
from memory_service.api.openai import render, schemas
from memory_service.api.openai.asking import thread_columns
from memory_service.api.openai.frame import PageAsked, list_object, new_router
from memory_service.api.openai.translate import draft
from memory_service.services import ingest, threads
from memory_service.store import threads as store
from memory_service.store.db import Session

router = new_router()


@router.post("/threads")
async def create_thread(context: Ctx, body: schemas.ThreadCreate | None = None) -> Response:
    body = body or schemas.ThreadCreate()
    drafts = [draft(message, f"messages[{i}].") for i, message in enumerate(body.messages)]
    messages = await ingest.prepare(context.runtime, drafts, context.now)
    fields = thread_columns(body.tool_resources)

    async def effect(session: Session) -> Any:
        return render.thread(
            await threads.create(session, fields=fields, metadata=body.metadata, messages=messages, now=context.now)
        )

    return await once(context, effect)


@router.get("/threads")
async def list_threads(context: Ctx, page: PageAsked) -> Response:
    """OpenAI has no such operation; other servers of its protocol have."""
    async with context.runtime.db.read_only(context.project_id) as session:
        found = await store.list_threads(session, page, user_id=None, metadata={})
    return json_response(list_object(found, render.thread))


@router.get("/threads/{thread_id}")
async def get_thread(context: Ctx, thread_id: str) -> Response:
    async with context.runtime.db.read_only(context.project_id) as session:
        return json_response(render.thread(await store.get_thread(session, thread_id)))


@router.post("/threads/{thread_id}")
async def update_thread(context: Ctx, thread_id: str, body: schemas.ThreadUpdate | None = None) -> Response:
    body = body or schemas.ThreadUpdate()
    fields = thread_columns(body.tool_resources) if "tool_resources" in body.model_fields_set else {}

    async def effect(session: Session) -> Any:
        before = await store.get_thread(session, thread_id, lock=True)
        metadata = render.new_metadata(before.metadata, body)
        return render.thread(await store.update_thread(session, before.pk, fields=fields, metadata=metadata))

    return await once(context, effect)


@router.delete("/threads/{thread_id}")
async def delete_thread(context: Ctx, thread_id: str) -> Response:
    async def effect(session: Session) -> Any:
        await store.delete_thread(session, thread_id)
        return render.deleted(thread_id, "thread")

    return await once(context, effect)
