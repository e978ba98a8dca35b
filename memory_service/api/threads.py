"""Threads, their messages, and search."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from memory_service.api import answers, render, schemas
from memory_service.api.deps import Ctx, NewestFirst, OldestFirst, json_response, once
from memory_service.api.routing import CanonicalRoute
from memory_service.core.canonical import dumps
from memory_service.core.content import check_tools
from memory_service.errors import InvalidInput
from memory_service.services import ingest, search, threads
from memory_service.services.holding import follow
from memory_service.services.ingest import Draft
from memory_service.store import messages as message_store
from memory_service.store import threads as thread_store
from memory_service.store.db import Session
from memory_service.store.embedding import count_pending
from memory_service.store.threads import ThreadRecord

router = APIRouter(prefix="/v1", route_class=CanonicalRoute, tags=["threads"])
_METADATA_FILTER = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)
_METADATA_PARAMETER: dict[str, Any] = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": "`metadata[k]=v`: only threads with this pair.",
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
}


def thread_fields(body: schemas.ThreadFields) -> dict[str, Any]:
    """The columns that a request sets, with JSON in canonical form."""
    fields = {name: getattr(body, name) for name in thread_store.THREAD_FIELDS & body.model_fields_set}
    if fields.get("tools") is not None:
        fields["tools"] = dumps(check_tools(fields["tools"], "tools"))
    for name in ("documents", "truncation_strategy"):
        if fields.get(name) is not None:
            value = fields[name]
            plain = (
                [d.model_dump() for d in value] if isinstance(value, list) else value.model_dump(exclude_defaults=True)
            )
            fields[name] = dumps(plain)
    return fields


def draft(message: schemas.MessageInput, field: str) -> Draft:
    return Draft(message.role, message.content, field, message.metadata)


async def _thread(session: Session, record: ThreadRecord) -> dict[str, Any]:
    pending = await count_pending(session, [record.pk])
    return render.thread(record, pending.get(record.pk, 0))


@router.post("/threads", status_code=201, response_model=answers.Thread)
async def create_thread(context: Ctx, body: schemas.ThreadCreate | None = None) -> Response:
    """Create a thread, with its first messages if given."""
    body = body or schemas.ThreadCreate()
    drafts = [draft(message, f"messages[{i}].") for i, message in enumerate(body.messages)]
    messages = await ingest.prepare(context.runtime, drafts, context.now)
    fields = thread_fields(body)

    async def effect(session: Session) -> Any:
        created = await threads.create(
            session, fields=fields, metadata=body.metadata, messages=messages, now=context.now
        )
        return await _thread(session, created)

    return await once(context, effect, status=201)


@router.get(
    "/threads",
    response_model=answers.Page[answers.Thread],
    openapi_extra={"parameters": [_METADATA_PARAMETER]},
)
async def list_threads(
    context: Ctx,
    page: NewestFirst,
    request: Request,
    user_id: Annotated[str | None, Query(max_length=256)] = None,
) -> Response:
    """List threads, newest first."""
    metadata = {}
    for name, value in request.query_params.multi_items():
        if name.startswith("metadata"):
            match = _METADATA_FILTER.fullmatch(name)
            if match is None or match[1] in metadata:
                raise InvalidInput("Filter by metadata as metadata[key]=value, once for each key.", field="metadata")
            metadata[match[1]] = value
    async with context.runtime.db.read_only(context.project_id) as session:
        found = await thread_store.list_threads(session, page, user_id=user_id, metadata=metadata)
        pending = await count_pending(session, [thread.pk for thread in found.items])
    return json_response(render.page(found, lambda thread: render.thread(thread, pending.get(thread.pk, 0))))


@router.get("/threads/{thread_id}", response_model=answers.Thread)
async def get_thread(context: Ctx, thread_id: str) -> Response:
    """One thread, without its messages."""
    async with context.runtime.db.read_only(context.project_id) as session:
        return json_response(await _thread(session, await thread_store.get_thread(session, thread_id)))


@router.patch("/threads/{thread_id}", response_model=answers.Thread)
async def update_thread(context: Ctx, thread_id: str, body: schemas.ThreadUpdate) -> Response:
    """Set what is given; null clears. Metadata is merged, null removes a key."""
    fields, metadata = thread_fields(body), body.metadata or {}

    async def effect(session: Session) -> Any:
        thread = await thread_store.get_thread(session, thread_id, lock=True)
        if fields.get("assistant_id"):
            await thread_store.get_assistant(session, fields["assistant_id"], lock="FOR KEY SHARE")
        updated = await thread_store.update_thread(session, thread.pk, fields=fields, metadata=metadata)
        check_metadata_size(updated.metadata)
        return await _thread(session, updated)

    return await once(context, effect)


@router.delete("/threads/{thread_id}", response_model=answers.Deleted)
async def delete_thread(context: Ctx, thread_id: str) -> Response:
    """Delete a thread with all its messages and prompts."""

    async def effect(session: Session) -> Any:
        await thread_store.delete_thread(session, thread_id)
        return {"id": thread_id, "object": "thread.deleted", "deleted": True}

    return await once(context, effect)


@router.post("/threads/{thread_id}/fork", status_code=201, response_model=answers.Thread)
async def fork_thread(context: Ctx, thread_id: str, body: schemas.ForkInput) -> Response:
    """A new thread with a copy of the history up to and including `seq`, and of all else that the body does not name."""
    fields = thread_fields(body)

    async def effect(session: Session) -> Any:
        return await _thread(
            session, await threads.fork(session, thread_id, body.seq, fields, body.metadata, context.now)
        )

    return await once(context, effect, status=201)


@router.post("/threads/{thread_id}/messages", status_code=201, response_model=answers.MessageList)
async def append_messages(context: Ctx, thread_id: str, body: schemas.MessagesCreate) -> Response:
    """Append one message or several: all or none."""
    drafts = _drafts(body)
    messages = await ingest.prepare(context.runtime, drafts, context.now)

    async def effect(session: Session) -> Any:
        thread = await thread_store.get_thread(session, thread_id, lock=True)
        records = await ingest.append(session, thread, messages, [d.field for d in drafts])
        follow(context.runtime, session, thread, records)
        return {"object": "list", "data": [render.message(record, thread_id) for record in records]}

    return await once(context, effect, status=201)


def _drafts(body: schemas.MessagesCreate) -> list[Draft]:
    if body.messages is not None:
        return [draft(message, f"messages[{i}].") for i, message in enumerate(body.messages)]
    assert body.role is not None
    return [Draft(body.role, body.content, "", body.metadata or {})]


@router.get("/threads/{thread_id}/messages", response_model=answers.Page[answers.Message])
async def list_messages(context: Ctx, page: OldestFirst, thread_id: str) -> Response:
    """List messages by `seq`, oldest first."""
    async with context.runtime.db.read_only(context.project_id) as session:
        thread = await thread_store.get_thread(session, thread_id)
        found = await message_store.list_messages(session, thread.pk, page)
    return json_response(render.page(found, lambda record: render.message(record, thread_id)))


@router.get("/threads/{thread_id}/messages/{message_id}", response_model=answers.Message)
async def get_message(context: Ctx, thread_id: str, message_id: str) -> Response:
    """One message."""
    async with context.runtime.db.read_only(context.project_id) as session:
        thread = await thread_store.get_thread(session, thread_id)
        record = await message_store.get_message(session, thread.pk, message_id)
    return json_response(render.message(record, thread_id))


@router.patch("/threads/{thread_id}/messages/{message_id}", response_model=answers.Message)
async def update_message(context: Ctx, thread_id: str, message_id: str, body: schemas.MessageUpdate) -> Response:
    """Give a message new content, or change its metadata. New content breaks the prompt's prefix from there on."""
    async with context.runtime.db.read_only(context.project_id) as session:
        thread = await thread_store.get_thread(session, thread_id)
        role = (await message_store.get_message(session, thread.pk, message_id)).role
    drafts = [Draft(role, body.content, "", {}, id=message_id)] if body.content is not None else []
    prepared = await ingest.prepare(context.runtime, drafts, context.now)
    metadata = body.metadata or {}

    async def effect(session: Session) -> Any:
        thread = await thread_store.get_thread(session, thread_id, lock=True)
        message = await message_store.get_message(session, thread.pk, message_id)
        edited = await ingest.edit(session, thread, message, prepared[0] if prepared else None, metadata)
        check_metadata_size(edited.metadata or {})
        return render.message(edited, thread_id)

    return await once(context, effect)


@router.delete("/threads/{thread_id}/messages/{message_id}", response_model=answers.Deleted)
async def delete_message(context: Ctx, thread_id: str, message_id: str) -> Response:
    """Delete a message. Its `seq` stays unused, and the prompt's prefix breaks from there on."""

    async def effect(session: Session) -> Any:
        thread = await thread_store.get_thread(session, thread_id, lock=True)
        message = await message_store.get_message(session, thread.pk, message_id)
        await ingest.delete(session, thread, message, context.now)
        return {"id": message_id, "object": "message.deleted", "deleted": True}

    return await once(context, effect)


@router.get("/threads/{thread_id}/search", response_model=answers.SearchHits)
async def search_thread(
    context: Ctx,
    thread_id: str,
    q: Annotated[str, Query(min_length=1, max_length=10_000, description="What to look for.")],
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Response:
    """The messages of a thread that fit best, the newest included."""
    return json_response(
        render.search_hits(await search.search_thread(context.runtime, context.project_id, thread_id, q, limit))
    )


@router.post("/search", response_model=answers.SearchHits)
async def search_user(context: Ctx, body: schemas.SearchInput) -> Response:
    """The messages that fit best in all threads of an end user."""
    found = await search.search_user(context.runtime, context.project_id, body.user_id, body.q, body.limit)
    return json_response(render.search_hits(found))


def check_metadata_size(merged: Mapping[str, str]) -> None:
    """Refuse what a patch made too large, before it is committed."""
    if len(merged) > 16:
        raise InvalidInput(
            f"`metadata` would have {len(merged)} pairs; at most 16 are kept. Remove some with null.",
            field="metadata",
        )
