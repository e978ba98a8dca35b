"""Figures of a replay: every model with every policy, added up over all threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from memory_service.core.pricing import Model
from memory_service.simulation.policies import Played, Policy, play, policies_for
from memory_service.simulation.threads import Thread


@dataclass
class Turn:
    """What the n-th turns of all threads cost, and how many there were."""

    cost_usd: float = 0.0
    count: int = 0


@dataclass
class Outcome:
    """What a policy came to. `refused`: prompts that could not be built, because their newest turn alone is too large."""

    policy: Policy
    model: Model
    limit: int
    prompt_tokens: list[int] = field(default_factory=list)
    read_tokens: int = 0
    written_tokens: int = 0
    uncached_tokens: int = 0
    breaks: int = 0
    over_budget: int = 0
    refused: int = 0
    cost_usd: float | None = 0.0
    turns: list[Turn] = field(default_factory=list)

    def add(self, played: Played, turn: int) -> None:
        """Take in a prompt of the n-th turn (from 0) of its thread."""
        while len(self.turns) <= turn:
            self.turns.append(Turn())
        self.turns[turn].count += played.ask.opens_turn
        if played.prompt is None:
            self.refused += 1
            return
        prediction, total = played.prompt.prediction, played.prompt.tokens.total
        read, written, uncached = (
            prediction.cache_read_tokens,
            prediction.cache_write_tokens,
            prediction.uncached_tokens,
        )
        cost = self.model.cost_usd(read, written, uncached, played.ttl or "5m")
        self.prompt_tokens.append(total)
        self.read_tokens += read
        self.written_tokens += written
        self.uncached_tokens += uncached
        self.breaks += bool(played.prompt.breaks)
        self.over_budget += total > self.limit
        self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost
        self.turns[turn].cost_usd += cost or 0.0

    @property
    def cost_usd_per_prompt(self) -> float | None:
        return None if self.cost_usd is None or not self.prompt_tokens else self.cost_usd / len(self.prompt_tokens)

    @property
    def cache_read_share(self) -> float:
        return self.read_tokens / sum(self.prompt_tokens) if self.prompt_tokens else 0.0

    @property
    def prompt_tokens_p50(self) -> int:
        return sorted(self.prompt_tokens)[len(self.prompt_tokens) // 2] if self.prompt_tokens else 0

    def to_json(self, best: Outcome) -> dict[str, Any]:
        turns = sum(turn.count for turn in self.turns)
        own, least = self.cost_usd_per_prompt, best.cost_usd_per_prompt
        return {
            "policy": self.policy.name,
            "baseline": self.policy.baseline,
            "cost_usd": self.cost_usd,
            "cost_usd_per_turn": None if self.cost_usd is None else self.cost_usd / max(turns, 1),
            "cost_over_best_baseline": own / least if own is not None and least else None,
            "cache_read_share": self.cache_read_share,
            "cache_read_tokens": self.read_tokens,
            "cache_write_tokens": self.written_tokens,
            "uncached_tokens": self.uncached_tokens,
            "prompt_tokens_p50": self.prompt_tokens_p50,
            "prompt_tokens_max": max(self.prompt_tokens, default=0),
            "prompts": len(self.prompt_tokens),
            "breaks": self.breaks,
            "over_budget": self.over_budget,
            "refused": self.refused,
        }


@dataclass(frozen=True, slots=True)
class ModelOutcomes:
    model: Model
    limit: int
    outcomes: Sequence[Outcome]

    @property
    def best_baseline(self) -> Outcome:
        """The cheapest baseline that stays within the budget and shows at least half as much as the service does."""
        shown = max(one.prompt_tokens_p50 for one in self.outcomes if not one.policy.baseline)
        baselines = [one for one in self.outcomes if one.policy.baseline]
        like = [one for one in baselines if not one.over_budget and 2 * one.prompt_tokens_p50 >= shown]
        return min(like or baselines, key=lambda one: one.cost_usd_per_prompt or 0.0)

    def to_json(self) -> dict[str, Any]:
        best = self.best_baseline
        return {
            "model": self.model.name,
            "max_prompt_tokens": self.limit,
            "best_baseline": best.policy.name,
            "policies": [outcome.to_json(best) for outcome in self.outcomes],
        }


def replay(threads: Sequence[Thread], model: Model, limit: int, on_prompt: Callable[[], None]) -> ModelOutcomes:
    outcomes = [Outcome(policy, model, limit) for policy in policies_for(model)]
    for thread in threads:
        for outcome in outcomes:
            turn = -1
            for played in play(thread, outcome.policy, model, limit):
                turn += played.ask.opens_turn
                outcome.add(played, max(turn, 0))
                on_prompt()
    return ModelOutcomes(model, limit, outcomes)


def count_prompts(threads: Sequence[Thread], models: Sequence[Model]) -> int:
    """How often `on_prompt` will be called."""
    return sum(len(thread.asks) for thread in threads) * sum(len(policies_for(model)) for model in models)
