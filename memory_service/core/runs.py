"""What a run is asked, what it has spent, and how it ends: pure rules.

queued ─▶ in_progress ─▶ completed | incomplete | failed
             │  ▲  └───▶ cancelling ─▶ cancelled
             ▼  │ tool_outputs
        requires_action ─▶ cancelled | expired
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from memory_service.errors import InvalidInput

Status = Literal[
    "queued",
    "in_progress",
    "requires_action",
    "cancelling",
    "cancelled",
    "completed",
    "incomplete",
    "failed",
    "expired",
]
#: A thread has at most one run in these; it takes no other messages meanwhile.
ACTIVE = ("in_progress", "requires_action", "cancelling")
#: Nothing follows these.
ENDED = frozenset({"cancelled", "completed", "incomplete", "failed", "expired"})
# What the engine decides of a request. All else may be given as `parameters`.
_OURS = frozenset(
    {
        "model", "messages", "system", "tools", "max_tokens", "max_completion_tokens", "max_output_tokens", "stream",
        "stream_options", "cache_control", "prompt_cache_key", "prompt_cache_options", "diagnostics", "n", "store",
        "extra_headers", "extra_query", "extra_body", "timeout",
    }
)  # fmt: skip
_OURS_INSTEAD = {
    "tools": "send `tools` of the run or the thread",
    "system": "set `instructions` of the thread or its assistant",
    "max_tokens": "send `max_output_tokens`",
    "max_completion_tokens": "send `max_output_tokens`",
    "stream": "send `stream` beside `parameters`: whether you are sent a stream",
}


@dataclass(frozen=True, slots=True)
class RunBudget:
    """What all calls of a run may use together; None: no bound."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What the calls of a run have used. `seconds` leaves out the time in which it waited for tool outputs."""

    calls: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    uncached_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    saved_usd: float | None = 0.0
    seconds: float = 0.0

    @property
    def prompt_tokens(self) -> int:
        return self.cache_read_tokens + self.cache_write_tokens + self.uncached_tokens

    def plus(
        self, read: int, written: int, uncached: int, output: int, cost_usd: float | None, saved_usd: float | None
    ) -> Self:
        """After one more call. A price that is not known makes the sum unknown."""
        return replace(
            self,
            calls=self.calls + 1,
            cache_read_tokens=self.cache_read_tokens + read,
            cache_write_tokens=self.cache_write_tokens + written,
            uncached_tokens=self.uncached_tokens + uncached,
            output_tokens=self.output_tokens + output,
            cost_usd=_sum(self.cost_usd, cost_usd),
            saved_usd=_sum(self.saved_usd, saved_usd),
        )


def _sum(one: float | None, other: float | None) -> float | None:
    # Of prices a token and of differences of such, what follows is no money.
    return None if one is None or other is None else round(one + other, 12)


def exhausted(budget: RunBudget, spent: Spent, prompt_tokens: int, cost_usd: float | None = None) -> str | None:
    """Which bound keeps a run from calling the model once more, with a prompt of so many tokens that costs so much."""
    if budget.prompt_tokens is not None and spent.prompt_tokens + prompt_tokens > budget.prompt_tokens:
        return "prompt_tokens"
    if budget.completion_tokens is not None and spent.output_tokens >= budget.completion_tokens:
        return "completion_tokens"
    if budget.cost_usd is not None and (spent.cost_usd or 0.0) + (cost_usd or 0.0) > budget.cost_usd:
        return "cost_usd"
    return None


def output_limit(budget: RunBudget, spent: Spent, max_output_tokens: int) -> int:
    """How long the next reply may be."""
    if budget.completion_tokens is None:
        return max_output_tokens
    return max(1, min(max_output_tokens, budget.completion_tokens - spent.output_tokens))


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raises InvalidInput naming a parameter that is not the caller's to set."""
    for name in parameters:
        if name in _OURS:
            instead = _OURS_INSTEAD.get(name, "the prompt decides it")
            raise InvalidInput(f"`parameters.{name}` cannot be set; {instead}.", field=f"parameters.{name}")


def tool_calls(content: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The calls of a reply that the caller has to answer."""
    return [
        {"id": block["id"], "name": block["name"], "input": block.get("input", {})}
        for block in content
        if block.get("type") == "tool_use"
    ]


def unanswered(ids: Sequence[str], why: str) -> list[dict[str, Any]]:
    """What stands in a thread for results that nobody will send, so that it can go on."""
    return [{"type": "tool_result", "tool_use_id": id_, "content": why, "is_error": True} for id_ in ids]


def outcome(stop_reason: str, calls: Sequence[Mapping[str, Any]]) -> tuple[Status, str | None]:
    """How a run goes on after a reply: its status, and why it is incomplete."""
    if calls and stop_reason in ("tool_use", "end_turn", "stop_sequence"):
        return "requires_action", None
    if stop_reason in ("end_turn", "stop_sequence", "refusal"):
        return "completed", None
    return "incomplete", "max_output_tokens" if stop_reason == "max_tokens" else stop_reason
