"""From a thread's turns to the next prompt: stable things first, volatile things last, under the budget.

    tools | assistant: instructions, documents ‖ thread: instructions, documents | window: closed turns ‖ open turn

‖ are breakpoints. In the open turn the volatile text (recalled messages, request context) stands before the user's own
text, behind every breakpoint of the turn's first request. The next turn's prompt drops it, so that what was cached stays
a prefix of what comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import ceil

from memory_service.core.budget import Budget, low_water
from memory_service.core.canonical import dumps
from memory_service.core.lane import Lane, OpenTurn, Tail, Volatile
from memory_service.core.messages import (
    THINKING_TYPES,
    Block,
    Message,
    Repair,
    Turn,
    group_turns,
    repair,
)
from memory_service.core.pricing import Model
from memory_service.core.prompt_cache import MAX_BREAKPOINTS, Position, Prediction, predict
from memory_service.core.tokens import Scale, TokenCounts
from memory_service.core.truncation import TruncationStrategy, TurnSize, choose_cut
from memory_service.errors import NoUserMessage, PromptTooLarge


@dataclass(frozen=True)
class StablePart:
    """What stands before every message. `shared` comes from the assistant, `own` from the thread.

    `tool_counts` and `system_counts` are what the two cost, counted by the caller.
    """

    tools: tuple[Block, ...] = ()
    shared: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    tool_counts: TokenCounts = TokenCounts()
    system_counts: TokenCounts = TokenCounts()

    @cached_property
    def digest(self) -> str:
        return sha256(dumps([self.tools, self.shared, self.own]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Piece:
    """A content block in its place. `json` is its canonical text."""

    role: str
    seq: int
    block: Block
    json: str
    volatile: bool = False


@dataclass(frozen=True, slots=True)
class Break:
    """Why, and from which message on, this prompt does not extend the one before it."""

    reason: str
    at_seq: int


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks of a prompt, with everything optional settled."""

    provider: str
    model: Model
    model_name: str
    max_prompt_tokens: int
    max_output_tokens: int
    strategy: TruncationStrategy
    ttl: str | None  # "5m" or "1h"; None: no breakpoints

    @property
    def ttl_seconds(self) -> int | None:
        return 3600 if self.ttl == "1h" and self.model.cache_write_1h_ratio else self.model.ttl_seconds

    @property
    def breakpoint_ttl(self) -> str | None:
        """The lifetime of an entry, as the provider writes it; None where requests carry no breakpoints."""
        match self.model.cache_rule:
            case "anthropic_breakpoints":
                return self.ttl
            case "openai_breakpoints":
                return "30m" if self.ttl else None
            case "longest_prefix":
                return None

    @property
    def lane_key(self) -> str:
        return "|".join((self.provider, self.model_name, self.strategy.key, str(self.max_prompt_tokens)))


@dataclass(frozen=True, slots=True)
class Window:
    """The turns that will be shown verbatim, the last of them open, and what is left for the volatile part."""

    turns: tuple[Turn, ...]
    trim_reason: str | None
    budget: Budget
    tokens: int
    frozen: Volatile | None
    breaks: tuple[Break, ...]

    @property
    def first_seq(self) -> int:
        return self.turns[0].first_seq

    @property
    def last_seq(self) -> int:
        return self.turns[-1].last_seq

    @property
    def open_turn(self) -> Turn:
        return self.turns[-1]

    @property
    def volatile_tokens_left(self) -> int:
        return self.budget.limit - self.budget.stable_tokens - self.tokens


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
class Layout:
    """All that the provider will see: what a request is rendered from.

    `marks` are breakpoints, as indexes into `pieces`; -1 is the end of the system part. `mark_shared` puts one at the end
    of what threads share.
    """

    stable: StablePart
    pieces: tuple[Piece, ...]
    marks: tuple[int, ...]
    mark_shared: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """The next model input, with its explanation. `breakpoints` index `positions`."""

    layout: Layout
    positions: tuple[Position, ...]
    breakpoints: tuple[int, ...]
    tokens: SectionTokens
    counts: TokenCounts
    prediction: Prediction
    volatile: Volatile
    breaks: tuple[Break, ...]
    repairs: tuple[Repair, ...]
    prefix_digest: str
    lane: Lane
    tail: Tail | None


def request_needs(stable: StablePart, scale: Scale) -> tuple[int, int]:
    """Tokens of (system, tools); what a request costs by itself counts as system."""
    return scale.ceil(stable.system_counts) + scale.per_request, scale.ceil(stable.tool_counts)


def plan_window(
    request: Request,
    stable: StablePart,
    messages: Sequence[Message],
    lane: Lane | None,
    scale: Scale,
    *,
    recall_reserve: int,
    context_tokens: int,
    more_before: bool,
    refresh: bool,
    now: float,
) -> Window:
    """Choose what the prompt shows. `messages` are the lane's window and all newer ones; for a new lane the newest,
    enough to fill the budget, with `more_before` if there are others.

    Raises NoUserMessage when there is nothing to answer and PromptTooLarge, with figures, when what must be shown does
    not fit.
    """
    _check_ends_with_user(messages)
    stable_tokens = sum(request_needs(stable, scale))
    budget = Budget(
        limit=request.max_prompt_tokens,
        stable_tokens=stable_tokens,
        recall_reserve=max(recall_reserve, lane.recall_reserve if lane else 0),
        context_reserve=_context_reserve(context_tokens, lane),
    )
    turns = group_turns(messages)
    sizes = [
        TurnSize(turn.first_seq, len(turn.messages), scale.tokens(_counts(turn, is_open=i == len(turns) - 1)))
        for i, turn in enumerate(turns)
    ]
    mean_turn = sum(size.tokens for size in sizes) / len(sizes)
    ceiling = budget.window_ceiling
    cut = choose_cut(
        sizes,
        request.strategy,
        ceiling=ceiling,
        low_water=low_water(ceiling, mean_turn, request.model, request.ttl or "5m"),
        more_before=more_before,
        cold=_is_cold(request, lane, now),
    )
    shown = tuple(turns[cut.index :])
    tokens = ceil(sum(size.tokens for size in sizes[cut.index :]))
    frozen = _frozen_volatile(lane, shown[-1], refresh)
    volatile_tokens = frozen.recalled_tokens + frozen.context_tokens if frozen else context_tokens
    if stable_tokens + tokens + volatile_tokens > budget.limit:
        raise _too_large(request, stable_tokens, tokens, volatile_tokens)
    return Window(
        turns=shown,
        trim_reason=cut.reason,
        budget=budget,
        tokens=tokens,
        frozen=frozen,
        breaks=_breaks(lane, stable, shown, trimmed=cut.index > 0, refresh=refresh),
    )


def assemble(
    request: Request,
    stable: StablePart,
    window: Window,
    volatile: Volatile,
    volatile_counts: TokenCounts,
    lane: Lane | None,
    scale: Scale,
    now: float,
) -> Prompt:
    """Put the prompt together, place its breakpoints, predict what the provider will bill, and say why."""
    pieces, repairs = render_pieces(window.turns, volatile)
    markable = _markable(request, pieces)
    history_end = max((i for i in markable if pieces[i].seq < window.open_turn.first_seq), default=-1)
    loop_tail = window.last_seq if any(m.role == "assistant" for m in window.open_turn.messages) else None
    marks = _marks(request, pieces, markable, window, lane, history_end, loop_tail, now)
    mark_shared = request.ttl is not None and bool(stable.shared or (stable.tools and not stable.own))
    if request.ttl is not None and not marks and (stable.own or stable.tools or stable.shared):
        marks = (-1,)
    system, tools = request_needs(stable, scale)
    total = system + tools + window.tokens + volatile.recalled_tokens + volatile.context_tokens
    positions, at_piece = _positions(stable, pieces, system, tools, total)
    shared_at = len(stable.tools) + len(stable.shared) - 1
    system_at = len(stable.tools) + len(stable.shared) + len(stable.own) - 1
    breakpoints = sorted(
        {at_piece[m] if m >= 0 else system_at for m in marks} | ({shared_at} if mark_shared else set())
    )
    prediction, entries = predict(
        positions,
        breakpoints,
        total,
        lane.entries if lane else (),
        request.model,
        request.ttl_seconds,
        now,
    )
    tail = Tail(pieces[history_end].seq, now) if history_end >= 0 else None
    prefix_at = at_piece[history_end] if history_end >= 0 else system_at
    return Prompt(
        layout=Layout(stable, pieces, marks, mark_shared),
        positions=positions,
        breakpoints=tuple(breakpoints),
        tokens=SectionTokens(
            system=system,
            tools=tools,
            summary=0,
            window=window.tokens,
            recall=volatile.recalled_tokens,
            volatile=volatile.context_tokens,
            total=total,
            limit=request.max_prompt_tokens,
        ),
        counts=_total_counts(stable, window, volatile_counts),
        prediction=prediction,
        volatile=volatile,
        breaks=window.breaks,
        repairs=repairs,
        prefix_digest=positions[prefix_at].digest if prefix_at >= 0 else stable.digest,
        lane=Lane(
            first_seq=window.first_seq,
            recall_reserve=window.budget.recall_reserve,
            context_reserve=window.budget.context_reserve,
            stable_digest=stable.digest,
            sent=lane.sent if lane else None,
            built=tail,
            open_turn=OpenTurn(window.open_turn.first_seq, volatile, loop_tail),
            entries=entries,
            last_at=now,
        ),
        tail=tail,
    )


def render_pieces(turns: Sequence[Turn], volatile: Volatile) -> tuple[tuple[Piece, ...], tuple[Repair, ...]]:
    """The messages as content blocks: pairs mended, thinking only in the open turn, the volatile text in its place."""
    open_seq = turns[-1].first_seq
    messages, repairs = repair([message for turn in turns for message in turn.messages])
    pieces: list[Piece] = []
    for message in messages:
        opens = message.seq == open_seq and message.role == "user"
        if opens:
            pieces += [
                _piece("user", message.seq, {"type": "text", "text": text}, volatile=True)
                for text in (volatile.recalled_text, volatile.context_text)
                if text
            ]
        pieces += [
            _piece(message.role, message.seq, block)
            for block in message.content
            if message.seq >= open_seq or block.get("type") not in THINKING_TYPES
        ]
    return tuple(pieces), tuple(repairs)


def _piece(role: str, seq: int, block: Block, *, volatile: bool = False) -> Piece:
    return Piece(role, seq, block, dumps(block), volatile)


def _check_ends_with_user(messages: Sequence[Message]) -> None:
    last = messages[-1] if messages else None
    if last is None:
        raise NoUserMessage("The thread has no messages; append a user message, or send one as `message`.")
    if last.role != "user":
        open_calls = [b["id"] for b in last.content if b.get("type") == "tool_use"]
        if open_calls:
            raise NoUserMessage(
                "The thread ends with tool calls that wait for results; append a user message with a tool_result for "
                f"each of: {', '.join(open_calls)}.",
                code="unanswered_tool_use",
                tool_use_ids=open_calls,
            )
        raise NoUserMessage(
            "The thread ends with an assistant message, so there is nothing to answer; append a user message, or send "
            "one as `message`."
        )


def check_open_calls(open_tool_use_ids: Sequence[str], messages: Sequence[Message]) -> None:
    """Refuse a prompt in the middle of a tool loop, while some calls have a result and others wait for theirs."""
    if open_tool_use_ids and messages and messages[-1].role == "user":
        raise NoUserMessage(
            "Some tool calls still wait for their results; append a user message with a tool_result for each of: "
            f"{', '.join(open_tool_use_ids)}.",
            code="unanswered_tool_use",
            tool_use_ids=list(open_tool_use_ids),
        )


def _context_reserve(context_tokens: int, lane: Lane | None) -> int:
    held = lane.context_reserve if lane else 0
    # Grows with some slack, so that slowly growing contexts re-plan the window rarely.
    return held if context_tokens <= held else context_tokens + context_tokens // 4


def _counts(turn: Turn, *, is_open: bool) -> TokenCounts:
    thinking = sum(m.thinking_tokens for m in turn.messages) if is_open else 0
    return turn.counts + TokenCounts(latin=thinking, text_bytes=4 * thinking)


def _total_counts(stable: StablePart, window: Window, volatile: TokenCounts) -> TokenCounts:
    total = stable.system_counts + stable.tool_counts + volatile
    for turn in window.turns:
        total += _counts(turn, is_open=turn is window.open_turn)
    return total


def _is_cold(request: Request, lane: Lane | None, now: float) -> bool:
    if lane is None or lane.last_at is None or request.ttl_seconds is None:
        return False
    return now - lane.last_at > request.ttl_seconds


def _frozen_volatile(lane: Lane | None, open_turn: Turn, refresh: bool) -> Volatile | None:
    if refresh or lane is None or lane.open_turn is None or lane.open_turn.first_seq != open_turn.first_seq:
        return None
    return lane.open_turn.volatile


def _too_large(request: Request, stable_tokens: int, window_tokens: int, volatile_tokens: int) -> PromptTooLarge:
    needed = stable_tokens + window_tokens + volatile_tokens
    what = "the whole thread" if request.strategy.type == "disabled" else "the newest turn"
    return PromptTooLarge(
        f"The prompt needs about {needed} tokens but max_prompt_tokens is {request.max_prompt_tokens}: "
        f"system and tools {stable_tokens}, {what} {window_tokens}, context {volatile_tokens}. "
        "Raise max_prompt_tokens or shorten one of these.",
        needed_tokens=needed,
        max_prompt_tokens=request.max_prompt_tokens,
        stable_tokens=stable_tokens,
        window_tokens=window_tokens,
        volatile_tokens=volatile_tokens,
    )


def _breaks(
    lane: Lane | None, stable: StablePart, shown: Sequence[Turn], *, trimmed: bool, refresh: bool
) -> tuple[Break, ...]:
    """Every reason why the lane's previous bytes are not extended, with the first message it touches."""
    if lane is None:
        return ()
    first, open_seq = shown[0].first_seq, shown[-1].first_seq
    breaks = []
    if lane.stable_digest != stable.digest:
        breaks.append(Break("instructions_changed", first))
    if trimmed:
        breaks.append(Break("trimmed", first))
    if lane.edited_seq is not None and lane.edited_seq >= first:
        breaks.append(Break("edited", lane.edited_seq))
    turn = lane.open_turn
    if turn and turn.loop_tail is not None and turn.first_seq != open_seq and turn.first_seq >= first:
        breaks.append(Break("turn_closed", turn.first_seq))
    if turn and refresh and turn.first_seq == open_seq and turn.loop_tail is not None:
        breaks.append(Break("refreshed", open_seq))
    return tuple(breaks)


def _markable(request: Request, pieces: Sequence[Piece]) -> list[int]:
    """The pieces on which a breakpoint may stand: nothing volatile, no thinking, and for OpenAI no output of the model."""
    input_only = request.model.cache_rule == "openai_breakpoints"
    return [
        i
        for i, piece in enumerate(pieces)
        if not piece.volatile
        and piece.block.get("type") not in THINKING_TYPES
        and not (input_only and piece.role == "assistant")
    ]


def _marks(
    request: Request,
    pieces: Sequence[Piece],
    markable: Sequence[int],
    window: Window,
    lane: Lane | None,
    history_end: int,
    loop_tail: int | None,
    now: float,
) -> tuple[int, ...]:
    """Breakpoints among the messages, at most three (one is kept for the shared system part)."""
    if request.ttl is None:
        return ()
    marks = {history_end} if history_end >= 0 else set()
    previous_loop_tail = None
    if loop_tail is not None:
        turn = lane.open_turn if lane else None
        if turn and turn.first_seq == window.open_turn.first_seq and turn.loop_tail is not None:
            previous_loop_tail = turn.loop_tail
        for seq in (previous_loop_tail, loop_tail):
            at = max((i for i in markable if i > history_end and pieces[i].seq <= (seq or 0)), default=-1)
            if at >= 0:
                marks.add(at)
    tail = lane.warm_tail(now, request.ttl_seconds) if lane else None
    if tail and previous_loop_tail is None and tail.seq >= window.first_seq:
        at = max((i for i in markable if pieces[i].seq <= tail.seq), default=-1)
        if 0 <= at <= history_end:
            marks.add(at)
    return tuple(sorted(marks)[-(MAX_BREAKPOINTS - 1) :])


def _positions(
    stable: StablePart,
    pieces: Sequence[Piece],
    system_tokens: int,
    tool_tokens: int,
    total: int,
) -> tuple[tuple[Position, ...], list[int]]:
    """All places where a prefix can end, and for each piece the position it belongs to.

    A run of tool calls, and a run of tool results, is one position. Tokens inside a section are shared out by the length
    of the text, since they were estimated for whole messages.
    """
    positions: list[Position] = []
    chain = sha256()
    section_sizes = [(tool_tokens, [dumps(t) for t in stable.tools])]
    section_sizes.append((system_tokens, [dumps(s) for s in (*stable.shared, *stable.own)]))
    before = 0
    for tokens, texts in section_sizes:
        length, seen = sum(map(len, texts)), 0
        for text in texts:
            chain.update(text.encode())
            seen += len(text)
            positions.append(Position(chain.hexdigest(), before + round(tokens * seen / length)))
        before += tokens
    lengths = [len(piece.json) for piece in pieces]
    length, seen = sum(lengths), 0
    message_tokens = total - before
    at_piece: list[int] = []
    previous: Piece | None = None
    for piece, size in zip(pieces, lengths, strict=True):
        chain.update(f"{piece.role}:{piece.json}".encode())
        seen += size
        position = Position(chain.hexdigest(), before + round(message_tokens * seen / length))
        if previous and _same_position(previous, piece):
            positions[-1] = position
        else:
            positions.append(position)
        at_piece.append(len(positions) - 1)
        previous = piece
    return tuple(positions), at_piece


def _same_position(left: Piece, right: Piece) -> bool:
    kind = left.block.get("type")
    return kind in ("tool_use", "tool_result") and right.block.get("type") == kind and left.role == right.role
