from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

from memory_client._encode import Content, JSONObject, MessageInput, user_message
from memory_client._endpoints._paging import Order, page_query
from memory_client._errors import RunFailedError, ToolRoundTripsError
from memory_client._following import Follow, events_request
from memory_client._request import Request, api_path, get, nothing, post
from memory_client.objects import Listing, listing_of
from memory_client.runs import ChatReply, Run
from memory_client.tools import Toolbox

MAX_ROUND_TRIPS = 20


class RunFields(TypedDict, total=False):
    """What a run may be told, beside its message and its tools. What is left out, thread, assistant or service decide.

    `parameters` are added to the provider's request as they are (`{"temperature": 0.2}`), `context` stands before the
    question and is not kept, `run_budget` bounds all calls together (`prompt_tokens`, `completion_tokens`, `cost_usd`).
    """

    model: str | None
    provider: str | None
    max_prompt_tokens: int | None
    max_output_tokens: int | None
    truncation_strategy: Mapping[str, Any] | None
    recall: Mapping[str, Any] | Literal[False] | None
    context: Sequence[JSONObject] | None
    cache: Mapping[str, Any] | Literal[False] | None
    parameters: Mapping[str, Any] | None
    run_budget: Mapping[str, Any] | None
    timeout_seconds: float | None
    tool_timeout_seconds: float | None
    on_busy: Literal["refuse", "queue"] | None
    metadata: Mapping[str, str] | None


def create(
    thread_id: str,
    message: MessageInput | Content | None = None,
    *,
    tools: Sequence[JSONObject] | None = None,
    wait: bool = False,
    idempotency_key: str | None = None,
    **fields: Unpack[RunFields],
) -> Request[Run] | Follow:
    """Execute a model on the thread; `message` is appended first. `RunFields` lists what else it takes.

    Returns the Run at once; with `wait`, when it has stopped: ended, or waiting for tool outputs.
    """
    path, body = _runs_path(thread_id), _body(message, tools, fields)
    if wait:
        return Follow(post(path, nothing, {**body, "stream": True}, idempotency_key), thread_id)
    return post(path, Run.from_json, body, idempotency_key)


def stream(
    thread_id: str,
    message: MessageInput | Content | None = None,
    *,
    tools: Sequence[JSONObject] | None = None,
    idempotency_key: str | None = None,
    **fields: Unpack[RunFields],
) -> Follow:
    """Execute a model on the thread and follow it. Nothing is sent until the result is iterated."""
    body = _body(message, tools, fields)
    return Follow(post(_runs_path(thread_id), nothing, {**body, "stream": True}, idempotency_key), thread_id)


def resume(thread_id: str, run_id: str, *, after: int | None = None) -> Follow:
    """Follow a run behind an event (`after=event.seq`), or from its beginning."""
    return Follow(events_request(thread_id, run_id, after), thread_id, run_id, after)


def get_(thread_id: str, run_id: str) -> Request[Run]:
    return get(_run_path(thread_id, run_id), Run.from_json)


def list_(
    thread_id: str,
    *,
    limit: int | None = None,
    after: str | None = None,
    before: str | None = None,
    order: Order | None = None,
) -> Request[Listing[Run]]:
    """List runs, newest first, without their replies. Returns a page; iterating it walks all."""
    return get(_runs_path(thread_id), listing_of(Run), page_query(limit, after, before, order))


def cancel(thread_id: str, run_id: str) -> Request[Run]:
    """Stop a run. What the model had said is kept, as an `incomplete` message."""
    return post(_run_path(thread_id, run_id) + "/cancel", Run.from_json, {}, None)


def submit_tool_outputs(
    thread_id: str,
    run_id: str,
    tool_outputs: Sequence[JSONObject],
    *,
    wait: bool = False,
    idempotency_key: str | None = None,
) -> Request[Run] | Follow:
    """Give a run the outputs of all calls that it waits for: `[{"tool_use_id": …, "content": …, "is_error": …}]`."""
    if wait:
        return stream_tool_outputs(thread_id, run_id, tool_outputs, idempotency_key=idempotency_key)
    path = _run_path(thread_id, run_id) + "/tool_outputs"
    return post(path, Run.from_json, {"tool_outputs": tool_outputs}, idempotency_key)


def stream_tool_outputs(
    thread_id: str, run_id: str, tool_outputs: Sequence[JSONObject], *, idempotency_key: str | None = None
) -> Follow:
    """Give a run the outputs of all calls that it waits for, and follow it on. Nothing is sent until it is iterated."""
    body = {"tool_outputs": tool_outputs, "stream": True}
    return Follow(
        post(_run_path(thread_id, run_id) + "/tool_outputs", nothing, body, idempotency_key), thread_id, run_id
    )


@dataclass(frozen=True)
class ToolLoop:
    """A run whose tools are functions."""

    start: Follow
    toolbox: Toolbox
    max_round_trips: int

    def can_answer(self, run: Run) -> bool:
        return run.status == "requires_action" and self.toolbox.has_functions

    def too_many(self, run: Run) -> ToolRoundTripsError:
        message = f"the model called tools more than {self.max_round_trips} times in a row"
        return ToolRoundTripsError("max_round_trips", message, run)

    @staticmethod
    def go_on(run: Run, outputs: Sequence[JSONObject]) -> Follow:
        return stream_tool_outputs(run.thread_id, run.id, outputs)


def run(
    thread_id: str,
    message: MessageInput | Content | None = None,
    *,
    tools: Sequence[Callable[..., Any] | JSONObject] = (),
    max_round_trips: int = MAX_ROUND_TRIPS,
    idempotency_key: str | None = None,
    **fields: Unpack[RunFields],
) -> ToolLoop:
    """Execute a model on the thread with functions as its tools, until it ends. Returns the Run.

    Types and docstrings of the functions describe them to the model. What one raises is told to the model. After
    `max_round_trips` rounds of calls the run is cancelled, and `ToolRoundTripsError` raised.
    """
    toolbox = Toolbox(tools)
    start = stream(thread_id, message, tools=toolbox.definitions or None, idempotency_key=idempotency_key, **fields)
    return ToolLoop(start, toolbox, max_round_trips)


def chat(
    thread_id: str,
    message: MessageInput | Content | None = None,
    *,
    tools: Sequence[Callable[..., Any] | JSONObject] = (),
    max_round_trips: int = MAX_ROUND_TRIPS,
    idempotency_key: str | None = None,
    **fields: Unpack[RunFields],
) -> ToolLoop:
    """Say something and have the reply: `.text`, `.message`, `.usage`, `.run`. Tools are functions, as in `runs.run`.

    A reply that was cut says why (`.incomplete_reason`). Raises `RunFailedError` when there is none.
    """
    return run(
        thread_id,
        message,
        tools=tools,
        max_round_trips=max_round_trips,
        idempotency_key=idempotency_key,
        **fields,
    )


def chat_reply(run: Run) -> ChatReply:
    if run.status in ("completed", "incomplete"):
        return ChatReply(run)
    if run.last_error:
        raise RunFailedError(run.last_error.code, run.last_error.message, run)
    names = ", ".join(call.name for call in run.tool_calls)
    raise RunFailedError(run.status, f"it waits for tools: {names}" if names else f"the run is {run.status}", run)


def _runs_path(thread_id: str) -> str:
    return api_path("threads/{thread_id}/runs", thread_id=thread_id)


def _run_path(thread_id: str, run_id: str) -> str:
    return api_path("threads/{thread_id}/runs/{run_id}", thread_id=thread_id, run_id=run_id)


def _body(
    message: MessageInput | Content | None, tools: Sequence[JSONObject] | None, fields: RunFields
) -> dict[str, object]:
    if unknown := fields.keys() - RunFields.__annotations__.keys():
        raise TypeError(f"a run takes no {min(unknown)!r}: see memory_client.RunFields")
    return {"message": user_message(message), "tools": tools, **fields}
