"""What every route starts from: who asks, when, and whether it is a repetition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import nan
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.responses import Response

from memory_service.api.routing import MAX_IDEMPOTENCY_KEY_CHARACTERS
from memory_service.core.canonical import Raw, check_text, dumps
from memory_service.errors import InvalidInput, NotFound
from memory_service.runtime import Runtime, now_utc
from memory_service.services.execution import Runner
from memory_service.store import idempotency
from memory_service.store.db import Session
from memory_service.store.idempotency import Answer, IdempotentCall
from memory_service.store.pages import Order, PageQuery

# Times outside are taken for mistakes; there is room for what is added to a time or taken from it.
FIRST_MOMENT, LAST_MOMENT = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Context:
    """One authenticated request. `call` is set for a POST with an Idempotency-Key."""

    runtime: Runtime
    runner: Runner
    project_id: int
    now: datetime
    call: IdempotentCall | None


async def get_context(request: Request) -> Context:
    runtime: Runtime = request.app.state.runtime
    for name, value in request.query_params.multi_items():
        check_text(name, "query")
        check_text(value, name)
    if any("\0" in str(value) for value in request.path_params.values()):
        raise NotFound("No id contains U+0000.")
    call = None
    key = request.headers.get("idempotency-key")
    if key is not None and request.method == "POST":
        if not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY_CHARACTERS:
            raise InvalidInput(
                f"Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} characters.",
                code="invalid_header",
                field="Idempotency-Key",
            )
        call = IdempotentCall(request.method, request.url.path, key, await _body_for_hash(request))
    return Context(runtime, request.app.state.runner, request.state.project_id, _now(request, runtime), call)


async def _body_for_hash(request: Request) -> bytes:
    # An import's body may be large, and is read as a stream by its route.
    return b"" if request.url.path.endswith("/import") else await request.body()


def _now(request: Request, runtime: Runtime) -> datetime:
    given = request.headers.get("x-memory-now")
    if given is None or runtime.settings.clock != "request":
        return now_utc()
    try:
        seconds = float(given)
    except ValueError:
        seconds = nan
    if not FIRST_MOMENT.timestamp() <= seconds <= LAST_MOMENT.timestamp():
        raise InvalidInput(
            "x-memory-now must be a time in seconds since 1970.", code="invalid_header", field="x-memory-now"
        )
    return datetime.fromtimestamp(seconds, UTC)


def page_query(default_order: Order) -> Callable[..., PageQuery]:
    def query(
        limit: Annotated[int, Query(ge=1, le=100, description="Items on a page.")] = 20,
        order: Annotated[Order, Query(description="Direction of time.")] = default_order,
        after: Annotated[str | None, Query(description="Id of the item before the page.", max_length=256)] = None,
        before: Annotated[str | None, Query(description="Id of the item behind the page.", max_length=256)] = None,
    ) -> PageQuery:
        return PageQuery(limit, order, after, before)

    return query


async def once(context: Context, effect: Callable[[Session], Awaitable[Any]], *, status: int = 200) -> Response:
    """Run `effect` in a transaction and answer with what it returns; a repeated call gets the first answer again."""
    async with context.runtime.db.transaction(context.project_id) as session:
        if context.call and (answer := await idempotency.claim(session, context.call, context.now)):
            return json_response(Raw(answer.body), answer.status)
        body = dumps(await effect(session))
        if context.call:
            await idempotency.record(session, context.call, Answer(status, body), context.now)
    return json_response(Raw(body), status)


def json_response(body: Any, status: int = 200) -> Response:
    return Response(dumps(body), status, media_type="application/json")


Ctx = Annotated[Context, Depends(get_context)]
NewestFirst = Annotated[PageQuery, Depends(page_query("desc"))]
OldestFirst = Annotated[PageQuery, Depends(page_query("asc"))]
