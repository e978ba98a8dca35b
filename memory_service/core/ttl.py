"""How long cache breakpoints should live: chosen from the gaps between a lane's own requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from memory_service.core.pricing import Model

SHORT_SECONDS, LONG_SECONDS = 300, 3_600
# A lane is taken for a quick one until it has shown otherwise: its first gaps count beside so many short ones.
_PRESUMED_SHORT = 4.0
_FADE = 0.98  # per request: what was long ago says less
_REMEMBERED = 20.0  # requests that the mean of what they add goes back


@dataclass(frozen=True, slots=True)
class Pace:
    """The gaps between a lane's requests by length, counted so that old ones fade, and what a request adds.

    `prefix_tokens` is what the newest request can be read up to, `added_tokens` what requests added to that on average.
    """

    short: float = 0.0
    middle: float = 0.0
    long: float = 0.0
    prefix_tokens: int = 0
    added_tokens: float = 0.0

    def after_gap(self, seconds: float) -> Pace:
        """The pace once a request came that long after the one before."""
        faded = replace(self, short=self.short * _FADE, middle=self.middle * _FADE, long=self.long * _FADE)
        if seconds <= SHORT_SECONDS:
            return replace(faded, short=faded.short + 1)
        if seconds <= LONG_SECONDS:
            return replace(faded, middle=faded.middle + 1)
        return replace(faded, long=faded.long + 1)

    def after_prompt(self, prefix_tokens: int) -> Pace:
        """The pace once a prompt can be read up to there. A trim says nothing of what a request adds."""
        added = prefix_tokens - self.prefix_tokens
        if added < 0 or not self.gaps:
            return replace(self, prefix_tokens=prefix_tokens)
        weight = 1 / min(self.gaps, _REMEMBERED)
        mean = self.added_tokens + weight * (added - self.added_tokens)
        return replace(self, prefix_tokens=prefix_tokens, added_tokens=mean)

    @property
    def gaps(self) -> float:
        return self.short + self.middle + self.long

    @property
    def over_short(self) -> float:
        """Share of gaps that outlive five minutes."""
        return (self.middle + self.long) / (self.gaps + _PRESUMED_SHORT)

    @property
    def over_long(self) -> float:
        """Share of gaps that outlive an hour."""
        return self.long / (self.gaps + _PRESUMED_SHORT)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        return cls(**state)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """`ttl` is "5m" or "1h", None without breakpoints; `why` is for people."""

    ttl: str | None
    why: str


def choose_lifetime(asked: str | None, pace: Pace, model: Model) -> Lifetime:
    """What was asked for; of "auto", the cheaper.

    Each gap that outlives the entries has the whole prefix written again instead of read. For an hour that is rare, but
    each request pays more for what it adds.
    """
    if asked is None:
        return Lifetime(None, "No cache breakpoints were wanted.")
    if asked != "auto":
        return Lifetime(asked, "Asked for.")
    read, short, long = model.read_ratio, model.write_ratio("5m"), model.cache_write_1h_ratio
    if read is None or short is None or long is None:
        return Lifetime("5m", "The model has one lifetime only.")
    saved = pace.prefix_tokens * ((short - read) * pace.over_short - (long - read) * pace.over_long)
    costs = (long - short) * pace.added_tokens
    gaps = f"about {pace.over_short:.0%} of the gaps between requests outlive 5 minutes, {pace.over_long:.0%} an hour"
    if saved > costs:
        return Lifetime("1h", f"Writing for an hour is cheaper: {gaps}.")
    return Lifetime("5m", f"Writing for 5 minutes is cheaper: {gaps}.")
