"""What calls of models used and cost, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field

from ._decode import Model


@dataclass(frozen=True, kw_only=True)
class UsageSums(Model):
    """Sums over calls. Prices are of those calls whose price is known, None if none is; `cost_usd` is the input's."""

    calls: int = 0
    calls_without_price: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    """The sum of the next two: written for less than an hour, and for longer."""
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    uncached_tokens: int = 0
    output_tokens: int = 0
    cache_read_share: float | None = None
    cost_usd: float | None = None
    cost_usd_uncached: float | None = None
    saved_usd: float | None = None
    """What the prompt cache saved: the difference of the two."""
    output_usd: float | None = None
    total_usd: float | None = None
    predicted_cache_read_tokens: int = 0
    predicted_cache_write_tokens: int = 0
    predicted_uncached_tokens: int = 0
    predicted_cost_usd: float | None = None
    prediction_error: float | None = None
    """By how many of the tokens read the predictions were off, each call for itself, as a share of the input."""


@dataclass(frozen=True, kw_only=True)
class UsageGroup(UsageSums):
    """`id` is the day (UTC), `provider/model`, or the id of the thread or user; empty for none, or one deleted since."""

    id: str


@dataclass(frozen=True, kw_only=True)
class Usage(Model):
    """One page of groups, and `totals` over all that was selected; `after=usage.last_id` asks for the next page."""

    data: list[UsageGroup] = field(default_factory=list)
    totals: UsageSums = field(default_factory=lambda: UsageSums(raw={}))
    misses: dict[str, int] = field(default_factory=dict)
    """Calls that read less from the prompt cache than they might have, by reason."""
    group_by: str | None = None
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None
