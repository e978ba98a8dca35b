"""The application: routes, edge, and what runs beside them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from memory_service import __version__
from memory_service.api import answers, assistants, estimates, prompts, runs, system, threads, transfer, usage, users
from memory_service.api.edge import Edge
from memory_service.api.errors import add_error_handlers
from memory_service.api.intake import Intake
from memory_service.api.limits import Limits
from memory_service.api.openai.routers import openai_routers
from memory_service.config import Settings
from memory_service.runtime import Runtime
from memory_service.services import retention
from memory_service.services.embedding import EmbeddingLoop
from memory_service.services.execution import Runner

# For the OpenAPI document; `deps` is what looks at the key.
_BEARER = HTTPBearer(scheme_name="api_key", description="`msk_…`, or the header x-api-key.", auto_error=False)
_DESCRIPTION = (
    "Conversation threads in, prompts with a warm prefix out. A POST may carry an `Idempotency-Key` of at most 255 "
    "characters: sent again within 24 hours with the same body, it is answered as before and has no second effect."
)
_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": answers.ErrorBody, "description": "The request must be changed; the message says how."},
    "5XX": {"model": answers.ErrorBody, "description": "Something on this side; send the request again."},
}


def create_app(settings: Settings, open_runtime: Callable[[], Runtime]) -> Edge:
    """`open_runtime` is called in the event loop that serves, and what it returns is closed when serving ends."""
    intake = Intake()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runtime = app.state.runtime = open_runtime()
        loading = asyncio.gather(asyncio.to_thread(runtime.counter.count, "x"), runtime.chat.load())
        loading.add_done_callback(lambda _: _leave_alone())
        runner = app.state.runner = Runner(runtime, intake.taken, lambda: intake.draining)
        beside = [
            asyncio.create_task(retention.run(runtime)),
            asyncio.create_task(EmbeddingLoop(runtime).run()),
            asyncio.create_task(runner.run()),
        ]
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(loading, *beside, return_exceptions=True)
            await runtime.close()

    app = FastAPI(
        title="memory-service",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        responses=_ERRORS,
        generate_unique_id_function=_operation_id,
        docs_url=None,  # its page would load scripts from a stranger's server
        redirect_slashes=False,  # `GET /threads/` is an id that got lost, not the list
        redoc_url=None,
    )
    for module in (threads, prompts, runs, assistants, users, estimates, usage, transfer):
        app.include_router(module.router, dependencies=[Security(_BEARER)])
    for router in openai_routers:
        app.include_router(router)
    app.include_router(system.router)
    add_error_handlers(app)
    app.state.intake = intake
    app.state.limits = Limits(requests=settings.requests_per_minute, wrong_keys=settings.wrong_keys_per_minute)
    return Edge(
        app,
        intake,
        lambda: app.state.runner.stop(),
        max_body_bytes=settings.max_body_bytes,
        body_timeout_seconds=settings.body_timeout_seconds,
    )


def _leave_alone() -> None:
    """What was loaded stays: to look through all of it for garbage again and again would stop every request meanwhile."""
    gc.collect()
    gc.freeze()


def _operation_id(route: APIRoute) -> str:
    return route.name
