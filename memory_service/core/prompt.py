"""From a window to the next prompt: layout, breakpoints, prediction, and why.

    tools | assistant: instructions, documents ‖ thread: instructions, documents ‖ closed turns ‖ open turn (‖ loop ‖)

‖ are breakpoints, at most four. In a tool loop those of the system part give way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from memory_service.core.lane import Lane, OpenTurn, Tail, differences, share_cache
from memory_service.core.layout import Layout, Positions, StablePart, locate, render_pieces
from memory_service.core.messages import THINKING_TYPES, Piece, Repair
from memory_service.core.misses import Miss, explain_prediction
from memory_service.core.prompt_cache import (
    MAX_BREAKPOINTS,
    Entry,
    Position,
    Prediction,
    in_flight_since,
    merge,
    predict,
)
from memory_service.core.request import Request
from memory_service.core.tokens import Scale, TokenCounts
from memory_service.core.ttl import Pace
from memory_service.core.volatile import Volatile
from memory_service.core.window import Break, Window

ReadFrom = Literal["assistant", "thread"]

# So many prompts in a row without a report are no accident.
_UNREPORTED = 3


@dataclass(frozen=True, slots=True)
class SectionTokens:
    system: int
    tools: int
    summary: int
    window: int
    recall: int
    volatile: int
    total: int
    limit: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """The next model input, with its explanation.

    `breakpoints` index `positions`, in the layout's order: the shared part's if it is marked, then one for each mark.
    `read_from`: whether what is read from the prompt cache is of this thread, or only what it shares with others.
    `miss`: why less is read than was sent before.
    `prefix_digest` is that of all up to the last place where a breakpoint may stand.
    """

    layout: Layout
    positions: tuple[Position, ...]
    breakpoints: tuple[int, ...]
    tokens: SectionTokens
    counts: TokenCounts
    prediction: Prediction
    read_from: ReadFrom | None
    miss: Miss | None
    volatile: Volatile
    breaks: tuple[Break, ...]
    hints: tuple[str, ...]
    repairs: tuple[Repair, ...]
    prefix_digest: str
    lane: Lane
    tail: Tail | None


def assemble(
    request: Request,
    stable: StablePart,
    window: Window,
    volatile: Volatile,
    volatile_counts: TokenCounts,
    lane: Lane | None,
    scale: Scale,
    now: float,
    others: Mapping[str, Lane],
    shared_sent_at: float | None,
) -> Prompt:
    """Put the prompt together, place its breakpoints, predict what the provider will bill, and say why.

    `others` are the thread's other lanes by their keys, newest first. `shared_sent_at`: when (epoch seconds) any thread
    last sent a prompt that shares this one's first part.
    """
    opened_at = window.open_turn.first_seq
    pieces = render_pieces(window.turns, volatile, window.kept)
    tokens = _section_tokens(request, stable, window, volatile, scale)
    positions = locate(
        stable,
        pieces,
        (tokens.system, tokens.tools),
        _message_tokens(window, scale),
        {
            opened_at: volatile.tokens,
            **{kept.first_seq: scale.tokens(kept.counts) for kept in window.kept},
        },
    )
    markable = _markable(request, pieces)
    history_end = _last_up_to(opened_at - 1, pieces, markable)
    prefix_end = markable[-1] if window.loop_tail and markable else history_end
    tail = Tail(pieces[history_end].seq, now) if history_end >= 0 else None
    layout = _mark(request, stable, pieces, markable, window, lane, history_end, now)
    breakpoints = [positions.of_mark(mark) for mark in layout.marks]
    if layout.mark_shared:
        breakpoints.insert(0, positions.shared_end)
    shared = _shared_entry(request, layout, positions, shared_sent_at)
    siblings = [other for key, other in others.items() if share_cache(key, request.lane_key)]
    reply_seq = window.reply_seq
    held = merge([shared, *(known.held(reply_seq) for known in (*reversed(siblings), lane) if known)], now)
    prediction, entries = predict(
        positions.all,
        breakpoints,
        tokens.total,
        held,
        request.model,
        request.ttl_seconds,
        now,
    )
    prefix_digest = positions.digest_at(prefix_end)
    breaks = _breaks(lane, window, positions) if lane else _new_lane(request, window, positions, others, siblings)
    cacheable = positions.tokens_at(prefix_end)
    in_flight = in_flight_since(positions.all, held, prediction.cache_read_tokens, now)
    return Prompt(
        layout=layout,
        positions=positions.all,
        breakpoints=tuple(breakpoints),
        tokens=tokens,
        counts=TokenCounts.total([stable.system_counts, stable.tool_counts, window.counts, volatile_counts]),
        prediction=prediction,
        read_from=_read_from(prediction, positions),
        volatile=volatile,
        miss=explain_prediction(request, lane, breaks, positions.all, cacheable, prediction, in_flight, now),
        breaks=breaks,
        hints=_hints(lane),
        repairs=window.repairs,
        prefix_digest=prefix_digest,
        lane=Lane(
            first_seq=window.first_seq,
            recall_reserve=window.budget.recall_reserve,
            context_reserve=window.budget.context_reserve,
            stable_digest=stable.digest,
            stable_parts=stable.parts,
            prefix_digest=prefix_digest,
            sent=lane.sent if lane else None,
            built=tail,
            open_turn=OpenTurn(
                window.open_turn.first_seq,
                volatile,
                window.loop_tail,
                volatile_counts,
                _source(lane, window),
                window.thinking_from,
            ),
            kept=window.kept,
            entries=entries,
            last_at=now,
            unreported=_unreported(lane),
            pace=(lane.pace_at(now) if lane else Pace()).after_prompt(cacheable),
            ttl_seconds=request.ttl_seconds,
            cuts=window.cuts,
            last_seq=window.last_seq,
        ),
        tail=tail,
    )


def _section_tokens(
    request: Request, stable: StablePart, window: Window, volatile: Volatile, scale: Scale
) -> SectionTokens:
    system, tools = stable.needs(scale)
    return SectionTokens(
        system=system,
        tools=tools,
        summary=0,
        window=window.tokens,
        recall=volatile.recalled_tokens,
        volatile=volatile.context_tokens,
        total=system + tools + window.tokens + volatile.tokens,
        limit=request.max_prompt_tokens,
    )


def _message_tokens(window: Window, scale: Scale) -> dict[int, float]:
    tokens = {m.seq: scale.tokens(m.counts) for turn in window.turns for m in turn.messages}
    for kept in window.kept:
        turn = next(turn for turn in window.turns if turn.first_seq == kept.first_seq)
        thought = [m for m in turn.messages if kept.shows_thinking(m.seq)]
        tokens |= {m.seq: scale.tokens(m.counts_with_thinking) for m in thought}
    return tokens | {m.seq: scale.tokens(m.counts_with_thinking) for m in window.open_turn.messages}


def _markable(request: Request, pieces: Sequence[Piece]) -> list[int]:
    """The pieces on which a breakpoint may stand, in order: nothing volatile, no thinking, for OpenAI no model's output."""
    input_only = request.model.cache_rule == "openai_breakpoints"
    return [
        i
        for i, piece in enumerate(pieces)
        if not piece.volatile and piece.kind not in THINKING_TYPES and not (input_only and piece.role == "assistant")
    ]


def _last_up_to(seq: int, pieces: Sequence[Piece], markable: Sequence[int]) -> int:
    """The last markable piece of a message and all before it; -1: there is none."""
    return next((i for i in reversed(markable) if pieces[i].seq <= seq), -1)


def _mark(
    request: Request,
    stable: StablePart,
    pieces: tuple[Piece, ...],
    markable: Sequence[int],
    window: Window,
    lane: Lane | None,
    history_end: int,
    now: float,
) -> Layout:
    """Spend the breakpoints: the messages' first, then what threads share, then the end of the system part."""
    if request.ttl is None:
        return Layout(stable, pieces, (), mark_shared=False)
    marks = {history_end} - {-1}
    previous = _previous_marks(window, lane, now)
    for seq in (*previous, *([window.loop_tail] if window.loop_tail else [])):
        marks |= {_last_up_to(seq, pieces, markable)} - {-1}
    newest = tuple(sorted(marks)[-(MAX_BREAKPOINTS - 1) :])
    # OpenAI takes no breakpoint on a tool.
    mark_tools = bool(stable.tools) and not stable.own and request.model.cache_rule != "openai_breakpoints"
    mark_shared = bool(stable.shared) or mark_tools
    has_room = len(newest) + mark_shared < MAX_BREAKPOINTS
    return Layout(stable, pieces, (-1, *newest) if stable.own and has_room else newest, mark_shared)


def _shared_entry(
    request: Request, layout: Layout, positions: Positions, shared_sent_at: float | None
) -> tuple[Entry, ...]:
    """What the provider holds because another thread, or this one, sent the shared part."""
    if shared_sent_at is None or request.ttl_seconds is None or not layout.mark_shared:
        return ()
    end = positions.all[positions.shared_end]
    entry = Entry(end.digest, end.tokens, shared_sent_at + request.ttl_seconds)
    return (entry,) if end.tokens >= request.model.min_cacheable_tokens else ()


def _read_from(prediction: Prediction, positions: Positions) -> ReadFrom | None:
    if prediction.cache_read_tokens == 0:
        return None
    shared = positions.all[positions.shared_end].tokens if positions.shared_end >= 0 else 0
    return "assistant" if prediction.cache_read_tokens <= shared else "thread"


def _previous_marks(window: Window, lane: Lane | None, now: float) -> list[int]:
    """The message up to which the provider holds the lane's previous prompt: where it is looked up again."""
    if lane is None:
        return []
    turn = lane.open_turn
    if turn and turn.first_seq == window.open_turn.first_seq and turn.loop_tail is not None:
        return [turn.loop_tail]
    tail = lane.warm_tail(now)
    closed = turn and turn.loop_tail is not None and any(kept.first_seq == turn.first_seq for kept in window.kept)
    if turn and turn.loop_tail is not None and closed:
        return [turn.loop_tail]
    return [tail.seq] if tail and window.first_seq <= tail.seq < window.open_turn.first_seq else []


def _breaks(lane: Lane, window: Window, positions: Positions) -> tuple[Break, ...]:
    """Why the lane's previous bytes are not extended; nothing when they are, whatever changed behind them."""
    if lane.prefix_digest is None or positions.extend(lane.prefix_digest):
        return ()
    return window.changes or (Break("changed", window.first_seq),)


def _new_lane(
    request: Request, window: Window, positions: Positions, others: Mapping[str, Lane], siblings: Sequence[Lane]
) -> tuple[Break, ...]:
    """The first prompt of a lane begins anew, unless it extends what another lane sent to the same model."""
    newest = next(iter(others), None)
    if newest is None or any(s.prefix_digest and positions.extend(s.prefix_digest) for s in siblings):
        return ()
    return (Break("new_lane", window.first_seq, differences(request.lane_key, newest)),)


def _source(lane: Lane | None, window: Window) -> str | None:
    """The prompt that the frozen volatile text was stored with."""
    unchanged = lane and lane.open_turn and window.frozen and lane.open_turn.volatile == window.frozen
    return lane.open_turn.source if unchanged and lane and lane.open_turn else None


def _unreported(lane: Lane | None) -> int | None:
    held = lane.unreported if lane else 0
    return None if held is None else held + 1


def _hints(lane: Lane | None) -> tuple[str, ...]:
    unreported = lane.unreported if lane else None
    if unreported is None or unreported < _UNREPORTED:
        return ()
    return (
        f"{unreported} earlier prompts of this thread were never reported; report the `usage` of each, so that the token "
        "estimate and the predictions learn from what the provider counted.",
    )
