"""Assistants: the part of a prompt that threads share."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from memory_service.api import answers, render, schemas
from memory_service.api.deps import Ctx, NewestFirst, json_response, once
from memory_service.api.routing import CanonicalRoute
from memory_service.api.threads import check_metadata_size
from memory_service.core.canonical import dumps
from memory_service.core.content import check_tools
from memory_service.runtime import new_id
from memory_service.store import threads as thread_store
from memory_service.store.db import Session

router = APIRouter(prefix="/v1", route_class=CanonicalRoute, tags=["assistants"])


def assistant_fields(body: schemas.AssistantCreate) -> dict[str, Any]:
    """The columns that a request sets, with JSON in canonical form."""
    fields = {name: getattr(body, name) for name in thread_store.ASSISTANT_FIELDS & body.model_fields_set}
    if fields.get("tools") is not None:
        fields["tools"] = dumps(check_tools(fields["tools"], "tools"))
    if fields.get("documents") is not None:
        fields["documents"] = dumps([document.model_dump() for document in fields["documents"]])
    if fields.get("defaults") is not None:
        fields["defaults"] = dumps(fields["defaults"].model_dump(exclude_defaults=True))
    return fields


@router.post("/assistants", status_code=201, response_model=answers.Assistant)
async def create_assistant(context: Ctx, body: schemas.AssistantCreate) -> Response:
    """Create an assistant: what its threads have in common, at the front of every prompt."""
    fields = assistant_fields(body)

    async def effect(session: Session) -> Any:
        created = await thread_store.create_assistant(
            session, id=new_id("asst", context.now), now=context.now, metadata=body.metadata, fields=fields
        )
        return render.assistant(created)

    return await once(context, effect, status=201)


@router.get("/assistants", response_model=answers.Page[answers.Assistant])
async def list_assistants(context: Ctx, page: NewestFirst) -> Response:
    """List assistants, newest first."""
    async with context.runtime.db.read_only(context.project_id) as session:
        found = await thread_store.list_assistants(session, page)
    return json_response(render.page(found, render.assistant))


@router.get("/assistants/{assistant_id}", response_model=answers.Assistant)
async def get_assistant(context: Ctx, assistant_id: str) -> Response:
    """One assistant."""
    async with context.runtime.db.read_only(context.project_id) as session:
        return json_response(render.assistant(await thread_store.get_assistant(session, assistant_id)))


@router.patch("/assistants/{assistant_id}", response_model=answers.Assistant)
async def update_assistant(context: Ctx, assistant_id: str, body: schemas.AssistantUpdate) -> Response:
    """Set what is given; null clears. The prefix of every thread that uses the assistant is written anew."""
    fields, metadata = assistant_fields(body), body.metadata or {}

    async def effect(session: Session) -> Any:
        updated = await thread_store.update_assistant(session, assistant_id, fields=fields, metadata=metadata)
        check_metadata_size(updated.metadata)
        return render.assistant(updated)

    return await once(context, effect)


@router.delete("/assistants/{assistant_id}", response_model=answers.Deleted)
async def delete_assistant(context: Ctx, assistant_id: str) -> Response:
    """Delete an assistant that no thread uses."""

    async def effect(session: Session) -> Any:
        await thread_store.delete_assistant(session, assistant_id)
        return {"id": assistant_id, "object": "assistant.deleted", "deleted": True}

    return await once(context, effect)
