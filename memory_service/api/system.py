"""Is it alive, is it ready."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from memory_service import __version__
from memory_service.api import schemas
from memory_service.runtime import Runtime
from memory_service.store.migrate import head_revision

router = APIRouter(tags=["system"])


@router.get("/healthz", response_model=schemas.Health)
async def healthz() -> Any:
    """The process answers."""
    return {"status": "ok", "version": __version__}


@router.get("/readyz", response_model=schemas.Health)
async def readyz(request: Request) -> Any:
    """The database answers, and is migrated."""
    runtime: Runtime = request.app.state.runtime
    await runtime.db.check(head_revision())
    return {"status": "ok", "version": __version__}
