"""Where the window begins: rarely moved, deeply when it is, always on a turn boundary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

StrategyType = Literal["auto", "last_messages", "disabled", "sliding"]
TrimReason = Literal["over_ceiling", "cold", "last_messages"]


@dataclass(frozen=True, slots=True)
class TruncationStrategy:
    """`last_messages` is the number of messages to keep, for the strategy of that name.

    `shorten_tool_results`: a last turn that alone is too large is shown with its tool results cut, not refused.
    """

    type: StrategyType = "auto"
    last_messages: int | None = None
    shorten_tool_results: bool = False

    @property
    def key(self) -> str:
        kept = "" if self.last_messages is None else f":{self.last_messages}"
        return f"{self.type}{kept}{':shorten_tool_results' if self.shorten_tool_results else ''}"


class TurnSize(NamedTuple):
    """A turn as truncation sees it."""

    messages: int
    tokens: float


@dataclass(frozen=True, slots=True)
class Cut:
    """The window's first turn (an index into the turns given) and, where that is not the first, why."""

    index: int
    reason: TrimReason | None


def choose_cut(
    turns: Sequence[TurnSize],
    strategy: TruncationStrategy,
    *,
    ceiling: float,
    low_water: float,
    more_before: bool,
    cold: bool,
    kept_tokens: float = 0.0,
) -> Cut:
    """Choose the first visible turn among `turns` (oldest first, from the lane's present cut on).

    `more_before` says that there are older ones, which did not fit either. `cold`: the provider has forgotten
    the prefix, so that trimming costs nothing now. `kept_tokens` come on top of the turns until the window is trimmed. The
    newest turn always stays; whether it fits is the caller's to check.
    """
    if strategy.type == "disabled" or not turns:
        return Cut(0, None)
    if strategy.type == "last_messages":
        newest = _newest_messages(turns, strategy.last_messages or 1)
        return Cut(max(newest, _newest_within(turns, ceiling)), "last_messages")
    if strategy.type == "sliding":
        return Cut(_newest_within(turns, ceiling), "over_ceiling")
    total = sum([turn.tokens for turn in turns])
    if total + kept_tokens > ceiling or more_before:
        return Cut(_newest_within(turns, low_water), "over_ceiling")
    if cold:
        return Cut(_newest_within(turns, low_water), "cold")
    return Cut(0, None)


def _newest_within(turns: Sequence[TurnSize], tokens: float) -> int:
    """Index of the oldest turn such that it and all newer ones hold at most `tokens`; at least the newest is kept."""
    index = len(turns) - 1
    held = turns[index].tokens
    while index > 0 and held + turns[index - 1].tokens <= tokens:
        index -= 1
        held += turns[index].tokens
    return index


def _newest_messages(turns: Sequence[TurnSize], count: int) -> int:
    """The same for at most `count` messages."""
    index = len(turns) - 1
    held = turns[index].messages
    while index > 0 and held + turns[index - 1].messages <= count:
        index -= 1
        held += turns[index].messages
    return index
