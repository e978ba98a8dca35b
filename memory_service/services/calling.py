"""One call of a model for a run: build the prompt, ask, listen. No database connection is held while a model works."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from memory_service.core.canonical import loads
from memory_service.core.lane import Lane
from memory_service.core.messages import extend_tail
from memory_service.core.runs import Spent, exhausted, outcome, output_limit, tool_calls
from memory_service.errors import MemoryServiceError, PromptTooLarge, ProviderError
from memory_service.providers.base import ChatProvider, ModelCall, Reply
from memory_service.runtime import Runtime
from memory_service.services import prompts
from memory_service.services.explaining import BuiltPrompt
from memory_service.services.journal import RunLog
from memory_service.services.planning import DEFAULT_MAX_OUTPUT_TOKENS, PromptSpec
from memory_service.services.run_spec import RunSpec
from memory_service.store.messages import NewMessage
from memory_service.store.prompts import PromptRecord
from memory_service.store.runs import RunRecord
from memory_service.store.threads import ThreadRecord
from memory_service.telemetry import logger, metrics

_MAX_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 15.0
# A provider may ask for more patience than anybody has.
_LONGEST_RETRY_AFTER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Left:
    """A thread as what began its run left it, with the prompt that was stored then, its lane, and how it is shown."""

    thread: ThreadRecord
    prompt: PromptRecord
    lane: Lane
    shown: BuiltPrompt


@dataclass(slots=True)
class Job:
    """A stretch of work on a run: from when it is asked something until it answers. `clock` is the time by which it goes.

    `heard` holds texts by content block, as far as they came.
    """

    project_id: int
    thread_id: str
    run: RunRecord
    spec: RunSpec
    log: RunLog
    clock: Callable[[], datetime]
    message_id: str
    began: float = field(default_factory=time.monotonic)
    left: Left | None = None
    prompt: BuiltPrompt | None = None
    heard: dict[int, list[str]] = field(default_factory=dict)

    @property
    def spent(self) -> Spent:
        """Before this stretch."""
        return Spent(**loads(self.run.spent))

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def heard_blocks(self) -> list[dict[str, Any]]:
        return text_blocks("".join(pieces) for _, pieces in sorted(self.heard.items()))


@dataclass(frozen=True, slots=True)
class Ending:
    """How a stretch of work ended. `reply` is None when the model did not finish it."""

    status: str
    reply: Reply | None = None
    error: Mapping[str, Any] | None = None
    incomplete_reason: str | None = None


def left_by(run: RunRecord, prompt: PromptRecord, thread: ThreadRecord, messages: Sequence[NewMessage]) -> ThreadRecord:
    """A thread behind the transaction that appended `messages`, began a run and stored its prompt."""
    tail = thread.tail
    for message in messages:
        tail = extend_tail(tail, message.role, message.outline, "message.content")
    return replace(
        thread,
        version=prompt.thread_version,
        last_seq=thread.last_seq + len(messages),
        message_count=thread.message_count + len(messages),
        last_role=tail.last_role,
        open_tool_use_ids=tail.open_tool_use_ids,
        active_run_id=run.id,
    )


def text_blocks(texts: Iterable[str]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text} for text in texts if text.strip()]


def error_of(error: MemoryServiceError) -> dict[str, Any]:
    """An error as a run shows it."""
    return {"code": error.code, "message": error.message, "details": error.details}


async def call_model(runtime: Runtime, job: Job) -> Ending:
    """Raises ProviderError, and what building a prompt raises."""
    spec, spent = job.spec, job.spent
    if reason := exhausted(spec.budget, spent, 0):
        return Ending("incomplete", incomplete_reason=reason)
    if job.prompt is None:
        try:
            job.prompt = await _prompt(runtime, job)
        except PromptTooLarge:
            if spec.budget.prompt_tokens is None or (spec.prompt.max_prompt_tokens or 0) < spec.budget.prompt_tokens:
                raise
            return Ending("incomplete", incomplete_reason="prompt_tokens")  # the bound of the prompt is that of the run
        job.log.add(*prompt_built(job.prompt))
    explained = job.prompt.explanation
    if reason := exhausted(spec.budget, spent, explained["tokens"]["total"], explained["prediction"]["cost_usd"]):
        return Ending("incomplete", incomplete_reason=reason)
    provider = runtime.chat.get(job.run.provider)
    reply = await _reply(job, provider, _call(job))
    if provider.name != job.run.provider:
        reply = replace(reply, usage=None)  # the echo stood in: no model was asked, and nothing was used
    status, reason = outcome(reply.stop_reason, tool_calls(reply.content))
    if status == "requires_action" and spec.leaves_calls:
        status = "completed"
    if reason == "max_output_tokens" and _output_limit(spec, spent) != spec.prompt.max_output_tokens:
        reason = "completion_tokens"
    return Ending(status, reply, incomplete_reason=reason)


async def _prompt(runtime: Runtime, job: Job) -> BuiltPrompt:
    # The model that was settled when the run began, whatever its assistant says since.
    spec = replace(prompt_spec(job.spec, job.spent), provider=job.run.provider, model=job.run.model)
    return await prompts.build(
        runtime, job.project_id, job.thread_id, spec, None, job.clock(), dry_run=False, call=None
    )


def prompt_spec(spec: RunSpec, spent: Spent) -> PromptSpec:
    """The prompt of a run that has spent so much."""
    return replace(spec.prompt, max_output_tokens=_output_limit(spec, spent))


def _output_limit(spec: RunSpec, spent: Spent) -> int | None:
    """How long the reply may be; None: as long as by default."""
    if spec.budget.completion_tokens is None:
        return spec.prompt.max_output_tokens
    return output_limit(spec.budget, spent, spec.prompt.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS)


def _call(job: Job) -> ModelCall:
    assert job.prompt
    request: dict[str, Any] = {**(job.prompt.request or {}), **job.spec.parameters}
    return ModelCall(request, job.run.provider_reply_id, cache_salt=f"project-{job.project_id}")


async def _reply(job: Job, provider: ChatProvider, call: ModelCall) -> Reply:
    """What the model says. Tried again as long as nothing was heard and it may help. Raises ProviderError."""
    attempt = 1
    while True:
        try:
            return await _listen(job, provider, call)
        except ProviderError as error:
            metrics.PROVIDER_ERRORS.labels(provider.name, error.code).inc()
            pause = _pause(attempt, error)
            if job.heard or pause is None:
                raise
            fields = {"run": job.run.id, "provider": provider.name, "code": error.code, "attempt": attempt}
            logger.warning("a model could not be called; trying again", extra={"fields": fields})
        attempt += 1
        await asyncio.sleep(pause)


async def _listen(job: Job, provider: ChatProvider, call: ModelCall) -> Reply:
    async with aclosing(provider.stream(call)) as stream:
        async for piece in stream:
            if isinstance(piece, Reply):
                return piece
            pieces = job.heard.setdefault(piece.index, [])
            if piece.type == "text":
                pieces.append(piece.text)
            job.log.add_delta(job.message_id, piece)
    raise AssertionError("a provider ends with a reply, or raises")


def _pause(attempt: int, error: ProviderError) -> float | None:
    """Seconds until the next attempt: as the provider said, else ever longer and not all at once. None: no more."""
    if not error.is_retryable or attempt == _MAX_ATTEMPTS:
        return None
    if error.retry_after_seconds is not None:
        return error.retry_after_seconds if error.retry_after_seconds <= _LONGEST_RETRY_AFTER_SECONDS else None
    longest: float = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempt)
    return longest * random.uniform(0.5, 1)  # noqa: S311 - only to spread the load


def prompt_built(built: BuiltPrompt) -> tuple[str, dict[str, Any]]:
    """What is told of it, by the type of the event. Figures only: the prompt can be read by its id."""
    shown = ("tokens", "prediction", "window", "breaks")
    return "prompt.built", {"prompt_id": built.id, **{key: built.explanation[key] for key in shown}}
