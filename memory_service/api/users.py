"""End users: what is held of one, and its erasure.

A user's id is the application's own and may hold anything, a slash too, so it takes the rest of the path. `:path` ends at a
line feed, which ids that were stored by earlier versions may hold.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import StreamingResponse
from starlette.convertors import PathConvertor, register_url_convertor

from memory_service.api import answers, render
from memory_service.api.deps import Ctx, json_response
from memory_service.api.routing import CanonicalRoute
from memory_service.api.transfer import NDJSON
from memory_service.services import users
from memory_service.store import users as user_store


class _Rest(PathConvertor):
    regex = r"[\s\S]*"


register_url_convertor("rest", _Rest())
router = APIRouter(prefix="/v1", route_class=CanonicalRoute, tags=["users"])
UserId = Annotated[str, Path(min_length=1, max_length=256, description="As given as `user_id` of threads.")]
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"model": answers.User, "content": {NDJSON: {"schema": {"type": "string"}}}}
}


@router.get("/users/{user_id:rest}", response_model=answers.User, responses=_CONTENT)
async def get_user(
    context: Ctx,
    user_id: UserId,
    format: Annotated[
        Literal["summary", "ndjson"],
        Query(description="`ndjson`: all of it, a JSON object a line. POST /v1/import takes the threads in again."),
    ] = "summary",
) -> Response:
    """What is held of an end user: how much, or all of it."""
    if format == "ndjson":
        lines = users.export(context.runtime, context.project_id, user_id)
        return StreamingResponse(lines, media_type=NDJSON)
    async with context.runtime.db.read_only(context.project_id) as session:
        return json_response(render.user(user_id, await user_store.count(session, user_id)))


@router.delete("/users/{user_id:rest}", response_model=answers.DeletedUser)
async def delete_user(context: Ctx, user_id: UserId) -> Response:
    """Erase an end user: threads, messages, prompts, all. The ledger keeps what was billed, and forgets for whom. What was
    cut off is finished by the next call."""
    erased = await users.erase(context.runtime, context.project_id, user_id)
    return json_response(
        {
            "id": user_id,
            "object": "user.deleted",
            "deleted": True,
            "thread_count": erased.threads,
            "message_count": erased.messages,
            "prompt_count": erased.prompts,
        }
    )
