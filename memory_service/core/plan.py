"""A prompt in two steps: its window and the room that is left, then all of it together. Between the two somebody looks for
what is recalled into that room.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from memory_service.core.budget import default_recall_tokens
from memory_service.core.lane import Lane
from memory_service.core.layout import StablePart
from memory_service.core.messages import Message
from memory_service.core.prompt import Prompt, assemble
from memory_service.core.quoting import Recalled
from memory_service.core.request import Request
from memory_service.core.shorten import CountText
from memory_service.core.tokens import Scale
from memory_service.core.volatile import Volatile, context_block
from memory_service.core.window import Window, plan_window

# Passages looked at for recall: at least so many, and as many as could fit if each took so few tokens.
_LEAST_RANKED = 64
_LEAST_TOKENS = 20


@dataclass(frozen=True, slots=True)
class RecallSpec:
    """`max_tokens` includes the markup; None takes the default. `query` replaces the user's own text."""

    enabled: bool = True
    max_tokens: int | None = None
    query: str | None = None


@dataclass(frozen=True, slots=True)
class Outline:
    """A prompt up to what it will recall. `query` is what to look for; None when there is nothing to recall."""

    request: Request
    stable: StablePart
    lane: Lane | None
    other_lanes: Mapping[str, Lane]
    shared_sent_at: float | None
    scale: Scale
    window: Window
    context_text: str
    recall_tokens: int
    query: str | None

    @property
    def recalled_text(self) -> str:
        """What earlier turns recalled and the prompt still shows."""
        return "".join(kept.volatile.recalled_text for kept in self.window.kept)

    @property
    def ranked_passages(self) -> int:
        """How many passages are worth looking at."""
        return max(_LEAST_RANKED, self.recall_tokens // _LEAST_TOKENS)


def outline(
    request: Request,
    stable: StablePart,
    messages: Sequence[Message],
    scale: Scale,
    count: CountText,
    *,
    lane: Lane | None,
    other_lanes: Mapping[str, Lane],
    shared_sent_at: float | None,
    recall: RecallSpec,
    context: Sequence[str],
    more_before: bool,
    refresh: bool,
    now: float,
) -> Outline:
    """Choose the window, and what is left for recall.

    `messages` and `more_before` as in `plan_window`; `other_lanes` and `shared_sent_at` as in `assemble`. Raises
    NoUserMessage and PromptTooLarge.
    """
    lane = _recounted(lane, messages, lambda text: scale.ceil(count(text)))
    context_text = context_block(context)
    context_tokens = scale.ceil(count(context_text))
    reserve = recall.max_tokens if recall.max_tokens is not None else default_recall_tokens(request.max_prompt_tokens)
    window = plan_window(
        request,
        stable,
        messages,
        lane,
        scale,
        count,
        recall_reserve=reserve if recall.enabled else 0,
        context_tokens=context_tokens,
        more_before=more_before,
        refresh=refresh,
        now=now,
    )
    recall_tokens = min(reserve, window.volatile_tokens_left - context_tokens)
    query = recall.query if recall.query is not None else window.open_turn.question
    if not recall.enabled or window.frozen is not None or window.first_seq <= 1 or recall_tokens <= 0:
        query = ""
    return Outline(
        request, stable, lane, other_lanes, shared_sent_at, scale, window, context_text, recall_tokens, query or None
    )


def _recounted(lane: Lane | None, messages: Sequence[Message], tokens_of: Callable[[str], int]) -> Lane | None:
    """The lane with its open turn's frozen text counted anew: the estimate may have learnt since it was frozen."""
    turn = lane.open_turn if lane else None
    opener = next((m for m in reversed(messages) if m.opens_turn), next(iter(messages), None))
    if lane is None or turn is None or opener is None or turn.first_seq != opener.seq:
        return lane
    return replace(lane, open_turn=replace(turn, volatile=turn.volatile.recounted(tokens_of)))


def complete(outlined: Outline, recalled: Sequence[Recalled], count: CountText, now: float) -> Prompt:
    """The outlined prompt with what it recalls."""
    scale, window = outlined.scale, outlined.window
    volatile = window.frozen
    if volatile is None:
        volatile = Volatile.of(recalled, outlined.context_text, lambda text: scale.ceil(count(text)))
    return assemble(
        outlined.request,
        outlined.stable,
        window,
        volatile,
        count(volatile.recalled_text) + count(volatile.context_text),
        outlined.lane,
        scale,
        now,
        outlined.other_lanes,
        outlined.shared_sent_at,
    )
