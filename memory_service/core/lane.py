"""A lane: the state of one window, for one thread, provider, model, strategy and budget.

What a provider's prompt cache knows depends on model and parameters, so each combination has a window of its own: a
cheap model's short title prompt must not trim the main one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from memory_service.core.prompt_cache import Entry

MAX_LANES = 8


@dataclass(frozen=True, slots=True)
class Tail:
    """The last message before the open turn in some prompt, and when (epoch seconds) that prompt was built or sent."""

    seq: int
    at: float


@dataclass(frozen=True, slots=True)
class Volatile:
    """What stands before the user's own text in the open turn, frozen with the turn's first prompt.

    `recalled` is the explanation of the recalled text, as it is shown.
    """

    recalled_text: str = ""
    context_text: str = ""
    recalled_tokens: int = 0
    context_tokens: int = 0
    recalled: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """The turn that the last prompt was built for. `loop_tail`: the last tool result of its newest prompt."""

    first_seq: int
    volatile: Volatile
    loop_tail: int | None = None


@dataclass(frozen=True, slots=True)
class Lane:
    """`first_seq` is the window's cut. `edited_seq`: the oldest message changed since the last prompt."""

    first_seq: int
    recall_reserve: int
    context_reserve: int
    stable_digest: str
    sent: Tail | None = None
    built: Tail | None = None
    open_turn: OpenTurn | None = None
    entries: tuple[Entry, ...] = ()
    last_at: float | None = None
    edited_seq: int | None = None

    def warm_tail(self, now: float, ttl_seconds: int | None) -> Tail | None:
        """The tail that the provider most likely still holds: the newest sent one if warm, else the newest built."""
        if self.sent and (ttl_seconds is None or now - self.sent.at <= ttl_seconds):
            return self.sent
        return self.built or self.sent

    def after_edit(self, seq: int) -> Lane:
        """The lane after message `seq` was edited or deleted."""
        turn = self.open_turn
        untouched = turn and turn.first_seq > seq and all(r["seq"] != seq for r in turn.volatile.recalled)
        return replace(
            self,
            sent=self.sent if self.sent and self.sent.seq < seq else None,
            built=self.built if self.built and self.built.seq < seq else None,
            open_turn=turn if untouched else None,
            edited_seq=min(seq, self.edited_seq or seq),
        )

    def after_sent(self, tail: Tail | None) -> Lane:
        """The lane after a prompt with this tail is known to have reached the provider."""
        if tail is None or (self.sent and self.sent.seq > tail.seq):
            return self
        return replace(self, sent=tail)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Lane:
        turn = state["open_turn"]
        return cls(
            **{
                **state,
                "sent": Tail(**state["sent"]) if state["sent"] else None,
                "built": Tail(**state["built"]) if state["built"] else None,
                "open_turn": turn and OpenTurn(**{**turn, "volatile": volatile_from_json(turn["volatile"])}),
                "entries": tuple(Entry(**entry) for entry in state["entries"]),
            }
        )


def volatile_from_json(state: Mapping[str, Any]) -> Volatile:
    return Volatile(**{**state, "recalled": tuple(state["recalled"])})
