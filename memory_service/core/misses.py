"""Why a provider's prompt cache is not read as far as it might be, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memory_service.core.lane import Lane
from memory_service.core.prompt_cache import Position, Prediction
from memory_service.core.request import Request
from memory_service.core.usage import ReportedUsage
from memory_service.core.window import Break

_REASONS = {
    "trimmed": "the window was trimmed",
    "turn_closed": "a turn was closed, and what was recalled for it is gone",
    "edited": "a message was edited",
    "deleted": "a message was deleted",
    "refreshed": "the open turn's volatile text was made anew",
    "recall_dropped": "what was recalled had to give way",
    "shortened": "a tool result was shortened",
    "tools_changed": "the tools changed",
    "instructions_changed": "the instructions changed",
    "documents_changed": "the documents changed",
    "new_lane": "this is another model, strategy or budget than before",
}
# Estimates are off by some share; fewer tokens than this are no miss.
_TOLERANCE = 0.1
_LEAST = 256
# So much of a request's input, and so many tokens, are no matter of estimates: somebody should look.
COLLAPSE_SHARE = 0.05
COLLAPSE_TOKENS = 2_000
# What providers say, Anthropic and OpenAI; any other word is only quoted.
PROVIDER_REASONS = frozenset(
    {
        *("model_changed", "system_changed", "tools_changed", "messages_changed", "previous_message_not_found"),
        *("prompt_cache_key_changed", "text_format_changed", "reasoning_effort_changed", "verbosity_changed"),
        *("context_compacted", "input_changed", "service_tier_changed", "unavailable"),
    }
)


@dataclass(frozen=True, slots=True)
class Miss:
    """Why the prompt cache is not read as far as it might be: one of few words, and a sentence."""

    reason: str
    text: str


def explain_prediction(
    request: Request,
    lane: Lane | None,
    breaks: Sequence[Break],
    positions: Sequence[Position],
    prefix_tokens: int,
    prediction: Prediction,
    in_flight_since: float | None,
    now: float,
) -> Miss | None:
    """Why the lane's previous prefix will not be read; None when it will be. `prefix_tokens`: how much could be cached.

    `in_flight_since`: when a request was built that wrote more of it than can be read until its response begins.
    """
    before = next((p.tokens for p in positions if lane and p.digest == lane.prefix_digest), None)
    if before is not None and prediction.cache_read_tokens >= before:
        return None
    if request.ttl is None and request.model.cache_rule != "longest_prefix":
        return Miss("no_breakpoints", "No cache breakpoints were wanted.")
    if prefix_tokens < request.model.min_cacheable_tokens:
        least = request.model.min_cacheable_tokens
        text = f"The prefix has about {prefix_tokens} tokens; {request.model.name} caches none below {least}."
        return Miss("below_minimum", text)
    if breaks:
        why = " and ".join(dict.fromkeys(_REASONS.get(b.reason, b.reason) for b in breaks))
        text = f"From message {min(b.at_seq for b in breaks)} on it is not what was sent before: {why}."
        return Miss(breaks[0].reason, text)
    if in_flight_since is not None:
        built = f"The prompt before was built {now - in_flight_since:.1f} s ago, and its response may not have begun"
        return Miss("in_flight", f"{built}; wait for its first token before you send the next.")
    if lane is not None and lane.last_at is not None and lane.is_cold(now):
        ago, ended = (now - lane.last_at) / 60, (lane.ttl_seconds or 0) / 60
        return Miss("expired", f"The prompt before was {ago:.0f} minutes ago; its entries ended after {ended:.0f}.")
    if prediction.cache_read_tokens:
        return None
    if lane is None or lane.last_at is None:
        return Miss("first", "Nothing of this thread was sent to this model before.")
    return Miss("nothing_cached", "Nothing before this prompt was long enough to be cached.")


def explain_report(predicted: Mapping[str, Any], reported: ReportedUsage, usage: Mapping[str, Any]) -> Miss | None:
    """Why less was read than predicted, as far as the figures tell; None when it was not."""
    expected = predicted["cache_read_tokens"]
    missing = expected - reported.cache_read_tokens
    if missing <= max(_LEAST, _TOLERANCE * expected) and not has_collapsed(predicted, reported):
        return None
    reason, why = _guess(reported, usage)
    return Miss(reason, f"About {missing} tokens fewer were read than predicted: {why}.")


def has_collapsed(predicted: Mapping[str, Any], reported: ReportedUsage) -> bool:
    """Whether so much less was read than predicted that somebody should know."""
    missing: int = predicted["cache_read_tokens"] - reported.cache_read_tokens
    return missing >= COLLAPSE_TOKENS and missing > COLLAPSE_SHARE * reported.input_tokens


def _guess(reported: ReportedUsage, usage: Mapping[str, Any]) -> tuple[str, str]:
    if said := _said_by_provider(usage):
        return said if said in PROVIDER_REASONS else "other", f"the provider says {said}"
    if reported.cache_read_tokens:
        why = (
            f"the provider held no more than {reported.cache_read_tokens}, or what was sent differs behind them from the "
            "request as it was built"
        )
        return "held_less", why
    if reported.cache_write_tokens:
        return "held_none", (
            "the provider held none of it any more, or what was sent is not the request as it was built"
        )
    why = "nothing was cached; the breakpoints did not reach the provider, or it caches no prefix of this length"
    return "not_cached", why


def _said_by_provider(usage: Mapping[str, Any]) -> str | None:
    """Anthropic's `diagnostics`, or what OpenAI calls so, if the caller reports them with the usage."""
    diagnostics = usage.get("diagnostics")
    if not isinstance(diagnostics, Mapping):
        return None
    reason = diagnostics.get("cache_miss_reason", diagnostics.get("reason"))
    kind = reason.get("type") if isinstance(reason, Mapping) else reason
    return kind if isinstance(kind, str) else None
