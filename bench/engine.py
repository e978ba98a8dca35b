"""What the context engine saves, by the providers' rules: long conversations are played, every prompt is the core's, and
every bill comes from an independent model of the provider's prompt cache that reads nothing but the requests. No model is
asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench.report import Report, Section, progress
from tests.api import anthropic_rules
from tests.property.checks import anthropic_body
from tests.property.cost_model import LIMIT, Outcome, Policy, human_gap, play, play_learning, play_tools
from tests.property.operations import random_play
from tests.property.simulator import CLAUDE, GPT_EXPLICIT

# Its entries end as they do everywhere, but the engine does not know when, so that it never trims because of it.
_UNKNOWN_TTL = replace(CLAUDE, ttl_seconds=None)


def run(*, quick: bool) -> Report:
    turns = 60 if quick else 800
    progress("engine: policies")
    played = {
        "auto, no recall": play(turns, Policy(recall=False)),
        "auto, recall": play(turns, Policy()),
        "sliding, breakpoints, recall": play(turns, Policy(strategy="sliding")),
        "sliding, nothing cached, recall": play(turns, Policy(strategy="sliding", ttl=None)),
        "OpenAI >= 5.6, auto, recall": play(turns, Policy(model=replace(GPT_EXPLICIT, min_cacheable_tokens=1_024))),
    }
    progress("engine: human gaps")
    human = {
        "5m, never trimmed cold": play(turns, Policy(ttl="5m", model=_UNKNOWN_TTL), gaps=human_gap),
        "5m, trimmed cold": play(turns, Policy(ttl="5m"), gaps=human_gap),
        "1h": play(turns, Policy(ttl="1h"), gaps=human_gap),
        "auto": play(turns, Policy(ttl="auto"), gaps=human_gap),
    }
    return Report(
        "engine",
        [
            Section("Numbers to reach", _targets(played, human, quick=quick)),
            Section(f"Policies, a request a minute, {turns} turns", [_row(*found) for found in played.items()]),
            Section("Lifetimes, 15 % of the gaps over 5 minutes", [_row(*found) for found in human.items()]),
        ],
        [
            f"2k of system text, {LIMIT:,} tokens, lognormal turns of 600, 1,500 of recall; read .1, write 1.25 (1 h: 2)."
        ],
    )


def _targets(played: dict[str, Outcome], human: dict[str, Outcome], *, quick: bool) -> list[dict[str, Any]]:
    progress("engine: tool loops")
    inside, closing = play_tools(1 if quick else 20, 15)
    progress("engine: learning a tokenizer")
    learnt = list(play_learning(30 if quick else 400))
    progress("engine: random threads")
    prompts, broken = _count_broken(20 if quick else 600)
    plain, recall = played["auto, no recall"], played["auto, recall"]
    every = [*played.values(), *human.values()]
    declared = sum(outcome.undeclared for outcome in every)
    saved = 1 - human["auto"].cost / human["5m, never trimmed cold"].cost
    uncached = recall.cost / played["sliding, nothing cached, recall"].cost
    openai = played["OpenAI >= 5.6, auto, recall"]
    return [
        _target(
            "prompts over the limit, of an unknown tokenizer, after 20 reports", sum(r > m for r, m in learnt), "0"
        ),
        _target("prompts that move their prefix without saying so", declared, "0"),
        _target("cache-read share, no recall", plain.read_share, ">= .92", _share),
        _target("cache-read share, recall", recall.read_share, ">= .86", _share),
        _target("input cost over the lower bound, recall", recall.over_bound, "<= 1.4", _ratio),
        _target("input cost over an uncached sliding window, recall", uncached, "<= .22", _share),
        _target("15 tool round trips: read inside the loop", inside.read_share, ">= .95", _share),
        _target("15 tool round trips: with the first request of each turn", closing.read_share, ">= .92", _share),
        _target("human gaps: TTL advisor and cold trim against plain 5m, saved", saved, ">= .2", _share),
        _target("OpenAI >= 5.6: cache-read share, recall", openai.read_share, ">= .84", _share),
        _target(f"invalid prompts of {prompts:,} (edits, deletes, forks, abandoned calls)", broken, "0"),
    ]


def _target(what: str, reached: float, target: str, shown: Callable[[float], str] = str) -> dict[str, Any]:
    """A row; met as the target's own text says."""
    sign, _, limit = target.rpartition(" ")
    met = {"": reached == float(limit), ">=": reached >= float(limit), "<=": reached <= float(limit)}[sign]
    return {"what": what, "reached": shown(reached), "target": target, "met": "yes" if met else "no"}


def _share(value: float) -> str:
    return f"{value:.1%}"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _row(name: str, outcome: Outcome) -> dict[str, Any]:
    requests = len(outcome.bills)
    return {
        "policy": name,
        "cache_read_share": round(outcome.read_share, 3),
        "cost_a_turn": round(outcome.cost / requests),
        "tokens_a_prompt": round(outcome.tokens / requests),
        "cost_over_bound": round(outcome.over_bound, 2),
        "predicted_over_read": round(outcome.agreement, 3),
        "trims": outcome.trims,
        "share_of_1h": round(outcome.hours / requests, 2),
    }


def _count_broken(threads: int) -> tuple[int, int]:
    """Prompts of random threads, and how many of them break a provider's rules."""
    rng = random.Random(1)
    prompts = broken = 0
    for _ in range(threads):
        play_one, steps = random_play(rng)
        for built in play_one.run(steps):
            prompts += 1
            try:
                anthropic_rules.check(anthropic_body(built))
            except AssertionError:
                broken += 1
    return prompts, broken
