"""The provider's own count of a request where the estimate alone is not sure, and what such counts teach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory_service.core.canonical import dumps, loads
from memory_service.core.forms import to_request
from memory_service.core.pricing import find_model
from memory_service.core.request import Request
from memory_service.core.tokens import Observation, TokenEstimate
from memory_service.errors import CountUnavailable, PromptTooLarge
from memory_service.runtime import Runtime
from memory_service.services.planning import Plan, prior_estimate
from memory_service.store import prompts as prompt_store
from memory_service.store.db import Session, on_commit
from memory_service.telemetry import logger


@dataclass(frozen=True, slots=True)
class Count:
    """`tokens` by the provider's own count; None, and why, when there is none."""

    tokens: int | None
    reason: str | None = None


def is_unsure(runtime: Runtime, planned: Plan) -> bool:
    """Whether the provider should be asked: it can be, and the model is hardly known or the budget nearly used up."""
    counter, prompt = runtime.token_counter, planned.prompt
    if counter is None or counter.provider != planned.request.provider:
        return False
    estimate = planned.estimate
    near = prompt.tokens.total * (1 + estimate.margin_for(prompt.counts)) > prompt.tokens.limit
    return near or not estimate.calibrated or planned.correction > 1


async def count(runtime: Runtime, planned: Plan) -> Count:
    """Ask for the count of a planned request; in no transaction, because the provider is far away."""
    assert runtime.token_counter
    request: Any = loads(dumps(to_request(planned.request, planned.prompt.layout, planned.thread.id)))
    try:
        tokens = await runtime.token_counter.count_tokens(request)
    except CountUnavailable as error:
        if error.was_asked:
            fields = {"provider": planned.request.provider, "reason": error.message}
            logger.warning("the tokens of a prompt were not counted; they are estimated", extra={"fields": fields})
        return Count(None, error.message)
    if not Observation.of(planned.prompt.counts, tokens).is_possible:
        return Count(None, "not a possible number of tokens")
    return Count(tokens)


def too_large(request: Request, tokens: int) -> PromptTooLarge:
    return PromptTooLarge(
        f"The smallest prompt that was found has {tokens} tokens as {request.provider} counts, but max_prompt_tokens is "
        f"{request.max_prompt_tokens}. Raise max_prompt_tokens or shorten the newest turn, system, tools or context.",
        needed_tokens=tokens,
        max_prompt_tokens=request.max_prompt_tokens,
    )


async def teach(
    session: Session, runtime: Runtime, provider: str, model: str, seen: Sequence[Observation], now: datetime
) -> None:
    """Let a model's estimate learn; in the caller's transaction."""
    held = await prompt_store.get_estimate(session, provider, model, lock=True)
    await teach_held(session, runtime, provider, model, held, seen, now)


async def teach_held(
    session: Session,
    runtime: Runtime,
    provider: str,
    model: str,
    held: TokenEstimate | None,
    seen: Sequence[Observation],
    now: datetime,
) -> None:
    """As `teach`, of an estimate that this transaction has read and locked. It posts what it writes."""
    estimate: TokenEstimate = held or prior_estimate(find_model(runtime.models, provider, model))
    for observation in seen:
        estimate = estimate.observe(observation.counts, observation.reported_tokens)
    await prompt_store.save_estimate(session, provider, model, estimate, now)
    project_id = session.info["project_id"]
    on_commit(session, lambda: runtime.estimates.leave(project_id, provider, model, held, estimate))
