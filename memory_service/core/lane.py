"""A lane: the state of one window, for one thread, provider, model, strategy and budget.

What a provider's prompt cache knows depends on model and parameters, so each combination has a window of its own: a
cheap model's short title prompt must not trim the main one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from memory_service.core.prompt_cache import Entry, after_response
from memory_service.core.tokens import TokenCounts
from memory_service.core.ttl import Pace
from memory_service.core.volatile import Volatile

MAX_LANES = 8
_KEY_PARTS = ("provider", "model", "truncation_strategy", "max_prompt_tokens")


def lane_key(provider: str, model: str, strategy: str, max_prompt_tokens: int) -> str:
    return "|".join((provider, model, strategy, str(max_prompt_tokens)))


def differences(key: str, other: str) -> tuple[str, ...]:
    """In what two lanes differ."""
    pairs = zip(_KEY_PARTS, _parts(key), _parts(other), strict=True)
    return tuple(name for name, left, right in pairs if left != right)


def share_cache(key: str, other: str) -> bool:
    """Whether a provider finds for one lane what the other wrote: a prompt cache belongs to a model."""
    return not {"provider", "model"} & set(differences(key, other))


def _parts(key: str) -> tuple[str, ...]:
    provider, rest = key.split("|", 1)
    return (provider, *rest.rsplit("|", 2))  # a model may have any name


@dataclass(frozen=True, slots=True)
class Tail:
    """The last message before the open turn in some prompt, and when (epoch seconds) that prompt was built or sent."""

    seq: int
    at: float


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """The turn that the last prompt was built for. `loop_tail`: the last tool result of its newest prompt.

    `counts` are those of the volatile text; `source` is the id of the prompt that it was stored with. Thinking is shown
    from message `thinking_from` on.
    """

    first_seq: int
    volatile: Volatile
    loop_tail: int | None = None
    counts: TokenCounts = TokenCounts()
    source: str | None = None
    thinking_from: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """A closed turn that is shown as it was sent: with its volatile text, and its thinking from one message to another."""

    first_seq: int
    last_seq: int
    volatile: Volatile
    counts: TokenCounts
    source: str | None = None
    thinking_from: int = 0

    def shows_thinking(self, seq: int) -> bool:
        return self.thinking_from <= seq <= self.last_seq

    def quotes(self, seq: int) -> bool:
        return any(recalled["seq"] == seq for recalled in self.volatile.recalled)


@dataclass(frozen=True, slots=True)
class Lane:
    """`first_seq` is the window's cut, `prefix_digest` that of the last prompt up to where the next one may extend it.

    `edited_seq` and `deleted_seq`: the oldest message that was changed or deleted since, or whose place in the prompt is
    touched by it. `unreported`: how many prompts were built, while none of them was reported; None once one was.
    `ttl_seconds` is how long the last prompt's breakpoints live; None where that is not known. `cuts`: core/shorten.py;
    `kept`: core/closing.py. `last_seq`: the newest message of the last prompt; None for what older versions stored.
    """

    first_seq: int
    recall_reserve: int
    context_reserve: int
    stable_digest: str
    prefix_digest: str | None = None
    sent: Tail | None = None
    built: Tail | None = None
    open_turn: OpenTurn | None = None
    entries: tuple[Entry, ...] = ()
    last_at: float | None = None
    edited_seq: int | None = None
    deleted_seq: int | None = None
    stable_parts: Mapping[str, str] = field(default_factory=dict)
    unreported: int | None = 0
    pace: Pace = Pace()
    ttl_seconds: int | None = None
    cuts: Mapping[str, int] = field(default_factory=dict)
    kept: tuple[Kept, ...] = ()
    last_seq: int | None = None

    def is_cold(self, now: float) -> bool:
        """Whether the provider has forgotten the last prompt."""
        return self.ttl_seconds is not None and self.last_at is not None and now - self.last_at > self.ttl_seconds

    def changed_before(self, seq: int) -> bool:
        """Whether a message of the window up to this one was edited or deleted since the last prompt."""
        return any(
            changed is not None and self.first_seq <= changed <= seq for changed in (self.edited_seq, self.deleted_seq)
        )

    def held(self, reply_seq: int) -> tuple[Entry, ...]:
        """What the provider holds of it. A newer reply than its last prompt is a response to that, reported or not."""
        if self.last_seq is None or self.last_at is None or reply_seq <= self.last_seq:
            return self.entries
        return after_response(self.entries, self.last_at)

    def pace_at(self, now: float) -> Pace:
        """The pace with the gap that a request ends now."""
        return self.pace if self.last_at is None else self.pace.after_gap(now - self.last_at)

    def warm_tail(self, now: float) -> Tail | None:
        """The tail that the provider most likely still holds: the newest sent one if warm, else the newest built."""
        if self.sent and (self.ttl_seconds is None or now - self.sent.at <= self.ttl_seconds):
            return self.sent
        return self.built or self.sent

    def after_edit(self, seq: int, *, deleted: bool = False) -> Lane:
        """The lane after message `seq` was edited, or deleted.

        Another question, or another text of what was recalled for it, makes the open turn's volatile part stale.
        """
        turn = self.open_turn
        stale = turn and (turn.first_seq == seq or any(r["seq"] == seq for r in turn.volatile.recalled))
        quoting = [kept.first_seq for kept in self.kept if kept.quotes(seq)]
        touched = min([*quoting, *([turn.first_seq] if turn and stale else [])], default=seq)
        if touched < self.first_seq:
            return self  # nothing of it is shown
        before = self.deleted_seq if deleted else self.edited_seq
        oldest = min(touched, before or touched)
        return replace(
            self,
            sent=self.sent if self.sent and self.sent.seq < touched else None,
            built=self.built if self.built and self.built.seq < touched else None,
            open_turn=None if stale else turn,
            edited_seq=self.edited_seq if deleted else oldest,
            deleted_seq=oldest if deleted else self.deleted_seq,
            kept=tuple(kept for kept in self.kept if kept.last_seq < touched),
            cuts={key: kept for key, kept in self.cuts.items() if not key.startswith(f"{seq}.")},
        )

    def stored_with(self, prompt_id: str) -> Lane:
        """The lane once its prompt is stored, which new volatile text is found with."""
        turn = self.open_turn
        return self if turn is None or turn.source else replace(self, open_turn=replace(turn, source=prompt_id))

    def after_sent(self, tail: Tail | None, built_at: float) -> Lane:
        """The lane after a prompt with this tail, built then, is known to have been answered."""
        lane = replace(self, unreported=None, entries=after_response(self.entries, built_at))
        return lane if tail is None or (self.sent and self.sent.seq > tail.seq) else replace(lane, sent=tail)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Lane:
        turn = state["open_turn"]
        return cls(
            **{
                **state,
                "sent": Tail(**state["sent"]) if state["sent"] else None,
                "built": Tail(**state["built"]) if state["built"] else None,
                "open_turn": turn and OpenTurn(**_with_volatile(turn)),
                "kept": tuple(Kept(**_with_volatile(kept)) for kept in state.get("kept", ())),
                "entries": tuple(Entry(**entry) for entry in state["entries"]),
                "pace": Pace.from_json(state.get("pace", {})),
            }
        )


def _with_volatile(state: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an OpenTurn or a Kept; lanes of versions that kept nothing have no counts."""
    volatile, counts = Volatile.from_json(state["volatile"]), TokenCounts(**state.get("counts", {}))
    return {**state, "volatile": volatile, "counts": counts}
