"""What was learnt of each model's tokenizer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from memory_service.api import answers, render
from memory_service.api.deps import Ctx, json_response, once
from memory_service.api.routing import CanonicalRoute
from memory_service.store import prompts as prompt_store
from memory_service.store.db import Session

router = APIRouter(prefix="/v1", route_class=CanonicalRoute, tags=["estimates"])


class Estimate(BaseModel):
    """What was learnt of a model's tokenizer, from usage reports."""

    id: str
    object: Literal["estimate"]
    provider: str
    model: str
    observations: int
    calibrated: bool = Field(description="Whether there were enough observations to rely on it.")
    error: float | None = Field(description="Share by which the newest reports are off the estimate, on average.")
    margin: float = Field(description="Share that is added so that `max_prompt_tokens` is not exceeded.")
    updated_at: str


class Estimates(BaseModel):
    object: Literal["list"]
    data: list[Estimate]


_Name = Annotated[str, Query(min_length=1, max_length=256)]


@router.get("/estimates", response_model=Estimates)
async def list_estimates(context: Ctx) -> Response:
    """The token estimate of every model that reported usage: how many reports it knows, and how far off it is."""
    async with context.runtime.db.read_only(context.project_id) as session:
        found = await prompt_store.list_estimates(session)
    return json_response({"object": "list", "data": [render.estimate(record) for record in found]})


@router.delete("/estimates", response_model=answers.Deleted)
async def reset_estimate(context: Ctx, provider: _Name, model: _Name) -> Response:
    """Forget what was learnt of a model; the next prompts are estimated as for one that never reported."""

    async def effect(session: Session) -> Any:
        await prompt_store.delete_estimate(session, provider, model)
        return {"id": f"{provider}/{model}", "object": "estimate.deleted", "deleted": True}

    return await once(context, effect)
