"""Messages of a thread, as OpenAI has them. What only calls tools or answers them is no message there: steps have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query, Response

from memory_service.api.deps import Ctx, json_response, once
from memory_service.api.openai import render, schemas
from memory_service.api.openai.errors import told_when_locked
from memory_service.api.openai.frame import PageAsked, list_of, new_router
from memory_service.api.openai.translate import HIDDEN_TYPES, draft
from memory_service.services import ingest
from memory_service.store import messages as store
from memory_service.store import runs as run_store
from memory_service.store.db import Session
from memory_service.store.messages import MessageRecord
from memory_service.store.threads import ThreadRecord, get_thread

router = new_router()


def adding_to(thread_id: str) -> str:
    """What is told of a thread that takes no messages now."""
    return f"Can't add messages to {thread_id} while a run {{run}} is active."


def _changing(thread_id: str) -> str:
    return f"Can't change messages of {thread_id} while a run {{run}} is active."


@router.post("/threads/{thread_id}/messages")
async def create_message(context: Ctx, thread_id: str, body: schemas.MessageCreate) -> Response:
    prepared = await ingest.prepare(context.runtime, [draft(body, "")], context.now)

    async def effect(session: Session) -> Any:
        thread = await get_thread(session, thread_id, lock=True)
        with told_when_locked(adding_to(thread_id)):
            return (await shown(session, thread, await ingest.append(session, thread, prepared, [""])))[0]

    return await once(context, effect)


@router.get("/threads/{thread_id}/messages")
async def list_messages(
    context: Ctx, page: PageAsked, thread_id: str, run_id: Annotated[str | None, Query()] = None
) -> Response:
    async with context.runtime.db.read_only(context.project_id) as session:
        thread = await get_thread(session, thread_id)
        found = await store.list_messages(session, thread.pk, page, run_id=run_id, without=HIDDEN_TYPES)
        return json_response(list_of(await shown(session, thread, found.items), has_more=found.has_more))


@router.get("/threads/{thread_id}/messages/{message_id}")
async def get_message(context: Ctx, thread_id: str, message_id: str) -> Response:
    async with context.runtime.db.read_only(context.project_id) as session:
        thread = await get_thread(session, thread_id)
        record = await store.get_message(session, thread.pk, message_id)
        return json_response((await shown(session, thread, [record]))[0])


@router.post("/threads/{thread_id}/messages/{message_id}")
async def update_message(
    context: Ctx, thread_id: str, message_id: str, body: schemas.MetadataUpdate | None = None
) -> Response:
    body = body or schemas.MetadataUpdate()

    async def effect(session: Session) -> Any:
        thread = await get_thread(session, thread_id, lock=True)
        message = await store.get_message(session, thread.pk, message_id)
        if metadata := render.new_metadata(message.metadata or {}, body):
            with told_when_locked(_changing(thread_id)):
                message = await ingest.edit(session, thread, message, None, metadata)
        return (await shown(session, thread, [message]))[0]

    return await once(context, effect)


@router.delete("/threads/{thread_id}/messages/{message_id}")
async def delete_message(context: Ctx, thread_id: str, message_id: str) -> Response:
    async def effect(session: Session) -> Any:
        thread = await get_thread(session, thread_id, lock=True)
        message = await store.get_message(session, thread.pk, message_id)
        with told_when_locked(_changing(thread_id)):
            await ingest.delete(session, thread, message, context.now)
        return render.deleted(message_id, "thread.message")

    return await once(context, effect)


async def shown(session: Session, thread: ThreadRecord, records: Sequence[MessageRecord]) -> list[dict[str, Any]]:
    """Messages with what their runs say of them."""
    run_ids = {record.run_id for record in records if record.run_id}
    runs = await run_store.with_ids(session, thread.pk, run_ids) if run_ids else {}
    return [render.message(record, thread.id, runs.get(record.run_id or "")) for record in records]
