"""Which turns a prompt shows verbatim, and whether they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from memory_service.core.budget import Budget, low_water
from memory_service.core.closing import extra, keep, without_thinking
from memory_service.core.lane import Kept, Lane
from memory_service.core.layout import StablePart
from memory_service.core.messages import Message, Repair, Turn, group_turns, is_tool_result, mend
from memory_service.core.request import Request
from memory_service.core.shorten import CountText, Cuts, Shortened, explain, offer_cuts, shorten
from memory_service.core.tokens import Scale, TokenCounts
from memory_service.core.truncation import TurnSize, choose_cut
from memory_service.core.volatile import Volatile
from memory_service.errors import NoUserMessage, PromptTooLarge

# d, the size of a turn, is taken from the newest ones: the same whatever the budget.
_MEASURED_TURNS = 20
# Of the limit: what cutting tool results leaves free for the turn to go on.
_ROOM_LEFT = 1 / 8
_CUT_HINT = "; with truncation_strategy.shorten_tool_results its tool results are cut"


@dataclass(frozen=True, slots=True)
class Break:
    """Why, and from which message on, this prompt does not extend the one before it.

    `differs`: for a new lane, what of the request is not as it was in the thread's newest lane.
    """

    reason: str
    at_seq: int
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """The turns that will be shown verbatim, mended, the last of them open, and what is left for the volatile part.

    `changes` are the reasons why this prompt may not extend the lane's previous one. `cuts` are those of tool results that
    are shown; of `kept` turns, more than their messages. Of the open
    turn, thinking is shown from message `thinking_from` on.
    """

    turns: tuple[Turn, ...]
    repairs: tuple[Repair, ...]
    trimmed: bool
    trim_reason: str | None
    budget: Budget
    counts: TokenCounts
    tokens: int
    frozen: Volatile | None
    changes: tuple[Break, ...]
    cuts: Cuts = field(default_factory=dict)
    shortened: tuple[Shortened, ...] = ()
    kept: tuple[Kept, ...] = ()
    thinking_from: int = 0

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
    def loop_tail(self) -> int | None:
        """The last message, once the open turn is a tool loop: from there on its prompts only append."""
        return self.last_seq if any(m.role == "assistant" for m in self.open_turn.messages) else None

    @property
    def reply_seq(self) -> int:
        """The newest message of the assistant that is shown; 0: there is none."""
        shown = (m for turn in reversed(self.turns) for m in reversed(turn.messages))
        return next((m.seq for m in shown if m.role == "assistant"), 0)

    @property
    def volatile_tokens_left(self) -> int:
        return self.budget.limit - self.budget.stable_tokens - self.tokens


def plan_window(
    request: Request,
    stable: StablePart,
    messages: Sequence[Message],
    lane: Lane | None,
    scale: Scale,
    count: CountText,
    *,
    recall_reserve: int,
    context_tokens: int,
    more_before: bool,
    refresh: bool,
    now: float,
) -> Window:
    """Choose what the prompt shows. `messages` are the lane's window and all newer ones; or the newest of these, enough
    to fill the budget, with `more_before`.

    Raises NoUserMessage when there is nothing to answer and PromptTooLarge, with figures, when what must be shown does
    not fit.
    """
    _check_ends_with_user(messages)
    cold = lane is not None and lane.is_cold(now)
    held = None if cold else lane  # what the lane held back; a dead prefix is planned anew
    budget = Budget(
        limit=request.max_prompt_tokens,
        stable_tokens=sum(stable.needs(scale)),
        recall_reserve=max(recall_reserve, held.recall_reserve if held else 0),
        context_reserve=_context_reserve(context_tokens, held),
    )
    # Under `disabled` what was loaded is too large already, and must be seen to be.
    whole = _whole_turns(messages) if more_before and request.strategy.type != "disabled" else messages
    cuts = lane.cuts if lane else {}
    turns = group_turns(shorten(whole, cuts, count))
    mended, repairs = mend(turns)
    sizes = _sizes(mended, scale)
    kept = () if more_before else keep(request, stable.digest, lane, mended, budget.window_ceiling, scale)
    closed = sizes[-1 - _MEASURED_TURNS : -1] or sizes
    cut = choose_cut(
        sizes,
        request.strategy,
        ceiling=budget.window_ceiling,
        low_water=low_water(
            budget.window_ceiling, sum(s.tokens for s in closed) / len(closed), request.model, request.ttl or "5m"
        ),
        more_before=more_before,
        cold=cold,
        kept_tokens=(kept_tokens := scale.tokens(extra(mended, kept))),
    )
    if cut.reason or more_before or sum([size.tokens for size in sizes]) + kept_tokens > budget.window_ceiling:
        kept = ()  # a trim has all behind it written anew in any case
    # What is mended in a turn may depend on the one before it.
    shown, repairs = mend(turns[cut.index :]) if cut.index else (mended, repairs)
    counts = _counts(shown) + extra(shown, kept)
    moved = cut.index > 0 or more_before
    window = Window(
        turns=shown,
        repairs=repairs,
        trimmed=moved and lane is not None,
        trim_reason=None if not moved else cut.reason if lane else "fresh",
        budget=budget,
        counts=counts,
        tokens=scale.ceil(counts),
        frozen=_frozen_volatile(lane, shown[-1], refresh),
        changes=(),
        kept=kept,
    )
    first_seq = window.first_seq
    visible = [message for message in whole if message.seq >= first_seq]
    window = replace(window, cuts={k: n for k, n in cuts.items() if int(k.split(".", 1)[0]) >= first_seq})
    if request.strategy.shorten_tool_results and len(shown) == 1:
        window = _shorten_to_fit(window, visible, lane, scale, count, context_tokens)
    window = replace(_make_fit(request, window, context_tokens), shortened=explain(visible, window.cuts))
    window = replace(window, changes=_changes(lane, stable, window, refresh)) if lane else window
    return _unbind_thinking(request, lane, window, scale)


def check_open_calls(open_tool_use_ids: Sequence[str], messages: Sequence[Message]) -> None:
    """Refuse a prompt in the middle of a tool loop, while some calls have a result and others wait for theirs."""
    if open_tool_use_ids and messages and messages[-1].role == "user":
        raise _unanswered("Some tool calls still wait for their results", open_tool_use_ids)


def _check_ends_with_user(messages: Sequence[Message]) -> None:
    last = messages[-1] if messages else None
    if last is None:
        raise NoUserMessage("The thread has no messages; append a user message, or send one as `message`.")
    if last.role != "user":
        if open_calls := [b["id"] for b in last.content if b.get("type") == "tool_use"]:
            raise _unanswered("The thread ends with tool calls that wait for results", open_calls)
        raise NoUserMessage(
            "The thread ends with an assistant message, so there is nothing to answer; append a user message, or send "
            "one as `message`."
        )


def _unanswered(problem: str, tool_use_ids: Sequence[str]) -> NoUserMessage:
    return NoUserMessage(
        f"{problem}; append a user message with a tool_result for each of: {', '.join(tool_use_ids)}.",
        code="unanswered_tool_use",
        tool_use_ids=list(tool_use_ids),
    )


def _context_reserve(context_tokens: int, lane: Lane | None) -> int:
    held = lane.context_reserve if lane else 0
    # Grows with some slack, so that slowly growing contexts re-plan the window rarely.
    return held if context_tokens <= held else context_tokens + context_tokens // 4


def _whole_turns(messages: Sequence[Message]) -> Sequence[Message]:
    """Leave out the end of a turn that began before the first message; unless there is nothing else."""
    first = next((i for i, message in enumerate(messages) if message.opens_turn), 0)
    return messages[first:]


def _sizes(turns: Sequence[Turn], scale: Scale) -> list[TurnSize]:
    closed = [TurnSize(len(t.messages), sum([scale.tokens(m.counts) for m in t.messages])) for t in turns[:-1]]
    return [*closed, TurnSize(len(turns[-1].messages), scale.tokens(turns[-1].counts_with_thinking))]


def _counts(turns: Sequence[Turn]) -> TokenCounts:
    closed = [message.counts for turn in turns[:-1] for message in turn.messages]
    return TokenCounts.total([*closed, turns[-1].counts_with_thinking])


def _frozen_volatile(lane: Lane | None, open_turn: Turn, refresh: bool) -> Volatile | None:
    if refresh or lane is None or lane.open_turn is None or lane.open_turn.first_seq != open_turn.first_seq:
        return None
    return lane.open_turn.volatile


def _shorten_to_fit(
    window: Window, messages: Sequence[Message], lane: Lane | None, scale: Scale, count: CountText, context_tokens: int
) -> Window:
    """Cut tool results of the only turn that is shown, given whole in `messages`, if it does not fit.

    At first only results that no prompt has shown; then all, which moves the prefix. What is freed beyond need, where
    that can be, leaves room for the turn to go on without cutting again.
    """
    excess = (window.frozen.tokens if window.frozen else context_tokens) - window.volatile_tokens_left
    if excess <= 0:
        return window
    turn = lane.open_turn if lane and lane.open_turn and lane.open_turn.first_seq == window.first_seq else None
    fresh_after = (turn.loop_tail or turn.first_seq) if turn else -1
    least = window
    ample = excess + window.budget.limit * _ROOM_LEFT
    for after, wanted in ((fresh_after, ample), (fresh_after, excess), (-1, ample), (-1, excess)):
        for cuts in offer_cuts(messages, window.cuts, wanted, after, scale, count):
            turns, repairs = mend(group_turns(shorten(messages, cuts, count)))
            counts = _counts(turns)
            least = replace(window, turns=turns, repairs=repairs, counts=counts, tokens=scale.ceil(counts), cuts=cuts)
            if least.tokens <= window.tokens - excess:
                return least
    return least


def _unbind_thinking(request: Request, lane: Lane | None, window: Window, scale: Scale) -> Window:
    """Leave out of a tool loop the thinking that the model would refuse: it was thought behind something else.

    That is so behind whatever moved, and where no prompt of this lane led to it.
    """
    if not request.model.binds_thinking or window.loop_tail is None:
        return window
    turn = (
        lane.open_turn if lane and lane.open_turn and lane.open_turn.first_seq == window.open_turn.first_seq else None
    )
    moved = turn is None or bool(window.changes)
    thinking_from = window.last_seq + 1 if moved else turn.thinking_from if turn else 0
    turns = (*window.turns[:-1], without_thinking(window.open_turn, thinking_from))
    counts = _counts(turns) + extra(turns, window.kept)
    return replace(window, turns=turns, counts=counts, tokens=scale.ceil(counts), thinking_from=thinking_from)


def _make_fit(request: Request, window: Window, context_tokens: int) -> Window:
    """Give up what was recalled before giving up. Raises PromptTooLarge."""
    frozen = window.frozen
    if frozen and frozen.recalled_text and frozen.tokens > window.volatile_tokens_left:
        frozen = frozen.without_recall()
    needed = frozen.tokens if frozen else context_tokens
    if needed > window.volatile_tokens_left:
        raise _too_large(request, window, needed)
    return replace(window, frozen=frozen)


def _too_large(request: Request, window: Window, volatile_tokens: int) -> PromptTooLarge:
    stable_tokens = window.budget.stable_tokens
    needed = stable_tokens + window.tokens + volatile_tokens
    what = "the whole thread" if request.strategy.type == "disabled" else "the newest turn"
    return PromptTooLarge(
        f"The prompt needs about {needed} tokens but max_prompt_tokens is {request.max_prompt_tokens}: "
        f"system and tools {stable_tokens}, {what} (seq {window.first_seq} to {window.last_seq}) {window.tokens}, "
        f"context {volatile_tokens}. "
        f"Raise max_prompt_tokens or shorten one of these{_CUT_HINT if _could_be_cut(request, window) else ''}.",
        needed_tokens=needed,
        max_prompt_tokens=request.max_prompt_tokens,
        stable_tokens=stable_tokens,
        window_tokens=window.tokens,
        volatile_tokens=volatile_tokens,
        first_seq=window.first_seq,
        last_seq=window.last_seq,
    )


def _could_be_cut(request: Request, window: Window) -> bool:
    results = (is_tool_result(b) for m in window.open_turn.messages for b in m.content)
    return any(results) and len(window.turns) == 1 and not request.strategy.shorten_tool_results


def _changes(lane: Lane, stable: StablePart, window: Window, refresh: bool) -> tuple[Break, ...]:
    """What is different from the lane's previous prompt, with the first message it touches."""
    first, open_seq = window.first_seq, window.open_turn.first_seq
    changes = []
    if lane.stable_digest != stable.digest:
        changed = [name for name, digest in stable.parts.items() if lane.stable_parts.get(name) != digest]
        changes += [Break(f"{name}_changed", first) for name in changed]
    if window.trimmed:
        changes.append(Break("trimmed", first))
    for reason, seq in (("edited", lane.edited_seq), ("deleted", lane.deleted_seq)):
        if seq is not None and seq >= (first if window.trimmed else lane.first_seq):
            changes.append(Break(reason, seq))
    turn = lane.open_turn
    dropped = _first_dropped(lane, window)
    if dropped is not None:
        changes.append(Break("turn_closed", dropped))
    if turn and turn.first_seq == open_seq and refresh:
        changes.append(Break("refreshed", open_seq))
    if (cut := _first_cut(lane, window)) is not None:
        changes.append(Break("shortened", cut))
    if turn and window.frozen and window.frozen != turn.volatile:
        changes.append(Break("recall_dropped", open_seq))
    return tuple(changes)


def _first_dropped(lane: Lane, window: Window) -> int | None:
    """The first closed turn that is not shown any more as it was sent. Without a loop nothing of it was cached."""
    sent = {kept.first_seq for kept in lane.kept}
    if lane.open_turn and lane.open_turn.loop_tail is not None:
        sent.add(lane.open_turn.first_seq)
    still = {window.open_turn.first_seq, *(kept.first_seq for kept in window.kept)}
    return min((seq for seq in sent - still if seq >= window.first_seq), default=None)


def _first_cut(lane: Lane, window: Window) -> int | None:
    """The first message that was shown before with more of its tool results."""
    turn = lane.open_turn
    shown_to = (turn.loop_tail or turn.first_seq) if turn else 0
    changed = [int(key.split(".", 1)[0]) for key, kept in window.cuts.items() if lane.cuts.get(key) != kept]
    return min((seq for seq in changed if seq <= shown_to), default=None)
