"""Assistants, as OpenAI has them: a model, instructions and tools that runs name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Response

from memory_service.api.deps import Ctx, json_response, once
from memory_service.api.openai import render, schemas
from memory_service.api.openai.frame import PageAsked, list_object, new_router
from memory_service.api.openai.translate import native_tools
from memory_service.core.canonical import dumps
from memory_service.runtime import new_id
from memory_service.store import threads as store
from memory_service.store.db import Session

router = new_router()
#: Fields that we keep for OpenAI's sake alone. `tools` as they were given, for they may name more than functions.
_OPENAI_ONLY = frozenset(
    {"description", "tool_resources", "temperature", "top_p", "response_format", "reasoning_effort", "tools"}
)


def _columns(body: schemas.AssistantFields, before: Mapping[str, Any]) -> dict[str, Any]:
    """What a request sets; `before` is what was kept for OpenAI's sake."""
    given = body.model_dump(exclude_unset=True, exclude={"metadata"})
    own = {**before, **{name: value for name, value in given.items() if name in _OPENAI_ONLY}}
    columns = {name: value for name, value in given.items() if name not in _OPENAI_ONLY}
    if "instructions" in columns:
        columns["instructions"] = columns["instructions"] or None
    if "tools" in given:
        columns["tools"] = dumps(native_tools(given["tools"]))
    return {**columns, "openai": dumps({name: value for name, value in own.items() if value is not None})}


@router.post("/assistants")
async def create_assistant(context: Ctx, body: schemas.AssistantCreate) -> Response:
    columns = _columns(body, {})

    async def effect(session: Session) -> Any:
        created = await store.create_assistant(
            session, id=new_id("asst", context.now), now=context.now, metadata=body.metadata, fields=columns
        )
        return render.assistant(created)

    return await once(context, effect)


@router.get("/assistants")
async def list_assistants(context: Ctx, page: PageAsked) -> Response:
    async with context.runtime.db.read_only(context.project_id) as session:
        found = await store.list_assistants(session, page)
    return json_response(list_object(found, render.assistant))


@router.get("/assistants/{assistant_id}")
async def get_assistant(context: Ctx, assistant_id: str) -> Response:
    async with context.runtime.db.read_only(context.project_id) as session:
        return json_response(render.assistant(await store.get_assistant(session, assistant_id)))


@router.post("/assistants/{assistant_id}")
async def update_assistant(context: Ctx, assistant_id: str, body: schemas.AssistantUpdate) -> Response:
    async def effect(session: Session) -> Any:
        before = await store.get_assistant(session, assistant_id, lock="FOR UPDATE")
        columns = _columns(body, render.kept(before))
        if columns.get("model", "") is None:
            del columns["model"]
        metadata = render.new_metadata(before.metadata, body)
        return render.assistant(await store.update_assistant(session, assistant_id, fields=columns, metadata=metadata))

    return await once(context, effect)


@router.delete("/assistants/{assistant_id}")
async def delete_assistant(context: Ctx, assistant_id: str) -> Response:
    async def effect(session: Session) -> Any:
        await store.delete_assistant(session, assistant_id)
        return render.deleted(assistant_id, "assistant")

    return await once(context, effect)
