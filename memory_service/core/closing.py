"""What becomes of a turn's volatile text and thinking once the turn is closed: dropped, or kept until the next trim.

Dropping them moves all that follows them in the turn, which the provider then writes again instead of reading it. In a
turn without a tool loop nothing follows that was ever cached. Behind a long loop it is cheaper to carry them along.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from memory_service.core.lane import Kept, Lane
from memory_service.core.messages import THINKING_TYPES, Turn
from memory_service.core.request import Request
from memory_service.core.tokens import Scale, TokenCounts

# r and w where no prices are known: what a token read from the prompt cache costs, and one that is computed again.
_READ, _WRITE = 0.1, 1.0


def keep(
    request: Request, stable_digest: str, lane: Lane | None, turns: Sequence[Turn], ceiling: float, scale: Scale
) -> tuple[Kept, ...]:
    """What was kept before, and of the turn that was open in the lane's last prompt, if it is closed now, what is cheaper.

    `turns` are mended, the last of them open. Nothing is kept where the window moves at every turn, nor behind what
    changed: thinking is bound to all that stood before it.
    """
    if lane is None or lane.stable_digest != stable_digest or request.strategy.type not in ("auto", "disabled"):
        return ()
    last = lane.open_turn
    closed = next((turn for turn in turns[-2::-1] if last and turn.first_seq == last.first_seq), None)
    if last is None or closed is None or last.loop_tail is None or lane.changed_before(last.loop_tail):
        return lane.kept
    if last.volatile.tokens and last.counts == TokenCounts():
        return lane.kept  # of a version that did not count it for this
    kept = Kept(last.first_seq, last.loop_tail, last.volatile, last.counts, last.source, last.thinking_from)
    both = (*lane.kept, kept)
    free = ceiling - scale.tokens(TokenCounts.total([turn.counts for turn in turns])) - scale.tokens(extra(turns, both))
    mean = scale.tokens(TokenCounts.total([turn.counts for turn in turns])) / len(turns)
    return both if _is_cheaper(request, closed, kept, free / max(1.0, mean), scale) else lane.kept


def extra(turns: Sequence[Turn], kept: Sequence[Kept]) -> TokenCounts:
    """What is kept of these turns costs so much beyond their messages."""
    by_seq = {turn.first_seq: turn for turn in turns} if kept else {}
    return TokenCounts.total([counts for one in kept for counts in _extra(by_seq[one.first_seq], one)])


def without_thinking(turn: Turn, until: int) -> Turn:
    """A turn without the thinking of the messages before `until`."""
    return Turn(
        tuple(
            replace(m, content=tuple(b for b in m.content if b.get("type") not in THINKING_TYPES), thinking_tokens=0)
            if m.seq < until
            else m
            for m in turn.messages
        )
    )


def _is_cheaper(request: Request, turn: Turn, kept: Kept, turns_left: float, scale: Scale) -> bool:
    """Whether keeping costs less: what follows is written instead of read once, or what is kept is read every turn."""
    carried = sum(scale.tokens(counts) for counts in _extra(turn, kept))
    if carried == 0 or turns_left < 0:
        return False
    read, write = request.model.read_ratio, request.model.write_ratio(request.ttl or "5m")
    r, w = (_READ, _WRITE) if read is None or write is None else (read, write)
    follows = sum(scale.tokens(m.counts) for m in turn.messages if m.seq <= kept.last_seq)
    return (w - r) * follows > r * carried * max(1.0, turns_left)


def _extra(turn: Turn, kept: Kept) -> Iterable[TokenCounts]:
    thinking = sum(m.thinking_tokens for m in turn.messages if kept.shows_thinking(m.seq))
    return kept.counts, TokenCounts(latin=thinking, text_bytes=4 * thinking)
