"""What all routes at `/openai/v1` have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel, BeforeValidator, ConfigDict

from memory_service.api import schemas
from memory_service.api.openai.errors import PREFIX
from memory_service.api.routing import AuthenticatedRoute
from memory_service.core.canonical import dumps
from memory_service.store.pages import Order, Page, PageQuery

T = TypeVar("T")
MAX_LIMIT = 100
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"event: done\ndata: [DONE]\n\n"


def new_router() -> APIRouter:
    """Of authenticated routes. Query parameters that a route does not know are ignored, as OpenAI ignores them. The
    routes are described by OpenAI's own document, and so are in none of ours."""
    return APIRouter(prefix=PREFIX, route_class=AuthenticatedRoute, include_in_schema=False)


class Input(BaseModel):
    """A body. Fields that are not known are ignored: newer SDKs may send some."""

    model_config = ConfigDict(extra="ignore", strict=True)


#: `null` is no metadata.
Metadata = Annotated[schemas.Metadata, BeforeValidator(lambda value: {} if value is None else value)]


def page_query(
    limit: Annotated[int, Query()] = 20,
    order: Annotated[Order, Query()] = "desc",
    after: Annotated[str | None, Query()] = None,
    before: Annotated[str | None, Query()] = None,
) -> PageQuery:
    """A limit beyond the bounds is the nearest within, next to an unknown id there is nothing, an empty one is none, and of
    two cursors `after` counts."""
    return PageQuery(
        min(max(limit, 1), MAX_LIMIT), order, after or None, None if after else before or None, lenient=True
    )


PageAsked = Annotated[PageQuery, Depends(page_query)]


def list_object(found: Page[T], render: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    return list_of([render(item) for item in found.items], has_more=found.has_more)


def list_of(rendered: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Ids of an empty page are "", since strict clients take no null."""
    return {
        "object": "list",
        "data": list(rendered),
        "first_id": rendered[0]["id"] if rendered else "",
        "last_id": rendered[-1]["id"] if rendered else "",
        "has_more": has_more,
    }


def page_of(items: Sequence[T], query: PageQuery, id_of: Callable[[T], str]) -> Page[T]:
    """A page of what is in memory whole, oldest first."""
    ordered = list(items) if query.order == "asc" else list(items)[::-1]
    ids = [id_of(item) for item in ordered]
    cursor = query.after or query.before
    if cursor is not None and cursor not in ids:
        return Page((), False)
    if query.before is not None:
        until = ids.index(query.before)
        return Page(tuple(ordered[max(0, until - query.limit) : until]), until > query.limit)
    since = ids.index(query.after) + 1 if query.after is not None else 0
    return Page(tuple(ordered[since : since + query.limit]), len(ordered) > since + query.limit)


def unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def event(name: str | None, data: Any) -> bytes:
    """One server-sent event; `data` is the object itself, an error `{"error": …}`."""
    return format_sse_event(data_str=dumps(data), event=name)


def event_stream(written: AsyncIterator[bytes]) -> StreamingResponse:
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(written, headers=headers, media_type="text/event-stream")
