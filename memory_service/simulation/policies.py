"""Ways to build a prompt, and what a model of the provider's prompt cache makes of each.

All go through the engine: its window, its layout and breakpoints, its model of the cache. A baseline differs from the
service in what it asks of them, and so gets breakpoints that are better than most applications place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from memory_service.core.lane import Lane
from memory_service.core.layout import StablePart
from memory_service.core.messages import Message
from memory_service.core.plan import Outline, RecallSpec, complete, outline
from memory_service.core.pricing import Model
from memory_service.core.prompt import Prompt
from memory_service.core.quoting import Recalled, pack, render_block
from memory_service.core.request import Request
from memory_service.core.tokens import Scale, TokenCounts
from memory_service.core.truncation import TruncationStrategy
from memory_service.core.window import Window
from memory_service.errors import PromptTooLarge
from memory_service.services.planning import DEFAULT_MAX_OUTPUT_TOKENS, prior_estimate
from memory_service.simulation.threads import Ask, Thread

_UNBOUNDED = 10**9


@dataclass(frozen=True, slots=True)
class Policy:
    """`recall`: nowhere, before the newest user text, or at the end of the system text. `ttl` as in a request: "auto" lets
    the engine choose, None marks nothing to be cached. `bounded`: kept within the prompt budget.
    """

    name: str
    strategy: TruncationStrategy = TruncationStrategy()
    recall: Literal["none", "tail", "system"] = "none"
    ttl: str | None = "auto"
    bounded: bool = True
    baseline: bool = True


@dataclass(frozen=True, slots=True)
class Played:
    """A request of the replay, with the TTL that was chosen. `prompt` is None where what must be shown does not fit."""

    ask: Ask
    ttl: str | None
    prompt: Prompt | None
    window: Window | None
    recalled: Sequence[Recalled]
    lane: Lane | None


FULL = Policy("full history", TruncationStrategy("disabled"), bounded=False)
SLIDING = Policy("sliding window", TruncationStrategy("sliding"))
LAST_20 = Policy("last 20 messages", TruncationStrategy("last_messages", 20))
IN_SYSTEM = Policy("recall in system", TruncationStrategy("sliding"), recall="system")
AUTO = Policy("auto", baseline=False)
AUTO_RECALL = Policy("auto + recall", recall="tail", baseline=False)


def policies_for(model: Model) -> list[Policy]:
    """What is worth comparing: a TTL where there is a choice, no caching where caching has a price."""
    lifetimes = ("5m", "1h") if model.cache_write_1h_ratio else ()
    ours = [
        variant
        for policy in (AUTO, AUTO_RECALL)
        for variant in (policy, *(replace(policy, name=f"{policy.name}, {ttl}", ttl=ttl) for ttl in lifetimes))
    ]
    marked = model.cache_rule != "longest_prefix"
    uncached = [replace(SLIDING, name="sliding, uncached", ttl=None)] if marked else []
    return [FULL, SLIDING, *uncached, LAST_20, IN_SYSTEM, *ours]


def scale_of(model: Model) -> Scale:
    """The estimate as it is before anything was reported, without a margin: no bias, but some error."""
    return Scale(prior_estimate(model).weights)


def play(
    thread: Thread, policy: Policy, model: Model, limit: int, recall_tokens: int | None = None
) -> Iterator[Played]:
    """Build the prompt of every call that was made in a thread."""
    lane: Lane | None = None
    for ask in thread.asks:
        played = build(thread, policy, model, limit, recall_tokens, ask, thread.messages[: ask.count], lane)
        yield played
        lane = played.lane


def build(
    thread: Thread,
    policy: Policy,
    model: Model,
    limit: int,
    recall_tokens: int | None,
    ask: Ask,
    messages: Sequence[Message],
    lane: Lane | None,
) -> Played:
    """One prompt, for the newest of `messages`; these begin with the thread's."""
    request = Request(
        provider=model.provider,
        model=model,
        model_name=model.name,
        max_prompt_tokens=limit if policy.bounded else _UNBOUNDED,
        max_output_tokens=DEFAULT_MAX_OUTPUT_TOKENS,
        strategy=policy.strategy,
        ttl=policy.ttl,
    ).in_lane(lane, ask.at)
    scale, count = scale_of(model), thread.counter.count
    try:
        outlined = outline(
            request,
            thread.stable,
            messages[lane.first_seq - 1 :] if lane else messages,
            scale,
            count,
            lane=lane,
            other_lanes={},
            shared_sent_at=thread.shared_sent_at(ask.at),
            recall=RecallSpec(policy.recall != "none", recall_tokens),
            context=(),
            more_before=False,
            refresh=False,
            now=ask.at,
        )
    except PromptTooLarge:
        return Played(ask, request.ttl, None, None, (), lane)
    recalled = _recall(thread, policy, outlined)
    if policy.recall == "system" and recalled:
        text = render_block(one.candidate for one in recalled)
        outlined = replace(outlined, stable=_with_text(outlined.stable, text, count(text)))
    prompt = complete(outlined, recalled if policy.recall == "tail" else [], count, ask.at)
    return Played(ask, request.ttl, prompt, outlined.window, recalled, prompt.lane.after_sent(prompt.tail, ask.at))


def _recall(thread: Thread, policy: Policy, outlined: Outline) -> list[Recalled]:
    query, first_seq = outlined.query, outlined.window.first_seq
    if policy.recall == "system" and first_seq > 1:
        # Nothing is frozen there: each call of a tool loop asks again, and finds the same.
        query = outlined.window.open_turn.question
    if not query or outlined.recall_tokens <= 0:
        return []
    found = thread.candidates(first_seq, query, outlined.ranked_passages)
    return pack(
        found,
        outlined.recall_tokens,
        lambda text: outlined.scale.ceil(thread.counter.count(text)),
        outlined.recalled_text,
        outlined.scale.at_least,
    )


def _with_text(stable: StablePart, text: str, counts: TokenCounts) -> StablePart:
    added = stable.system_counts + counts
    return replace(stable, own=(*stable.own, text), system_counts=replace(added, messages=1))
