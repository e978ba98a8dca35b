"""Is it alive, is it ready, how is it doing."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from memory_service import __version__
from memory_service.api import answers
from memory_service.api.routing import StrictRoute, authenticate
from memory_service.errors import DatabaseNotReady, Unavailable
from memory_service.runtime import Runtime
from memory_service.store.embedding import count_all_pending
from memory_service.store.migrate import head_revision
from memory_service.telemetry import logger, metrics

router = APIRouter(route_class=StrictRoute, tags=["system"])
_DATABASE_SECONDS = 5


@router.get("/healthz", response_model=answers.Health)
async def healthz() -> Any:
    """The process answers."""
    return {"status": "ok", "version": __version__}


@router.get("/readyz", response_model=answers.Health)
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
        raise _not_ready("silent") from None
    except DatabaseNotReady as error:  # it may tell names and addresses, and anybody may ask
        logger.warning("the database is not ready", extra={"fields": {"reason": error.message}})
        raise _not_ready(str(error.details["reason"])) from None
    return {"status": "ok", "version": __version__}


def _not_ready(reason: str) -> DatabaseNotReady:
    return DatabaseNotReady(f"The database is not ready ({reason}); the log of the service says more.", reason=reason)


@router.get("/metrics", response_class=PlainTextResponse)
async def get_metrics(request: Request) -> Response:
    """For Prometheus. From this machine it needs no key, from elsewhere any that is valid."""
    if not _is_local(request):
        await authenticate(request)
    await _observe(request.app.state.runtime, request.app.state.intake.in_flight)
    return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)


def _is_local(request: Request) -> bool:
    # Behind a proxy that says for whom it asks, this is whom it asks for.
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False


async def _observe(runtime: Runtime, in_flight: int) -> None:
    """Read what is not counted as it happens."""
    metrics.REQUESTS_IN_FLIGHT.set(in_flight)
    for pool, usage in (("app", runtime.db.usage), ("worker", runtime.worker_db.usage)):
        metrics.CONNECTIONS.labels(pool).set(usage.size)
        metrics.CONNECTIONS_IN_USE.labels(pool).set(usage.in_use)
        metrics.CONNECTIONS_WAITING.labels(pool).set(usage.waiting)
    try:
        async with asyncio.timeout(_DATABASE_SECONDS):
            async with runtime.worker_db.read_only(None) as session:
                metrics.PENDING_EMBEDDINGS.set(await count_all_pending(session))
        metrics.DATABASE_UP.set(1)
    except (TimeoutError, Unavailable):
        metrics.DATABASE_UP.set(0)
