"""Is it alive, is it ready."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from memory_service import __version__
from memory_service.api import schemas
from memory_service.errors import DatabaseNotReady, Unavailable
from memory_service.runtime import Runtime
from memory_service.store.migrate import head_revision

router = APIRouter(tags=["system"])
_DATABASE_SECONDS = 5


@router.get("/healthz", response_model=schemas.Health)
async def healthz() -> Any:
    """The process answers."""
    return {"status": "ok", "version": __version__}


@router.get("/readyz", response_model=schemas.Health)
async def readyz(request: Request) -> Any:
    """The database answers, and is migrated; the service is not about to stop."""
    if request.app.state.intake.draining:
        raise Unavailable("The service is stopping.", code="draining")
    runtime: Runtime = request.app.state.runtime
    try:
        async with asyncio.timeout(_DATABASE_SECONDS):
            # The worker's connections: where all others are busy the service is busy, and ready.
            await runtime.worker_db.check(head_revision())
    except TimeoutError:
        raise DatabaseNotReady(f"The database has not answered for {_DATABASE_SECONDS} seconds.") from None
    return {"status": "ok", "version": __version__}
