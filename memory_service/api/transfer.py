"""Export and import as NDJSON."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from memory_service.api import answers
from memory_service.api.deps import Ctx, once
from memory_service.api.lines import lines_of, read_line
from memory_service.api.routing import CanonicalRoute
from memory_service.errors import InvalidInput
from memory_service.services import exports, imports
from memory_service.store.db import Session

router = APIRouter(prefix="/v1", route_class=CanonicalRoute, tags=["transfer"])
NDJSON = "application/x-ndjson"
_IN_MEMORY_BYTES = 1_000_000


@router.get(
    "/threads/{thread_id}/export",
    response_class=StreamingResponse,
    responses={200: {"content": {NDJSON: {"schema": {"type": "string"}}}, "description": "One JSON object a line."}},
)
async def export_thread(context: Ctx, thread_id: str) -> StreamingResponse:
    """The thread, its assistant and its messages, byte for byte."""
    lines = await exports.export_thread(context.runtime, context.project_id, thread_id)
    return StreamingResponse(lines, media_type=NDJSON)


@router.post(
    "/import",
    status_code=201,
    response_model=answers.ImportReport,
    openapi_extra={"requestBody": {"required": True, "content": {NDJSON: {"schema": {"type": "string"}}}}},
)
async def import_lines(
    context: Ctx,
    request: Request,
    ids: Annotated[
        Literal["keep", "fresh", "continue"],
        Query(
            description="Of ids that are taken: `keep` replaces them, `fresh` gives everything a new id, `continue` takes "
            "them for the same things, and adds what is missing behind them."
        ),
    ] = "keep",
) -> Response:
    """Write exported lines, all or none. Ids are kept; one that is taken is replaced, and reported."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as body:
        digest, is_empty = hashlib.sha256(), True
        async for chunk in request.stream():
            digest.update(chunk)
            body.write(chunk)
            is_empty = is_empty and not chunk.strip()
        if is_empty:
            raise InvalidInput("The `body` is empty; send NDJSON: a line for each thread and message.", field="body")
        if context.call:
            context = replace(context, call=replace(context.call, body=digest.digest() + ids.encode()))

        async def effect(session: Session) -> Any:
            body.seek(0)
            lines = lines_of(body, context.runtime.settings.max_body_bytes)
            report = await imports.import_lines(context.runtime, session, lines, read_line, context.now, ids=ids)
            return {"object": "import", **asdict(report)}

        return await once(context, effect, status=201)
