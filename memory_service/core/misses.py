"""Why a provider's prompt cache is not read as far as it might be, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def explain_prediction(
    request: Request,
    lane: Lane | None,
    breaks: Sequence[Break],
    positions: Sequence[Position],
    prefix_tokens: int,
    prediction: Prediction,
    now: float,
) -> str | None:
    """Why the lane's previous prefix will not be read; None when it will be. `prefix_tokens`: how much could be cached."""
    before = next((p.tokens for p in positions if lane and p.digest == lane.prefix_digest), None)
    if before is not None and prediction.cache_read_tokens >= before:
        return None
    if request.ttl is None and request.model.cache_rule != "longest_prefix":
        return "No cache breakpoints were wanted."
    if prefix_tokens < request.model.min_cacheable_tokens:
        least = request.model.min_cacheable_tokens
        return f"The prefix has about {prefix_tokens} tokens; {request.model.name} caches none below {least}."
    if breaks:
        why = " and ".join(dict.fromkeys(_REASONS.get(b.reason, b.reason) for b in breaks))
        return f"From message {min(b.at_seq for b in breaks)} on it is not what was sent before: {why}."
    if lane is None or lane.last_at is None:
        return None if prediction.cache_read_tokens else "Nothing of this thread was sent to this model before."
    if lane.is_cold(now):
        ago = (now - lane.last_at) / 60
        return (
            f"The prompt before was {ago:.0f} minutes ago; its entries ended after {(lane.ttl_seconds or 0) / 60:.0f}."
        )
    return None if prediction.cache_read_tokens else "Nothing before this prompt was long enough to be cached."


def explain_report(predicted: Mapping[str, Any], reported: ReportedUsage, usage: Mapping[str, Any]) -> str | None:
    """Why less was read than predicted, as far as the figures tell; None when it was not."""
    expected = predicted["cache_read_tokens"]
    missing = expected - reported.cache_read_tokens
    if missing <= max(_LEAST, _TOLERANCE * expected):
        return None
    return f"About {missing} tokens fewer were read than predicted: {_guess(reported, usage)}."


def _guess(reported: ReportedUsage, usage: Mapping[str, Any]) -> str:
    if said := _said_by_provider(usage):
        return f"the provider says {said}"
    if reported.cache_read_tokens:
        return (
            f"the provider held no more than {reported.cache_read_tokens}, or what was sent differs behind them from the "
            "request as it was built"
        )
    if reported.cache_write_tokens:
        return "the provider held none of it any more, or what was sent is not the request as it was built"
    return "nothing was cached; the breakpoints did not reach the provider, or it caches no prefix of this length"


def _said_by_provider(usage: Mapping[str, Any]) -> str | None:
    """Anthropic's `diagnostics`, if the caller reports them with the usage."""
    diagnostics = usage.get("diagnostics")
    reason = diagnostics.get("cache_miss_reason") if isinstance(diagnostics, Mapping) else None
    kind = reason.get("type") if isinstance(reason, Mapping) else None
    return kind if isinstance(kind, str) else None
