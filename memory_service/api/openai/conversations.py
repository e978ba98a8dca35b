"""Conversations and their items. A conversation is a thread: it has the same id at `/v1/threads`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Response
from pydantic import Field

from memory_service.api.deps import Context, Ctx, json_response, once
from memory_service.api.openai import render
from memory_service.api.openai.errors import told_when_locked
from memory_service.api.openai.frame import Input, Metadata, PageAsked, list_of, new_router, unix
from memory_service.api.openai.items import ShownItem, drafts, message_id, shown_items
from memory_service.core.canonical import loads
from memory_service.errors import NotFound
from memory_service.runtime import new_id
from memory_service.services import ingest, threads
from memory_service.store import messages as message_store
from memory_service.store import threads as store
from memory_service.store.db import Session
from memory_service.store.messages import MessageRecord
from memory_service.store.pages import PageQuery
from memory_service.store.threads import ThreadRecord

router = new_router()
#: As OpenAI tells it. What is answered 409 its SDKs would send again.
LOCKED = "Another process is currently operating on this conversation. Please retry in a few seconds."
Items = Annotated[list[dict[str, Any]], Field(max_length=20, fail_fast=True)]


class ConversationCreate(Input):
    items: Items | None = None
    metadata: Metadata = {}


class ConversationUpdate(Input):
    metadata: Metadata


class ItemsCreate(Input):
    items: Items


def shown(thread: ThreadRecord) -> dict[str, Any]:
    return {
        "id": thread.id,
        "object": "conversation",
        "created_at": unix(thread.created_at),
        "metadata": dict(thread.metadata),
    }


@router.post("/conversations")
async def create_conversation(context: Ctx, body: ConversationCreate | None = None) -> Response:
    body = body or ConversationCreate()
    messages = await ingest.prepare(context.runtime, drafts(body.items or [], "items"), context.now)

    async def effect(session: Session) -> Any:
        id_ = new_id("conv", context.now)
        return shown(
            await threads.create(session, fields={}, metadata=body.metadata, messages=messages, now=context.now, id=id_)
        )

    return await once(context, effect)


@router.get("/conversations/{conversation_id}")
async def get_conversation(context: Ctx, conversation_id: str) -> Response:
    async with context.runtime.db.read_only(context.project_id) as session:
        return json_response(shown(await store.get_thread(session, conversation_id)))


@router.post("/conversations/{conversation_id}")
async def update_conversation(context: Ctx, conversation_id: str, body: ConversationUpdate) -> Response:
    async def effect(session: Session) -> Any:
        before = await store.get_thread(session, conversation_id, lock=True)
        metadata = render.new_metadata(before.metadata, body)
        return shown(await store.update_thread(session, before.pk, fields={}, metadata=metadata))

    return await once(context, effect)


@router.delete("/conversations/{conversation_id}")
async def delete_conversation(context: Ctx, conversation_id: str) -> Response:
    async def effect(session: Session) -> Any:
        await store.delete_thread(session, conversation_id)
        return render.deleted(conversation_id, "conversation")

    return await once(context, effect)


@router.post("/conversations/{conversation_id}/items")
async def create_items(context: Ctx, conversation_id: str, body: ItemsCreate) -> Response:
    given = drafts(body.items, "items")
    messages = await ingest.prepare(context.runtime, given, context.now)

    async def effect(session: Session) -> Any:
        thread = await store.get_thread(session, conversation_id, lock=True)
        added = await ingest.append(session, thread, messages, [draft.field for draft in given]) if messages else []
        return list_of([one.item for record in added for one in shown_items(record)], has_more=False)

    with told_when_locked(LOCKED, code="conversation_locked", param="conversation"):
        return await once(context, effect)


@router.get("/conversations/{conversation_id}/items")
async def list_items(context: Ctx, conversation_id: str, page: PageAsked) -> Response:
    async with context.runtime.db.read_only(context.project_id) as session:
        thread = await store.get_thread(session, conversation_id)
        found, has_more = await items_page(session, thread.pk, page)
    return json_response(list_of([one.item for one in found], has_more=has_more))


async def items_page(session: Session, thread_pk: int, page: PageQuery) -> tuple[list[ShownItem], bool]:
    """A page of items. Its cursor may stand inside a message, or in one that was deleted."""
    asked = replace(page, limit=page.limit + 1, before=None)
    records: list[MessageRecord] = []
    if page.after is not None:
        cursor = await _message_of(session, thread_pk, page.after)
        records = [cursor] if cursor else []
        asked = replace(asked, after=cursor.id if cursor else message_id(page.after))
    records += (await message_store.list_messages(session, thread_pk, asked)).items
    items = [one for record in records for one in _ordered(record, page)]
    ids = [one.id for one in items]
    since = ids.index(page.after) + 1 if page.after in ids else 0
    return items[since : since + page.limit], len(items) > since + page.limit


def _ordered(record: MessageRecord, page: PageQuery) -> list[ShownItem]:
    return shown_items(record)[:: 1 if page.order == "asc" else -1]


async def _message_of(session: Session, thread_pk: int, item_id: str) -> MessageRecord | None:
    found = await message_store.find_message(session, thread_pk, item_id)
    return found or await message_store.find_message(session, thread_pk, message_id(item_id))


async def _item(session: Session, thread: ThreadRecord, item_id: str) -> tuple[MessageRecord, ShownItem]:
    """Raises NotFound."""
    record = await _message_of(session, thread.pk, item_id)
    for one in shown_items(record) if record else ():
        if record and one.id == item_id:
            return record, one
    raise NotFound(f"There is no item {item_id[:64]!r} in this conversation.", field="item_id")


@router.get("/conversations/{conversation_id}/items/{item_id}")
async def get_item(context: Ctx, conversation_id: str, item_id: str) -> Response:
    async with context.runtime.db.read_only(context.project_id) as session:
        thread = await store.get_thread(session, conversation_id)
        return json_response((await _item(session, thread, item_id))[1].item)


@router.delete("/conversations/{conversation_id}/items/{item_id}")
async def delete_item(context: Ctx, conversation_id: str, item_id: str) -> Response:
    """Answers with the conversation, as OpenAI does."""

    async def effect(session: Session) -> Any:
        thread = await store.get_thread(session, conversation_id, lock=True)
        record, one = await _item(session, thread, item_id)
        await _remove(context, session, thread, record, one)
        return shown(thread)

    with told_when_locked(LOCKED, code="conversation_locked", param="conversation"):
        return await once(context, effect)


async def _remove(
    context: Context, session: Session, thread: ThreadRecord, record: MessageRecord, one: ShownItem
) -> None:
    """The message, or of one that is more than the item, its blocks."""
    left: list[Mapping[str, Any]] = [
        block for index, block in enumerate(loads(record.content)) if index not in one.blocks
    ]
    if not left:
        await ingest.delete(session, thread, record, context.now)
        return
    draft = ingest.Draft(record.role, left, "", {}, id=record.id)
    await ingest.edit(session, thread, record, ingest.prepare_one(context.runtime.counter, draft, context.now), {})
