"""How a provider's prompt cache behaves, as far as a prediction needs it.

Anthropic's rules: an entry is written at each breakpoint, for the exact blocks up to there; a request reads the longest
entry found by walking back at most 20 positions from each of its breakpoints; a prefix below the model's minimum is not
cached; an entry lives for its TTL, counted anew from the start of each request that has a breakpoint there, and can be
read once the response to the request that wrote it begins. OpenAI's explicit breakpoints are found only where they are
marked again. Other providers find the longest prefix they have seen. Nothing is said of when either can be read.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import inf
from typing import NamedTuple

from memory_service.core.pricing import CacheRule, Model

ANTHROPIC_LOOK_BACK_POSITIONS = 20
MAX_BREAKPOINTS = 4
# Nobody tells when a response begins; few do sooner after their prompt was built.
RESPONSE_BEGINS_SECONDS = 1.0
_KEPT_ENTRIES = 12


class Position(NamedTuple):
    """A place where a prefix can end: the digest of all up to it, and the estimated tokens up to it."""

    digest: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A prefix that the provider holds until `expires_at` (epoch seconds; None where no TTL is known).

    A read keeps it for `ttl_seconds` more; None: as long as the entries of the request that reads it. `written_at`: when
    the request was built that wrote it; None once its response is known to have begun, or where that does not matter.
    """

    digest: str
    tokens: int
    expires_at: float | None
    ttl_seconds: int | None = None
    written_at: float | None = None

    def is_alive(self, now: float) -> bool:
        return self.expires_at is None or self.expires_at >= now

    def is_readable(self, now: float) -> bool:
        return self.written_at is None or now - self.written_at >= RESPONSE_BEGINS_SECONDS


@dataclass(frozen=True, slots=True)
class Prediction:
    """Input tokens of one request, split as the provider will bill them."""

    cache_read_tokens: int
    cache_write_tokens: int
    uncached_tokens: int


def predict(
    positions: Sequence[Position],
    breakpoints: Sequence[int],
    total_tokens: int,
    entries: Sequence[Entry],
    model: Model,
    ttl_seconds: int | None,
    now: float,
) -> tuple[Prediction, tuple[Entry, ...]]:
    """Predict the billing of a request, and what the provider holds after it.

    `breakpoints` are indexes into `positions`, ascending.
    """
    alive = {e.digest: e for e in entries if e.is_alive(now)}
    readable = {digest for digest, entry in alive.items() if entry.is_readable(now)}
    longest_prefix = model.cache_rule == "longest_prefix"
    ends = [len(positions) - 1] if longest_prefix and positions else list(breakpoints)
    cacheable = [i for i in ends if positions[i].tokens >= model.min_cacheable_tokens]
    reach = _look_back(model.cache_rule, len(positions))
    read_at = max((found for i in cacheable if (found := _walk_back(positions, i, reach, readable)) >= 0), default=-1)
    read = positions[read_at].tokens if read_at >= 0 else 0
    last = positions[max(cacheable)].tokens if cacheable else 0
    written = max(0, last - read) if model.cache_rule != "longest_prefix" else 0
    # A cache of longest prefixes can be met at any earlier place; the breakpoints are where the next prompt turns off.
    held = sorted({*cacheable, *(breakpoints if longest_prefix else ()), *([read_at] if read_at >= 0 else [])})
    places = [positions[i] for i in held]
    fresh = tuple(_kept_on(alive.pop(p.digest, None), p, model.cache_rule, ttl_seconds, now) for p in places)
    return Prediction(read, written, max(0, total_tokens - read - written)), (*alive.values(), *fresh)[-_KEPT_ENTRIES:]


def _kept_on(known: Entry | None, position: Position, rule: CacheRule, ttl_seconds: int | None, now: float) -> Entry:
    """An entry after a request that wrote or read it: one that was there lives as long as it was written for, and can
    be read as soon.
    """
    lives = ttl_seconds if known is None or known.ttl_seconds is None else known.ttl_seconds
    new = now if rule == "anthropic_breakpoints" else None
    written_at = known.written_at if known else new
    return Entry(position.digest, position.tokens, None if lives is None else now + lives, lives, written_at)


def merge(held: Iterable[Sequence[Entry]], now: float) -> tuple[Entry, ...]:
    """What has not ended of entries from several places as one list, each once; what comes last is kept longest."""
    merged: dict[str, Entry] = {}
    for entry in chain.from_iterable(held):
        if entry.is_alive(now):
            known = merged.pop(entry.digest, None)
            merged[entry.digest] = _joined(known, entry) if known else entry
    return tuple(merged.values())


def _joined(one: Entry, other: Entry) -> Entry:
    """An entry as two know it: it ends when the later says, and can be read when the earlier says."""
    last = max(one, other, key=lambda e: inf if e.expires_at is None else e.expires_at)
    return replace(last, written_at=min((one.written_at, other.written_at), key=lambda at: -inf if at is None else at))


def after_response(entries: Iterable[Entry], built_at: float) -> tuple[Entry, ...]:
    """Entries once the response to a request has begun that was built then, and those to earlier ones, as is assumed."""
    return tuple(e if e.written_at is None or e.written_at > built_at else replace(e, written_at=None) for e in entries)


def in_flight_since(
    positions: Sequence[Position], entries: Iterable[Entry], read_tokens: int, now: float
) -> float | None:
    """When a request was built that wrote more of this one than it reads, because its response may not have begun."""
    unread = {position.digest for position in positions if position.tokens > read_tokens}
    waiting = (e.written_at for e in entries if e.digest in unread and not e.is_readable(now))
    return max((at for at in waiting if at is not None), default=None)


def _look_back(rule: CacheRule, positions: int) -> int:
    """How many positions are looked at from a breakpoint on, its own included."""
    match rule:
        case "anthropic_breakpoints":
            return ANTHROPIC_LOOK_BACK_POSITIONS
        case "openai_breakpoints":
            return 1
        case "longest_prefix":
            return positions


def _walk_back(positions: Sequence[Position], start: int, reach: int, readable: Container[str]) -> int:
    for index in range(start, max(-1, start - reach), -1):
        if positions[index].digest in readable:
            return index
    return -1
